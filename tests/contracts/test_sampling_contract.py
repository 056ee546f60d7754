"""The sampler over the config folder: conditions never move, an image is its own, guidance is what it says."""

from itertools import pairwise

import pytest
import torch
from tiny import batch, choices, crossed, randomise, tiny

import unigen.pipeline.pipeline
from unigen.config.values import ConfigError
from unigen.core.types import Batch
from unigen.learners.denoising import check_tasks
from unigen.pipeline.build import build_pipeline
from unigen.pipeline.guidance import Guidance, Guided


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
    """Equal images up to a grey level, which other batch shapes may round otherwise."""
    return (a.int() - b.int()).abs().max() <= 1


@pytest.mark.parametrize(("solver", "formatter"), crossed(choices("solver"), choices("formatter")))
def test_clean_conditions_are_exactly_preserved(monkeypatch, solver, formatter):
    """And those that the formatter noises are not."""
    pipeline = pipeline_for(f"solver={solver}", f"formatter={formatter}", "guidance.strength=3.0")
    seen, integrate = [], unigen.pipeline.pipeline.integrate

    def watched(predict, state, *rest):
        def noted(now, t):
            seen.append({n: x.clone() for n, x in now.items()})
            return predict(now, t)

        seen.append(integrate(noted, state, *rest))
        return seen[-1]

    monkeypatch.setattr(unigen.pipeline.pipeline, "integrate", watched)
    out = pipeline.sample(batch(), seed=0)
    assert out.keys() == {"target"} and out["target"].shape == (2, 1, 3, 32, 48) and out["target"].dtype == torch.uint8
    with torch.no_grad():
        clean = pipeline.encode(batch(), {}).features["condition0"]
    waits = pipeline.plan(batch().slots).layout["condition0"].cap == 0
    states = 3 + (getattr(pipeline.solver, "count", "steps") == "steps")  # three steps, or three points
    assert len(seen) == states and all(torch.equal(state["condition0"], clean) == waits for state in seen)
    moved = [a["target"] - b["target"] for a, b in pairwise(seen)]
    assert all((x != 0).any() for x in moved), "negative control: the target walks"


@pytest.mark.parametrize("solver", choices("solver"))
def test_an_image_does_not_depend_on_its_batch_mates(solver):
    """Nor on its place among them; on its key and the seed it does."""
    pipeline, whole = pipeline_for(f"solver={solver}", "guidance.strength=3.0"), batch(3)
    together = pipeline.sample(whole, seed=0)["target"]
    turned = pipeline.sample(only(whole, 2, 0), seed=0)["target"]
    assert close(turned[0], together[2]) and close(turned[1], together[0])
    renamed = only(whole, 0)
    renamed.keys = ["other"]
    assert not close(pipeline.sample(renamed, seed=0)["target"][0], together[0])
    assert not close(pipeline.sample(only(whole, 0), seed=1)["target"][0], together[0])


def test_sampling_repeats():
    pipeline = pipeline_for("solver=dpm", "guidance.strength=3.0")
    assert torch.equal(pipeline.sample(batch(), 0)["target"], pipeline.sample(batch(), 0)["target"])
    assert not torch.equal(pipeline.sample(batch(), 0)["target"], pipeline.sample(batch(), 1)["target"])


def guided(pipeline, *strengths: float, t: float = 0.6) -> torch.Tensor:
    """Predictions for two samples under one strength or one each; one of 1 is both branches' line, or no second one."""
    with torch.no_grad():
        shown = pipeline.encode(batch(), {})
        hidden = pipeline.encode(batch(), {"text": ["empty", "empty"]}), torch.tensor(strengths).expand(2)
        passes = [] if set(strengths) == {1.0} else [hidden]
        state = {"condition0": shown.features["condition0"], "target": torch.ones(2, 6, 128)}
        return Guided(pipeline, shown, passes)(state, t)["target"]


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
        alone = Guided(pipeline, clean)(state, 0.6)["target"]
        torch.testing.assert_close(alone, hidden, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(guided(pipeline, 1.0), hidden, atol=1e-3), "negative control"


def test_each_sample_has_the_strength_and_the_hidden_roles_of_its_task():
    """One universal run: 6 for customization and 2 for maps (RealGeneral, section 4.1)."""
    pipeline = pipeline_for()
    mixed, six, two = guided(pipeline, 6.0, 2.0), guided(pipeline, 6.0), guided(pipeline, 2.0)
    torch.testing.assert_close(mixed, torch.stack([six[0], two[1]]), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(six[1], two[1], atol=1e-3), "negative control"
    by_task = Guidance(2.0, ["text"], {"subject": {"strength": 6.0}, "depth": {"drop": ["text", "condition"]}})
    [(_, strength_B)] = by_task.passes(["subject", "canny", "depth"])
    assert strength_B.tolist() == [6.0, 2.0, 2.0]
    [(hidden, strength_B)] = by_task.at(3.0).passes(["subject", "depth"])
    assert hidden == {"text": ["empty", "empty"], "condition": [None, "zero"]}
    assert strength_B.tolist() == [3.0, 3.0] and by_task.at(1.0).passes(["subject", "depth"]) == []
    refused = {
        r"guidance\.by_task\.subject\.scale is unknown; legal are strength and drop": {"subject": {"scale": 6.0}},
        r"guidance\.by_task\.subject is 6; legal is a table": {"subject": 6},
        r"guidance\.by_task\.subject\.strength is None; it must be a number": {"subject": {"strength": None}},
        r"guidance\.by_task\.subject\.drop is 'text'; it must be a list": {"subject": {"drop": "text"}},
        r"guidance\.by_task\.subject\.drop names 'target', which is generated": {"subject": {"drop": ["target"]}},
    }
    for said, own in refused.items():
        with pytest.raises(ValueError, match=said):
            Guidance(2.0, [], own)


def test_an_exception_for_a_task_that_the_data_do_not_have_is_refused():
    pipeline = pipeline_for()
    pipeline.guidance = Guidance(2.0, ["text"], {"canny": {"strength": 6.0}})
    with pytest.raises(ConfigError, match=r"task 'canny', which the data do not have; did you mean 'canny>target'"):
        check_tasks(pipeline, ("canny>target",))
    pipeline.guidance = Guidance(2.0, ["text"], {"canny>target": {"strength": 6.0}})
    check_tasks(pipeline, ("canny>target",))
    pipeline.guidance = Guidance(2.0, ["text"], {"cany>target": {"strength": 6.0}})
    with pytest.raises(ConfigError, match=r"do not have; did you mean 'canny>target'\? They have grey>target, canny"):
        check_tasks(pipeline, ("grey>target", "canny>target"))


def test_a_samples_image_does_not_depend_on_the_tasks_of_its_batch_mates():
    pipeline, whole = pipeline_for("solver.steps=2", "conditioning/embedding=none"), batch()
    pipeline.guidance = Guidance(1.0, ["text"], {"subject": {"strength": 4.0}})
    alike = pipeline.sample(whole, 0)["target"].int()
    whole.tasks = ["subject", whole.tasks[1]]
    mixed = pipeline.sample(whole, 0)["target"].int()
    assert (mixed[1] - alike[1]).abs().max() <= 1 and (mixed[0] - alike[0]).abs().max() > 1


def test_dropping_the_condition_hides_its_image():
    pipeline = pipeline_for("guidance.drop=[condition]")
    other = batch(seed=7)
    for hide in (True, False):
        mark = {"condition": ["zero" if hide else None, None]}
        a, b = (pipeline.encode(x, mark).features["condition0"] for x in (batch(), other))
        assert torch.equal(a[0], b[0]) == hide and not torch.equal(a[1], b[1])
        assert bool((a[0] == 0).all()) == hide
