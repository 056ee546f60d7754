"""Training the judge: its losses, that they fall, what is measured, that what is measured is what is saved."""

import copy
import math

import lightning as L
import pytest
import torch
from bare_trainer import bare_trainer
from tiny import composed
from tiny_judge import CLIP, VISION

from datamodules.pretraining.pairs import PairsData
from unigen.learners.judge import JudgeLearner
from unigen.metrics.judge import Judge, info_nce, retrieval

RETRIEVALS = {"style_retrieval_clip", "style_retrieval_dino", "caption_retrieval"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> PairsData:
    made = PairsData(size=32, limit=280, cache=tmp_path_factory.mktemp("pairs"), batch_size=16, test_items=12)
    made.prepare_data()
    return made


@pytest.fixture(scope="module")
def config() -> dict:
    made = copy.deepcopy(composed("+exp=mini/judge"))
    made["optimizer"] |= {"lr": 3e-3, "warmup": 5}
    made["trainer"] |= {"max_steps": 30}
    return made


@pytest.fixture
def learner(config) -> JudgeLearner:
    return JudgeLearner(config, CLIP, VISION)


class Losses(L.Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.values.append(float(outputs["loss"].detach()))


def trainer(steps: int, *callbacks: L.Callback, **options) -> L.Trainer:
    return bare_trainer(steps, callbacks=list(callbacks), **options)


def test_training_lowers_every_loss(learner, data):
    batch = next(iter(data.train_dataloader()))
    before = {name: float(value.detach()) for name, value in learner._losses(batch)[0].items()}
    seen, temperatures = Losses(), learner.log_scales.detach().clone()
    trainer(30, seen, limit_val_batches=0).fit(learner, datamodule=data)
    after = {name: float(value.detach()) for name, value in learner._losses(batch)[0].items()}
    assert sum(seen.values[-5:]) / 5 < sum(seen.values[:5]) / 5
    assert set(after) == set(before) == {"text", "plain_text", "pair", "view"}
    assert all(after[name] < before[name] for name in before), (before, after)
    assert (learner.log_scales - temperatures).abs().min() > 0


def test_the_losses_are_of_the_pairs_they_name(learner, data):
    batch = next(iter(data.train_dataloader()))
    losses, _ = learner._losses(batch)
    judge, scale = learner.judge, learner.log_scales[0]
    first, second = (batch.images[name][:, 0] for name in ("first", "second"))
    one, other, words = judge.embed_images(first), judge.embed_images(second), judge.embed_texts(batch.prompts)
    expected = {
        "text": info_nce(other, words, judge.clip.logit_scale),
        "pair": info_nce(one, other, scale),
        "view": info_nce(judge.view_embed(first), judge.view_embed(second), scale),
    }
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)
    plain = torch.tensor([not prompt.endswith(" style") for prompt in batch.prompts])
    assert 0 < plain.sum() < len(batch)
    value = info_nce(one[plain], words[plain], judge.clip.logit_scale)
    torch.testing.assert_close(losses["plain_text"], value, rtol=1e-4, atol=1e-5)
    assert abs(losses["plain_text"] - info_nce(one, words, judge.clip.logit_scale)) > 1e-3
    batch.prompts = [f"{prompt}, twemoji style" for prompt in batch.prompts]
    assert set(learner._losses(batch)[0]) == set(expected)


def test_words_do_not_reach_dino(learner, data):
    """It is trained on images alone."""
    losses, _ = learner._losses(next(iter(data.train_dataloader())))
    losses["view"].backward(retain_graph=True)
    assert all(p.grad is None for p in learner.judge.clip.parameters())
    assert any(p.grad is not None for p in learner.judge.dino.parameters())
    learner.zero_grad(set_to_none=True)
    (losses["text"] + losses["plain_text"] + losses["pair"]).backward()
    assert all(p.grad is None for p in learner.judge.dino.parameters())
    assert any(p.grad is not None for p in learner.judge.clip.parameters())


def test_validation_logs_the_loss_and_the_retrievals(learner, data):
    run = trainer(1)
    (logged,) = run.validate(learner, datamodule=data, verbose=False)
    assert {f"val/{name}" for name in RETRIEVALS} < set(logged)
    assert math.isfinite(logged["val/loss"]) and all(0 <= logged[f"val/{name}"] <= 1 for name in RETRIEVALS)


def test_measure_is_the_retrieval_on_the_test_glyphs(learner, data, config):
    learner.eval()
    measured = learner.measure(data, config)
    scores, items = measured["metrics"], measured["protocol"]["items"]
    assert set(scores) == RETRIEVALS | {f"{name}_top5" for name in RETRIEVALS} and items == 12
    batch = next(iter(data.test_dataloader()))
    with torch.no_grad():
        first, second = (learner.judge.embed_images(batch.images[name][:, 0]) for name in ("first", "second"))
        views = [learner.judge.view_embed(batch.images[name][:, 0]) for name in ("first", "second")]
        words = learner.judge.embed_texts(batch.prompts)
    for k, suffix in ((1, ""), (5, "_top5")):
        assert scores[f"style_retrieval_clip{suffix}"]["value"] == retrieval(first, second, k)
        assert scores[f"style_retrieval_dino{suffix}"]["value"] == retrieval(*views, k)
        assert scores[f"caption_retrieval{suffix}"]["value"] == retrieval(words, second, k)
        for name in RETRIEVALS:
            score = scores[f"{name}{suffix}"]
            assert score["low"] == pytest.approx(k / 12) and score["better"] == "higher" and score["items"] == 12
            assert score["low"] < score["high"] <= 1
    assert all(isinstance(value, str | int) for value in measured["protocol"].values())


def test_equal_questions_lower_the_upper_bound(learner, data, config):
    class Doubled:
        def test_dataloader(self):
            for batch in data.test_dataloader():
                batch.prompts[1] = batch.prompts[0]
                batch.images["first"][2] = batch.images["first"][3] = batch.images["first"][4]
                yield batch

    plain, doubled = (learner.measure(source, config)["metrics"] for source in (data, Doubled()))
    assert plain["caption_retrieval"]["high"] == plain["style_retrieval_dino"]["high"] == 1
    assert doubled["caption_retrieval"]["high"] == pytest.approx(11 / 12)
    assert doubled["style_retrieval_clip"]["high"] == doubled["style_retrieval_dino"]["high"] == pytest.approx(10 / 12)
    assert doubled["caption_retrieval_top5"]["high"] == 1


def test_what_is_measured_is_what_is_saved(learner, data, config, tmp_path):
    x = next(iter(data.test_dataloader())).images["first"][:, 0]
    learner.eval()
    with torch.no_grad():
        unsettled = learner.judge.embed_images(x)
        learner.settle(data)
        settled = learner.judge.embed_images(x)
    assert learner.export(tmp_path, config) == [tmp_path / "judge"]
    loaded = Judge.load(str(tmp_path / "judge"), "k")
    assert torch.equal(settled, loaded.embed_images(x)) and not torch.equal(settled, unsettled)
    assert sorted(path.name for path in (tmp_path / "judge").iterdir()) == ["clip", "dino"]


def test_the_header_says_what_is_trained(learner, data, config, capsys):
    learner.print_header(data.slots, config)
    said = capsys.readouterr().out
    assert "mini_judge" in said and "CLIPModel" in said and "CLIPVisionModelWithProjection" in said
    assert f"{sum(p.numel() for p in learner.judge.dino.parameters()):,}" in said
    with torch.device("meta"):
        JudgeLearner(config, CLIP, VISION).print_header(data.slots, config)
    assert capsys.readouterr().out == said


def test_the_recipe_builds_its_learner_and_data():
    from unigen.pipeline.build import build, build_learner

    recipe = composed("+exp=mini/judge")
    with torch.device("meta"):
        made = build_learner(recipe)
    assert isinstance(made, JudgeLearner) and isinstance(build(recipe["data"]), PairsData)
    assert recipe["name"] == "mini_judge" and recipe["data"]["test_items"] == 256
    assert sum(p.numel() for p in made.judge.parameters()) < 3e6
