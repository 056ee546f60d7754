"""What the pipeline hands to Flux and to no other backbone: pooled text, and whether it is sampling."""

import pytest
import torch
from flux_case import config
from tiny import batch, randomise, tiny

from unigen.core.noise import generator
from unigen.pipeline.build import build_pipeline
from unigen.pipeline.guidance import Guided


def pipeline_for(name: str = "flux_mini", *overrides: str):
    pipeline = build_pipeline(tiny(f"backbone={name}", "process=rectified_flow", *overrides))
    for part in (pipeline.backbone, pipeline.embedding):
        randomise(part, 0.1)
    return pipeline


def test_pooled_text_is_made_for_the_backbone_that_takes_it():
    pipeline = pipeline_for()
    found = pipeline.encode(batch(), {}).pooled
    assert torch.equal(found, pipeline.text.pooled(batch().prompts)) and found.shape == (2, 32)
    hidden = pipeline.encode(batch(), {"text": ["empty", None]}).pooled
    assert torch.allclose(hidden[:1], pipeline.text.pooled([""])) and torch.allclose(hidden[1], found[1])
    assert not torch.allclose(hidden[0], found[0], atol=1e-4), "negative control"
    assert build_pipeline(tiny()).encode(batch(), {}).pooled is None, "CogVideoX"


def test_guidance_drops_the_pooled_text_with_the_text():
    """As a run whose prompts are empty; with the shown branch's pooled text it would be another one."""
    pipeline = pipeline_for("flux_mini", "guidance.strength=3.0")
    empty = batch()
    empty.prompts = ["", ""]
    with torch.no_grad():
        shown, clean = pipeline.encode(batch(), {}), pipeline.encode(empty, {})
        [(hidden, strength_B)] = pipeline.guidance.passes(batch().tasks)
        both = Guided(pipeline, shown, [(pipeline.encode(batch(), hidden), strength_B)]).batches[0][1].clean
    assert both.pooled.shape == (4, 32) and both.sampling and not clean.sampling
    torch.testing.assert_close(both.pooled[2:], clean.pooled)
    assert not torch.allclose(both.pooled[:2], clean.pooled, atol=1e-4)


def test_a_distilled_model_is_told_other_guidance_in_sampling_than_in_training_and_validation():
    made = config(guided=True)
    pipeline = build_pipeline(made)
    told, embed = [], pipeline.backbone.model.time_text_embed
    embed.register_forward_pre_hook(lambda _, given: told.extend(given[1].tolist()))
    with torch.no_grad():
        pipeline.training_loss(batch(), generator(0))
        assert set(told) == {1000.0} and pipeline.backbone.eval()
        pipeline.training_loss(batch(), generator(0))
        assert set(told) == {1000.0}, "validation measures what training minimises"
        told.clear()
        guided = Guided(pipeline, pipeline.encode(batch(), {}))
        guided({"target": torch.zeros(2, 6, 64)}, 0.5)
        assert set(told) == {30_000.0}


def test_everything_trained_gets_a_gradient():
    """The loss is on the target alone; every branch reaches it by the keys and values of the last block at least."""
    pipeline = pipeline_for()
    loss, _ = pipeline.training_loss(batch(4), generator(0, "train"))
    loss.backward()
    found = {n: p.grad for n, p in pipeline.backbone.named_parameters()}
    assert len(found) > 50 and not [n for n, g in found.items() if g is None or not (g != 0).any()]
    with_text_apart = pipeline_for("flux_mini", "mask=fcd_b_literal")
    with_text_apart.training_loss(batch(4), generator(0, "train"))[0].backward()
    silent = {n for n, p in with_text_apart.backbone.named_parameters() if not (p.grad != 0).any()}
    assert any(".branches.condition" in n for n in silent), "negative control: the target does not read the condition"


@pytest.mark.parametrize("process", ["vp", "rectified_flow"])
def test_frames_on_flux_learn(process):
    """The same batch twelve times, from the initial weights."""
    pipeline = build_pipeline(tiny("backbone=flux_mini", f"process={process}"))
    optimizer, losses = torch.optim.Adam(pipeline.backbone.parameters(), lr=3e-3), []
    for _ in range(12):
        value, _ = pipeline.training_loss(batch(4), generator(0, "same"))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.9 * losses[0]


def test_a_fill_model_reads_the_condition_in_its_context():
    pipeline, shown = pipeline_for("flux_fill_mini"), batch()
    loss = pipeline.training_loss(shown, generator(0))[0]
    assert loss.isfinite() and torch.equal(loss, pipeline.training_loss(shown, generator(0))[0])
    other = batch()
    other.images["condition0"] = 255 - other.images["condition0"]
    assert not torch.equal(loss, pipeline.training_loss(other, generator(0))[0])


def test_pooled_text_of_another_width_is_refused():
    made = config()
    assert build_pipeline(made)
    made["backbone"]["config"]["pooled_projection_dim"] = 48
    with pytest.raises(ValueError, match="pooled text width: the encoder makes 32, backbone Flux takes 48"):
        build_pipeline(made)
