"""Training a codec: the loss falls, what is measured is what is saved, and others read it."""

import copy
import json

import pytest
import torch
from bare_trainer import bare_trainer
from diffusers import AutoencoderKL
from tiny import composed

from datamodules.pretraining.stills import StillsData
from unigen.core.canvas import to_unit
from unigen.encoders.folded import FoldedVAE
from unigen.learners.codec import CodecLearner

TINY = {"block_out_channels": [16, 16], "norm_num_groups": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> StillsData:
    made = StillsData(
        size=32,
        kinds={"twemoji": 0.8, "line": 0.2},
        batch_size=8,
        seed=0,
        val_items=6,
        test_items=6,
        cache=tmp_path_factory.mktemp("stills"),
        limit=200,
    )
    made.prepare_data()
    return made


@pytest.fixture
def learner() -> CodecLearner:
    config = copy.deepcopy(composed("+exp=mini/codec"))
    config["encoder"]["codec"]["config"] |= TINY
    config["optimizer"] |= {"lr": 3e-3, "warmup": 5}
    config["trainer"] |= {"max_steps": 40}
    torch.manual_seed(0)
    learner = CodecLearner(config, l1=0.05, kl=1e-5)
    learner.config = config
    return learner


def fit(learner: CodecLearner, data: StillsData, steps: int) -> None:
    bare_trainer(steps, limit_val_batches=1).fit(learner, datamodule=data)


def error(learner: CodecLearner, images: torch.Tensor) -> float:
    x = to_unit(images)
    with torch.no_grad():
        return float((learner.codec.reconstruct(learner.codec.posterior(x).mode()) - x).square().mean())


def test_training_lowers_the_error_on_held_out_images(learner, data):
    (batch,) = data.val_dataloader()
    held_out = batch.images["image"].flatten(0, 1)
    before = error(learner, held_out)
    fit(learner, data, steps=40)
    assert error(learner, held_out) < 0.7 * before


def test_what_is_measured_is_what_is_saved(learner, data, tmp_path):
    learner.settle(data)
    folders = learner.export(tmp_path, learner.config)
    saved = FoldedVAE(dict(learner.codec.vae.config), fold=4)
    saved.vae = AutoencoderKL.from_pretrained(folders[0], torch_dtype=torch.float16).float()
    x = to_unit(data.fit_images(8))[:, None]
    z = learner.codec.encode(x)
    assert torch.equal(saved.encode(x), z) and z.std() == pytest.approx(1, abs=0.3)
    with torch.no_grad():
        learner.codec.vae.encoder.conv_in.bias += 0.1
    assert not torch.equal(saved.encode(x), learner.codec.encode(x)), "negative control"
    assert json.loads((folders[0] / "config.json").read_text())["_class_name"] == "AutoencoderKL"


def test_every_kind_is_measured_alone_between_its_bounds(learner, data):
    found = learner.measure(data, learner.config)
    assert set(found["metrics"]) == {f"{m}_{k}" for m in ("psnr", "ssim", "canny_f1") for k in ("twemoji", "line")}
    assert {s["items"] for s in found["metrics"].values()} == {6} == {found["protocol"]["items"]}
    assert found["metrics"]["ssim_line"]["high"] == pytest.approx(1.0, abs=1e-6)
    assert found["metrics"]["psnr_line"]["value"] != found["metrics"]["psnr_twemoji"]["value"]


def test_samples_are_images_after_the_codec(learner, data):
    (batch,) = data.val_dataloader()
    out = learner.sample(batch, seed=0)["image"]
    assert out.shape == batch.images["image"].shape and out.dtype == torch.uint8
