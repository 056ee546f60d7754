"""Parts that do not fit are refused where they meet, in one sentence that names the culprit and what is legal."""

import re

import pytest
from tiny import composed, slots, tiny

from unigen.core.types import ImageSlot
from unigen.pipeline.build import build_on_meta, build_pipeline


def change(config: dict, key: str, value: object) -> dict:
    """`value` at a dotted key; None removes it."""
    *parents, last = key.split(".")
    node = config
    for name in parents:
        node = node[name]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return config


def test_the_unchanged_parts_fit():
    assert build_pipeline(tiny()).plan  # the control of the refusals below


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "mask.rows.condition",
            None,
            "mask 'fcd_a' has no row for role 'condition' (from formatter frames); it knows text, target",
        ),
        (
            "mask.rows.text.target",
            None,
            "mask 'fcd_a': row 'text' has no column for role 'target' (from formatter frames)",
        ),
        (
            "mask.rows.text.target",
            "some",
            "rows.text.target is 'some'; legal are all, same, earlier, none",
        ),
        (
            "formatter.caps.style",
            0.5,
            "mask 'fcd_a' has no row for role 'style' (from formatter frames); it knows text, condition, target",
        ),
        (
            "conditioning.modulation.branches.condition",
            None,
            "conditioning.modulation.branches has no entry for role 'condition' (from formatter frames); it "
            "knows text, target",
        ),
        (
            "conditioning.modulation.timing.target",
            None,
            "conditioning.modulation.timing has no entry for role 'target' (from formatter frames); it knows "
            "text, condition",
        ),
        (
            "conditioning.modulation.timing.target",
            "later",
            "conditioning.modulation.timing.target is 'later'; legal are own, shared",
        ),
        ("conditioning.modulation.branches.text", "target", "branch 'target' serves text, target"),
        (
            "loss.weights.condition",
            None,
            "loss.weights has no entry for role 'condition' (from formatter frames); it knows target, text, "
            "buffer, example",
        ),
        (
            "guidance.drop",
            ["texts"],
            "guidance.drop names role 'texts'; formatter frames has text, condition, target",
        ),
        ("dropout.buffer", 0.1, "dropout names role 'buffer'; formatter frames has text, condition, target"),
        (
            "mask.rows.targt",
            {},
            "mask 'fcd_a': rows names role 'targt', which does not exist; did you mean 'target'? legal are text",
        ),
        (
            "mask.rows.target.txt",
            "all",
            "mask 'fcd_a': rows.target names role 'txt', which does not exist; did you mean 'text'? legal are text",
        ),
        (
            "loss.weights.traget",
            2.0,
            "loss.weights names role 'traget', which does not exist; did you mean 'target'? legal are text",
        ),
        ("conditioning.modulation.timing.nobody", "own", "timing names role 'nobody', which does not exist; legal are"),
        ("encoder.text.config.d_model", 64, "text width: the encoder makes 64, backbone CogVideoX takes 32"),
        ("encoder.codec.channels", 4, "latent channels: the encoder makes 4, backbone CogVideoX takes 16"),
        ("conditioning.embedding.channels", 8, "conditioning.embedding.channels is 8, but the codec PatchPCA makes"),
        ("formatter.temporal_padding", "mirror", "formatter.temporal_padding is 'mirror'; legal are replicate, zero"),
        ("formatter.copy_noise", "other", "formatter.copy_noise is 'other'; legal are same, independent"),
    ],
)
def test_what_does_not_fit_is_named(key, value, said):
    with pytest.raises(ValueError) as caught:
        build_pipeline(change(tiny(), key, value))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_backbone_without_an_axis_is_named(monkeypatch):
    from unigen.backbones.cogvideox import CogVideoX

    monkeypatch.setattr(CogVideoX, "axes", ("h", "w"))
    with pytest.raises(
        ValueError,
        match="formatter frames places images along t, h, w, but backbone CogVideoX has no axis t; it has h, w",
    ):
        assert build_pipeline(tiny()).plan  # the control of the refusals below


FILL = (
    "backbone=flux_fill_dev",
    "backbone.config.num_layers=1",
    "backbone.config.num_single_layers=1",
    "encoder/text=flux_text",
    "encoder/codec=autoencoder_mini",
    "process=vp",
)
FLOW = ("process=rectified_flow", "solver=euler")


@pytest.mark.parametrize(
    ("words", "weights", "process"),
    [(FLOW, "'v'", "RectifiedFlow trains 'flow'"), (FILL, "'flow'", "Preserving trains 'v'")],
)
def test_a_process_other_than_that_of_the_weights_is_refused(words, weights, process):
    with pytest.raises(ValueError) as caught:
        build_on_meta(composed(*words))
    said = str(caught.value)
    assert f"backbone.pretrained predict {weights}" in said and process in said and "\n" not in said
    assert build_on_meta(composed(*words, "backbone.pretrained=null")).backbone.predicts is None
    advised = re.search(r"take the weights' own by (\S+) (\S+), or", said)
    assert build_on_meta(composed(*words, *advised.groups())).process.predicts == weights.strip("'")
    other = {"'v'": "flow", "'flow'": "v"}[weights]
    assert build_on_meta(composed(*words, f"backbone.predicts={other}")).backbone.predicts == other


@pytest.mark.parametrize(
    ("slot", "said"),
    [
        (
            ImageSlot("x", "target", 40, 32),
            "slot 'x' is 40×32 pixels (data.size); sides must be multiples of 16 and 16",
        ),
        (ImageSlot("x", "target", 32, 33), "slot 'x' is 32×33 pixels"),
        (
            ImageSlot("x", "target", 32, 16 * 151),
            "slot 'x' takes 2×151 positions; the backbone holds 150×150 (backbone.",
        ),
        (
            ImageSlot("x", "target", 32, 32, frames=3),
            "slot 'x' has 3 frames (data.forms.NAME.frames); legal are 1 and multiples of the temporal patch 2",
        ),
        (
            ImageSlot("x", "painting", 32, 32),
            "formatter 'frames' has no place for role 'painting' of slot 'x'; formatter.caps knows condition, target",
        ),
    ],
)
def test_an_image_that_the_parts_cannot_hold_is_named(slot, said):
    pipeline = build_pipeline(tiny())
    with pytest.raises(ValueError) as caught:
        pipeline.plan((slots()[0], slot))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_more_frames_than_the_backbone_holds_are_counted():
    pipeline = build_pipeline(tiny())
    assert len(pipeline.plan(slots(10)).layout.visual) == 11
    with pytest.raises(ValueError, match="12 images take 12 temporal positions; the backbone holds 11"):
        pipeline.plan(slots(11))


def test_a_loss_that_teaches_nothing_is_refused():
    pipeline = build_pipeline(change(tiny(), "loss.weights.target", 0.0))
    with pytest.raises(ValueError, match=r"loss.weights is 0 for every noised role of this layout"):
        pipeline.plan(slots())


@pytest.mark.parametrize("part", ["solver", "process"])
def test_times_that_a_large_grid_makes_degenerate_are_refused_with_the_layout(part):
    """Before anything is trained. A limit of 0.46 stands for one that a small grid goes beyond."""
    config = tiny("solver=euler", "process=rectified_flow_shifted")
    config[part]["shift"]["limit"] = 0.46
    pipeline = build_pipeline(config)
    assert pipeline.plan(slots()).layout.image_tokens == 12  # mu 0.459
    with pytest.raises(ValueError, match=r"24 image tokens have mu = 0.46, shift.limit is 0.46; use at most 19 tokens"):
        pipeline.plan(slots(3))
