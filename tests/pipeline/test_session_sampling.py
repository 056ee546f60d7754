"""Sessions in training and sampling: the past never sees the future, and a turn is sampled as it was trained."""

import pytest
import torch
from tiny import randomise, tiny

from unigen.core import canvas, noise, turns
from unigen.core.types import Batch, ImageSlot
from unigen.pipeline.build import build_pipeline
from unigen.pipeline.guidance import Guided

FAMILIES = {
    "cogvideox": (),
    "flux": ("backbone=flux_mini", "process=rectified_flow", "solver=euler"),
    "flux2": ("backbone=flux2_mini", "process=rectified_flow", "solver=euler"),
    "wan": ("backbone=wan_mini", "process=rectified_flow", "solver=euler_static"),
    "qwen_image": ("backbone=qwen_image_mini", "process=rectified_flow", "solver=euler"),
    "hunyuan_video": ("backbone=hunyuan_video_mini", "process=rectified_flow", "solver=euler_static"),
}
OWN = dict.fromkeys(("text", "condition", "example", "target", "buffer"), "own")
TURNS = 3


def pipeline_for(family: str, *words: str):
    torch.manual_seed(0)
    config = tiny("mask=turns", "conditioning/embedding=none", *FAMILIES[family], *words)
    config["conditioning"]["modulation"]["timing"] = OWN
    pipeline = build_pipeline(config)
    randomise(pipeline.backbone, 0.1)
    return pipeline


def session(size: int = 2, **changed: torch.Tensor) -> Batch:
    """A condition and three targets of random pixels, and a line for each turn."""
    g = torch.Generator().manual_seed(0)
    slots = (ImageSlot("c", "condition", 32, 48), *(ImageSlot(f"x{i}", "target", 32, 48, row=i) for i in range(TURNS)))
    images = {s.name: torch.randint(0, 256, (size, 1, 3, 32, 48), generator=g, dtype=torch.uint8) for s in slots}
    prompts = ["\n".join(f"line {turn} of {i}" for turn in range(TURNS)) for i in range(size)]
    keys = [f"item{i}" for i in range(size)]
    return Batch(slots, images | changed, prompts, [()] * size, ["chain"] * size, keys)


@pytest.fixture(scope="module", params=FAMILIES)
def pipeline(request):
    return pipeline_for(request.param)


def predicted(pipeline, batch: Batch, t: float = 0.7) -> dict[str, torch.Tensor]:
    """What training predicts for every target."""
    plan, size = pipeline.plan(batch.slots), len(batch)
    eps = pipeline.draw_noise(plan, [noise.generator(i) for i in range(size)])
    with torch.no_grad():
        clean, t_B = pipeline.encode(batch, {}), torch.full((size,), t)
        noisy = {n: pipeline.process.corrupt(clean.features[n], e, t_B) for n, e in eps.items()}
        found = pipeline.backbone(clean.updated(noisy), pipeline.times(plan.layout, t_B), pipeline.mask)
    return {n: found[n] for n in plan.targets}


def differ(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() > 1e-3 * a.abs().max())


def test_a_target_depends_on_no_later_turn_and_not_on_its_own_clean_copy(pipeline):
    whole = session()
    before = predicted(pipeline, whole)
    later = session(x1=255 - whole.images["x1"], x2=255 - whole.images["x2"])
    later.prompts = [f"{prompt.splitlines()[0]}\nother\nwords" for prompt in whole.prompts]
    assert torch.allclose(predicted(pipeline, later)["x0"], before["x0"], atol=1e-5)
    after = predicted(pipeline, session(x0=255 - whole.images["x0"]))
    assert differ(after["x1"], before["x1"]) and differ(after["x2"], before["x2"]), "the past is seen"


def test_the_gradient_of_a_turn_reaches_no_later_one(pipeline):
    whole = session(1)
    plan, t_B = pipeline.plan(whole.slots), torch.tensor([0.6])
    clean = pipeline.encode(whole, {})
    inputs = {n: x.detach().clone().requires_grad_() for n, x in clean.features.items()}
    found = pipeline.backbone(clean.updated(inputs), pipeline.times(plan.layout, t_B), pipeline.mask)
    grads = torch.autograd.grad(found["x1"].square().sum(), list(inputs.values()), allow_unused=True)
    reached = {n for n, g in zip(inputs, grads, strict=True) if g is not None and bool((g != 0).any())}
    assert reached == {"text0", "text1", "c", "x0_finished", "x1"}


@pytest.mark.parametrize("turn", range(TURNS))
def test_the_part_of_a_turn_predicts_what_training_predicts(pipeline, turn):
    """With the true images as finished targets, and with all that is static computed once, as sampling does."""
    whole = session()
    part = turns.parts(pipeline.plan(whole.slots))[turn]
    finished = {again.name: whole.images[name] for name, again in turns.copies(whole.slots).items()}
    with torch.no_grad():
        shown = pipeline.encode(session(**finished), {}, plan=part)
        guided = Guided(pipeline, shown)
        plan = pipeline.plan(whole.slots)
        eps = pipeline.draw_noise(plan, [noise.generator(i) for i in range(2)])
        name = f"x{turn}"
        state = {name: pipeline.process.corrupt(shown.features[name], eps[name], torch.full((2,), 0.7))}
        found = guided(state, 0.7)
    assert set(guided.batches[0][1].active.names) == {name}, "all else is computed once"
    torch.testing.assert_close(found[name], predicted(pipeline, whole)[name], rtol=1e-4, atol=1e-4)
    wrong = {n: 255 - x for n, x in finished.items()} | {"c": 255 - whole.images["c"]}
    with torch.no_grad():
        other = Guided(pipeline, pipeline.encode(session(**wrong), {}, plan=part))(state, 0.7)
    assert differ(other[name], found[name]), "negative control"


def test_sampling_never_reads_the_true_targets_and_hands_each_on(pipeline):
    whole = session()
    outputs = pipeline.sample(whole, seed=0)
    assert list(outputs) == ["x0", "x1", "x2"]
    blank = session(**{f"x{i}": torch.zeros_like(whole.images["x0"]) for i in range(TURNS)})
    assert all(torch.equal(x, outputs[n]) for n, x in pipeline.sample(blank, seed=0).items())
    said = session()
    said.prompts = ["\n".join([*p.split("\n")[:-1], "something else"]) for p in whole.prompts]
    changed = pipeline.sample(said, seed=0)
    assert torch.equal(changed["x0"], outputs["x0"]) and torch.equal(changed["x1"], outputs["x1"])
    assert not torch.equal(changed["x2"], outputs["x2"])
    shown = pipeline.sample(session(c=255 - whole.images["c"]), seed=0)
    assert all(not torch.equal(shown[n], outputs[n]) for n in outputs), "negative control"


def test_turns_have_noise_of_their_own(pipeline):
    plan = pipeline.plan(session().slots)
    drawn = pipeline.draw_noise(plan, [noise.generator(i) for i in range(2)])
    assert list(drawn) == ["x0", "x1", "x2"] and not torch.equal(drawn["x0"], drawn["x1"])


def test_a_session_trains_on_all_of_its_turns(pipeline):
    loss, parts = pipeline.training_loss(session(), noise.generator(0))
    assert list(parts) == ["x0", "x1", "x2"] and torch.isfinite(loss)
    assert torch.isclose(loss.detach(), torch.stack(list(parts.values())).mean(), rtol=1e-5)


def test_hidden_text_is_hidden_in_every_turn():
    pipeline = pipeline_for("flux", "guidance.strength=2.0")
    hidden = pipeline.encode(session(), {"text": ["empty", None]})
    (empty,) = pipeline.text.encode([""])
    for turn in range(TURNS):
        assert torch.allclose(hidden.features[f"text{turn}"][0], empty, atol=1e-5)
        assert not torch.allclose(hidden.features[f"text{turn}"][1], empty, atol=1e-3)
    pooled = hidden.pooled
    assert torch.allclose(pooled[0], pooled[1]), "no vector may tell a turn of the later ones"
    assert pipeline.sample(session(), seed=0).keys() == {"x0", "x1", "x2"}


def test_a_finished_target_is_encoded_as_its_image(pipeline):
    tokens = pipeline.encode(session(), {})
    assert torch.equal(tokens.features["x0_finished"], tokens.features["x0"])
    assert not torch.equal(tokens.features["x0_finished"], tokens.features["x1"]), "negative control"
    assert canvas.stitch(session().images, pipeline.plan(session().slots))[1].shape[0] == 2


def test_other_masks_and_infilling_backbones_are_refused():
    full = pipeline_for("flux", "mask=full")
    with pytest.raises(ValueError, match="could not be sampled turn by turn"):
        full.plan(session().slots)
    black = ("guidance.drop=[example]", "guidance.strength=2.0", "+guidance.hide.example=black")
    with pytest.raises(ValueError, match=r"write guidance\.hide\.example: zero"):
        pipeline_for("flux", *black).plan(session().slots)
    filling = pipeline_for("flux", "backbone=flux_fill_mini")
    with pytest.raises(ValueError, match="infills"):
        filling.plan(session().slots)
