"""Slot vectors: nothing at the start, one for each role and number after, trained, saved, exported, kept by caches."""

import json

import pytest
import torch
from small_runs import small, train
from tiny import batch, randomise, slots, tiny, trained

from unigen.config.values import ConfigError
from unigen.core.noise import generator
from unigen.core.types import Batch, ImageSlot
from unigen.pipeline import export
from unigen.pipeline.build import build_pipeline
from unigen.pipeline.header import slot_vectors

FLOW = ("process=rectified_flow", "solver=euler")
FAMILIES = {
    "cogvideox_mini": ("solver=ddim",),
    "flux_mini": FLOW,
    "flux2_mini": FLOW,
    "wan_mini": FLOW,
    "qwen_image_mini": FLOW,
    "hunyuan_video_mini": FLOW,
}
NUMBERED, TURNS = "conditioning/slots=numbered", "conditioning/slots=turns"
SESSION = (ImageSlot("c", "condition", 32, 48), *(ImageSlot(f"x{i}", "target", 32, 48, row=i) for i in range(2)))


def pipeline_for(name: str = "flux_mini", *words: str, still: bool = False):
    """With random weights; the slot vectors are zero as at the start if they are `still`."""
    torch.manual_seed(0)
    pipeline = build_pipeline(tiny(f"backbone={name}", *FAMILIES[name], *words))
    for part in (pipeline.backbone.model, pipeline.embedding):
        randomise(part, 0.1)
    if pipeline.backbone.slots is not None and not still:
        randomise(pipeline.backbone.slots, 1.0, seed=4)
    return pipeline


def predicted(pipeline, conditions: int = 1, *hidden: str) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        tokens = pipeline.encode(batch(conditions=conditions), {role: ["zero", "zero"] for role in hidden})
        times = pipeline.times(tokens.layout, torch.full((2,), 0.6))
        return pipeline.backbone(tokens, times, pipeline.mask)


def session_predicted(pipeline) -> torch.Tensor:
    """The prediction for the last of two targets."""
    g = torch.Generator().manual_seed(0)
    images = {s.name: torch.randint(0, 256, (2, 1, 3, 32, 48), generator=g, dtype=torch.uint8) for s in SESSION}
    given = Batch(SESSION, images, ["one\ntwo", "a\nb"], [()] * 2, ["chain"] * 2, ["0", "1"])
    with torch.no_grad():
        tokens = pipeline.encode(given, {})
        return pipeline.backbone(tokens, pipeline.times(tokens.layout, torch.full((2,), 0.6)), pipeline.mask)["x1"]


@pytest.mark.parametrize("name", FAMILIES)
def test_at_the_start_the_model_is_the_one_without_to_the_bit(name):
    plain, ours = pipeline_for(name), pipeline_for(name, NUMBERED, still=True)
    assert ours.backbone.slots is not None and plain.backbone.slots is None
    assert torch.equal(predicted(ours)["target"], predicted(plain)["target"])
    losses = [p.training_loss(batch(), generator(0))[0] for p in (ours, plain)]
    assert torch.equal(*losses)
    assert torch.equal(*(p.sample(batch(), 0)["target"] for p in (ours, plain)))
    assert not torch.equal(predicted(pipeline_for(name, NUMBERED))["target"], predicted(plain)["target"]), "control"
    assert trained(ours.backbone) == trained(plain.backbone) + 13 * ours.backbone.width


@pytest.mark.parametrize("name", FAMILIES)
def test_vectors_are_added_behind_the_patch_embedder(name):
    """As a hook on what that embedder makes: 2 conditions and a target of 6 tokens each."""
    ours, plain = pipeline_for(name, NUMBERED), pipeline_for(name)
    found = predicted(ours, 2)["target"]
    condition, target, _, *numbers = ours.backbone.slots.table.detach()
    by_hand = torch.stack([condition + numbers[0], condition + numbers[1], target]).repeat_interleave(6, dim=0)
    embedded = plain.backbone._embedded

    def shifted(tokens, times):
        x, c = embedded(tokens, times)
        return x + by_hand, c

    plain.backbone._embedded = shifted
    assert torch.equal(predicted(plain, 2)["target"], found)
    by_hand = by_hand.roll(6, 0)
    assert not torch.allclose(predicted(plain, 2)["target"], found, atol=1e-3), "negative control"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_text_of_a_turn_has_the_vector_of_that_turn(name):
    """A session of two turns; as a hook on what the embedder of text makes."""
    ours, plain = (pipeline_for(name, "conditioning/embedding=none", "mask=turns", *w) for w in ((TURNS,), ()))
    for pipeline in (ours, plain):
        pipeline.modulation.timing.update(dict.fromkeys(pipeline.modulation.timing, "own"))
    first, second, *_ = ours.backbone.slots.table.detach()
    found = session_predicted(ours)
    embedded = plain.backbone._embedded

    def shifted(tokens, times):
        x, c = embedded(tokens, times)
        return x, c + by_hand.repeat_interleave(c.shape[1] // 2, dim=0)

    plain.backbone._embedded, by_hand = shifted, torch.stack([first, second])
    assert torch.equal(session_predicted(plain), found)
    by_hand = by_hand.flip(0)
    assert not torch.allclose(session_predicted(plain), found, atol=1e-3), "negative control"
    said = ours.backbone.slots.words(ours.plan(SESSION).layout)
    assert said == ["text0: turn 1", "text1: turn 2"], "the images have none"


def test_more_turns_than_vectors_are_refused_before_training():
    pipeline = pipeline_for("cogvideox_mini", TURNS, "conditioning.slots.turns.text=1")
    with pytest.raises(ValueError, match=r"turns.text is 1, but a sample has at least 2 turns"):
        pipeline.plan(SESSION)


def test_every_vector_has_a_gradient_in_every_step():
    """Distributed training refuses weights without one, and a sample rarely has ten conditions."""
    pipeline = pipeline_for("flux_mini", NUMBERED)
    pipeline.training_loss(batch(), generator(0))[0].backward()
    rows = pipeline.backbone.slots.table.grad.abs().sum(1)
    moved = [key for key, row in pipeline.backbone.slots.rows.items() if rows[row - 1] > 0]
    assert moved == [("role", "condition"), ("role", "target"), ("condition", 0)], "zero for the others, but not None"


def test_numbers_count_within_a_role_and_stay_when_parts_of_a_layout_are_left_out():
    layout = pipeline_for().plan(slots(3)).layout
    assert [s.number for s in layout.segments] == [0, 0, 1, 2, 0]
    assert [s.number for s in layout.only(("condition2", "target")).segments] == [2, 0]
    assert layout.only(("condition2", "target")).numbered().segments[0].number == 0, "negative control"


def test_remembered_conditions_keep_their_numbers():
    """Their keys and values are computed apart from the target: the images are those of the full forward."""
    words = NUMBERED, "mask=conditions_alone", "conditioning.modulation.timing.condition=own", "guidance.strength=1"
    pipeline = pipeline_for("flux_mini", *words)
    whole = batch(conditions=2)
    assert pipeline.static(pipeline.plan(whole.slots).layout) == ("condition0", "condition1")
    kept = pipeline.sample(whole, 0)["target"].int()
    pipeline.static = lambda layout: ()
    full = pipeline.sample(whole, 0)["target"].int()
    assert (kept - full).abs().max() <= 1
    with torch.no_grad():
        pipeline.backbone.slots.table[3:5] = pipeline.backbone.slots.table[3:5].flip(0)
    assert (pipeline.sample(whole, 0)["target"].int() - full).abs().max() > 1, "negative control: other numbers"


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_an_export_has_the_vectors_and_says_that_no_stock_model_does(tmp_path, adapter):
    config = tiny("backbone=flux_mini", *FLOW, NUMBERED, f"conditioning/adapter={adapter}")
    pipeline = build_pipeline(config)
    randomise(pipeline.backbone.slots, 1.0)
    assert pipeline.backbone.slots.table.requires_grad, "the base may be frozen, they are not"
    export.save(pipeline, tmp_path, config)
    again, _ = export.load(tmp_path)
    assert torch.equal(again.backbone.slots.table, pipeline.backbone.slots.table)
    assert (again.backbone.slots.table != 0).any(), "negative control"
    assert "no stock pipeline adds them" in json.loads((tmp_path / export.CONFIG_FILE).read_text())["slots"]
    with pytest.raises(ValueError, match=r"no stock model.*conditioning/(slots=none|adapter=full)"):
        pipeline.backbone.stock()


def test_a_run_trains_the_vectors_and_a_stopped_one_goes_on_with_them(tmp_path):
    config = small(tmp_path, NUMBERED)
    table = train(config).backbone.slots.table
    assert (table[:2] != 0).any(dim=1).all(), "condition and target have moved"
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]
    assert "parts.backbone.slots.table" in kept
    (tmp_path / "summary.json").unlink()  # as if it had been stopped between the last step and the end
    assert torch.equal(train(config).backbone.slots.table, table)


def test_the_header_says_which_vector_an_image_has():
    pipeline = pipeline_for("flux_mini", NUMBERED)
    [line] = slot_vectors(pipeline, pipeline.plan(slots(2)).layout)
    assert line == (
        f"slot vectors, {13 * pipeline.backbone.width} parameters: condition0: condition + number 1; condition1: "
        "condition + number 2; target: target"
    )
    assert "2 segments more" in slot_vectors(pipeline, pipeline.plan(slots(9)).layout)[0]
    plain = pipeline_for()
    assert slot_vectors(plain, plain.plan(slots()).layout) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "conditioning.slots.numbers.condition=0",
            "conditioning.slots.numbers.condition is 0; legal are whole numbers",
        ),
        (
            "+conditioning.slots.numbers.text=2",
            "conditioning.slots.numbers names 'text', but these vectors",
        ),
        ("conditioning.slots.roles.target=3", "conditioning.slots.roles.target is 3; legal are null and names"),
        ("+conditioning.slots.numbers.conditon=2", "names role 'conditon', which does not exist; did you mean 'cond"),
        ("~conditioning.slots.roles.target", "conditioning.slots.roles has no entry for target; add target: null"),
    ],
)
def test_an_illegal_table_is_named(words, said):
    with pytest.raises((ValueError, ConfigError)) as caught:
        pipeline_for("flux_mini", NUMBERED, words)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_more_images_than_numbers_are_refused_before_training():
    pipeline = pipeline_for("flux_mini", NUMBERED, "conditioning.slots.numbers.condition=2")
    assert pipeline.plan(slots(2))
    with pytest.raises(ValueError, match=r"numbers.condition is 2, but a sample has at least 3 images of that role"):
        pipeline.plan(slots(3))
    none = [f"conditioning.slots.roles.{role}=null" for role in ("condition", "target", "example", "buffer")]
    with pytest.raises(ValueError, match="gives no role a vector"):
        pipeline_for("flux_mini", "conditioning/slots=roles", *none)
