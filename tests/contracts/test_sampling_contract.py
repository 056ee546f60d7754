"""The sampler over the config folder: conditions never move, a picture is its own, guidance is what it says."""

from itertools import pairwise

import pytest
import torch
from tiny import batch, choices, randomise, tiny

import unigen.pipeline
from unigen.build import build_pipeline
from unigen.pipeline import Guided
from unigen.types import Batch


def pipeline_for(*overrides: str):
    torch.manual_seed(0)
    pipeline = build_pipeline(tiny(*overrides))
    for part in (pipeline.backbone, pipeline.embedding):
        randomise(part, 0.1)
    return pipeline


def only(whole: Batch, *rows: int) -> Batch:
    def take(x):
        return x[list(rows)] if isinstance(x, torch.Tensor) else [x[i] for i in rows]

    images = {n: take(x) for n, x in whole.images.items()}
    return Batch(whole.slots, images, *(take(x) for x in (whole.prompts, whole.subjects, whole.tasks, whole.keys)))


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal pictures up to a grey level, which other batch shapes may round otherwise."""
    return (a.int() - b.int()).abs().max() <= 1


@pytest.mark.parametrize("solver", choices("solver"))
@pytest.mark.parametrize("formatter", choices("formatter"))
def test_clean_conditions_are_exactly_preserved(monkeypatch, solver, formatter):
    """And those that the formatter noises are not."""
    pipeline = pipeline_for(f"solver={solver}", f"formatter={formatter}", "solver.guidance=3.0")
    seen, integrate = [], unigen.pipeline.integrate

    def watched(predict, state, *rest):
        def noted(now, t):
            seen.append({n: x.clone() for n, x in now.items()})
            return predict(now, t)

        seen.append(integrate(noted, state, *rest))
        return seen[-1]

    monkeypatch.setattr(unigen.pipeline, "integrate", watched)
    out = pipeline.sample(batch(), seed=0)
    assert out.keys() == {"target"} and out["target"].shape == (2, 1, 3, 32, 48) and out["target"].dtype == torch.uint8
    with torch.no_grad():
        clean = pipeline.encode(batch(), {}).features["condition0"]
    waits = pipeline.plan(batch().slots).layout["condition0"].cap == 0
    assert len(seen) == 4 and all(torch.equal(state["condition0"], clean) == waits for state in seen)
    moved = [a["target"] - b["target"] for a, b in pairwise(seen)]
    assert all((x != 0).any() for x in moved), "negative control: the target walks"


@pytest.mark.parametrize("solver", choices("solver"))
def test_a_picture_does_not_depend_on_its_batch_mates(solver):
    """Nor on its place among them; on its key and the seed it does."""
    pipeline, whole = pipeline_for(f"solver={solver}", "solver.guidance=3.0"), batch(3)
    together = pipeline.sample(whole, seed=0)["target"]
    turned = pipeline.sample(only(whole, 2, 0), seed=0)["target"]
    assert close(turned[0], together[2]) and close(turned[1], together[0])
    renamed = only(whole, 0)
    renamed.keys = ["other"]
    assert not close(pipeline.sample(renamed, seed=0)["target"][0], together[0])
    assert not close(pipeline.sample(only(whole, 0), seed=1)["target"][0], together[0])


def test_sampling_repeats():
    pipeline = pipeline_for("solver=dpm", "solver.guidance=3.0")
    assert torch.equal(pipeline.sample(batch(), 0)["target"], pipeline.sample(batch(), 0)["target"])
    assert not torch.equal(pipeline.sample(batch(), 0)["target"], pipeline.sample(batch(), 1)["target"])


def guided(pipeline, guidance: float, t: float = 0.6) -> torch.Tensor:
    pipeline.solver.guidance = guidance
    with torch.no_grad():
        clean = pipeline._branches(batch())
        state = {"condition0": clean.features["condition0"][:2], "target": torch.ones(2, 6, 128)}
        return Guided(pipeline, clean, 2)(state, t)["target"]


def test_guidance_is_the_line_through_both_branches():
    pipeline = pipeline_for()
    shown, hidden = guided(pipeline, 1.0), guided(pipeline, 0.0)
    torch.testing.assert_close(guided(pipeline, 1.0 + 1e-9), shown, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(guided(pipeline, 6.0), hidden + 6 * (shown - hidden), rtol=1e-4, atol=1e-4)
    assert (shown - hidden).abs().max() > 1e-3, "negative control: both branches alike would pass"


def test_the_hidden_branch_is_the_empty_prompt():
    pipeline = pipeline_for()
    hidden = guided(pipeline, 0.0)
    empty = batch()
    empty.prompts = ["", ""]
    with torch.no_grad():
        clean = pipeline.encode(empty, {})
        state = {"condition0": clean.features["condition0"], "target": torch.ones(2, 6, 128)}
        pipeline.solver.guidance = 1.0
        torch.testing.assert_close(Guided(pipeline, clean, 2)(state, 0.6)["target"], hidden, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(guided(pipeline, 1.0), hidden, atol=1e-3), "negative control"


def test_dropping_the_condition_hides_its_picture():
    pipeline = pipeline_for("solver.drop=[condition]")
    other = batch(seed=7)
    for hide in (True, False):
        mark = {"condition": torch.tensor([hide, False])}
        a, b = (pipeline.encode(x, mark).features["condition0"] for x in (batch(), other))
        assert torch.equal(a[0], b[0]) == hide and not torch.equal(a[1], b[1])
        assert bool((a[0] == 0).all()) == hide
