"""A pretrained base is a stock model: loaded through the ordinary path it predicts what the learner did."""

import json

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from tiny import batch, randomise, slots, tiny, tokens_for
from transformers import T5EncoderModel

from unigen.learners.pretraining import Pretraining
from unigen.pipeline.build import build_pipeline

STOCK = ("conditioning/modulation=shared", "conditioning/embedding=none", "conditioning/adapter=full", "mask=fcd_d")


def learner(*overrides: str) -> Pretraining:
    torch.manual_seed(0)
    made = Pretraining(tiny(*(overrides or STOCK)))
    randomise(made.parts)
    made.settle(None)
    return made


def predictions(pipeline) -> torch.Tensor:
    plan = pipeline.plan(slots())
    tokens = tokens_for(plan.layout, pipeline.backbone, size=2)
    with torch.no_grad():
        times = pipeline.times(plan.layout, torch.tensor([0.3, 0.8]))
        return torch.cat(list(pipeline.backbone(tokens, times, pipeline.mask).values()), dim=1)


def saved(tmp_path, made: Pretraining, name: str = "mini_base"):
    config = tiny(*STOCK) | {"name": name}
    return config, made.export(tmp_path, config)


def test_the_export_is_a_stock_model_that_predicts_the_same(tmp_path):
    made = learner()
    config, folders = saved(tmp_path, made)
    assert [f.name for f in folders] == ["base", "text_encoder"]
    assert json.loads((folders[0] / "config.json").read_text())["_class_name"] == "CogVideoXTransformer3DModel"
    stock = CogVideoXTransformer3DModel.from_pretrained(folders[0], torch_dtype=torch.float16)
    assert not [name for name, _ in stock.named_parameters() if "branches" in name]
    (tmp_path / "whole").mkdir()
    folders[0].rename(tmp_path / "whole" / "transformer")
    config["backbone"]["pretrained"] = str(tmp_path / "whole")
    again = build_pipeline(config)
    again.backbone.float()
    assert torch.equal(predictions(again), predictions(made.pipeline))
    with torch.no_grad():
        made.pipeline.backbone.model.transformer_blocks[0].norm1.branches["text"].bias += 0.1
    assert not torch.equal(predictions(again), predictions(made.pipeline)), "negative control"


def test_the_text_encoder_goes_with_it(tmp_path):
    made = learner()
    _, folders = saved(tmp_path, made)
    stock = T5EncoderModel.from_pretrained(folders[1]).float().eval()
    ours = made.pipeline.text.model
    assert all(torch.equal(a, b) for a, b in zip(stock.parameters(), ours.parameters(), strict=True))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((*STOCK[1:], "conditioning/modulation=sc_adaln"), "visual branches condition, target"),
        ((STOCK[0], STOCK[1], STOCK[3], "conditioning/adapter=lora"), "with a LoRA is no stock model"),
    ],
)
def test_what_is_no_stock_model_is_refused(overrides, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        learner(*overrides).pipeline.backbone.stock()


def test_forms_with_a_condition_are_measured_each_alone():
    made = learner()
    config = tiny(*STOCK) | {"metric": {"psnr": {"_target_": "unigen.metrics.pixels.PSNR"}}}
    first, second = batch(2), batch(2, seed=1)
    first.keys, second.keys = ["clip-0/next", "clip-1/next"], ["clip-0/continue", "clip-1/continue"]
    without = batch(2, conditions=0)
    without.keys = ["clip-0/still", "clip-1/still"]

    class Data:
        @staticmethod
        def test_dataloader():
            return [first, second, without]

    found = made.measure(Data, config)
    assert set(found["metrics"]) == {"psnr_next", "psnr_continue"} and found["protocol"]["items"] == 2
    assert found["metrics"]["psnr_next"]["value"] != found["metrics"]["psnr_continue"]["value"]
