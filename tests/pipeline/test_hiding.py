"""Hidden roles: an absent image is as if the sample did not have it, a black one is encoded, training does the same."""

import warnings

import pytest
import torch
from tiny import batch, randomise, slots, tiny

from unigen.config.values import ConfigError
from unigen.core.noise import generator
from unigen.pipeline import hiding
from unigen.pipeline.build import build_pipeline

FLOW = ("process=rectified_flow", "solver=euler")
FAMILIES = {
    "cogvideox_mini": ("solver=ddim",),
    "flux_mini": FLOW,
    "flux2_mini": FLOW,
    "wan_mini": FLOW,
    "qwen_image_mini": FLOW,
    "hunyuan_video_mini": FLOW,
}


def pipeline_for(name: str = "cogvideox_mini", *words: str):
    torch.manual_seed(0)
    pipeline = build_pipeline(tiny(f"backbone={name}", *FAMILIES[name], *words))
    for part in (pipeline.backbone, pipeline.embedding):
        randomise(part, 0.1)
    return pipeline


def hidden(way: str, role: str = "condition") -> hiding.Hidden:
    """The first of two samples hides the role."""
    return {role: [way, None]}


def target_of(pipeline, tokens, layout) -> torch.Tensor:
    """What the network predicts for a target of ones, from the segments of a layout."""
    given = tokens.updated({"target": torch.ones_like(tokens.features["target"])}).only(layout)
    with torch.no_grad():
        return pipeline.backbone(given, pipeline.times(layout, torch.full((2,), 0.6)), pipeline.mask)["target"]


@pytest.mark.parametrize("mask", ["fcd_a", "conditions_alone"])
@pytest.mark.parametrize("lowering", ["dense", "grouped", "plain"])
@pytest.mark.parametrize("name", FAMILIES)
def test_an_absent_image_is_as_if_the_sample_did_not_have_it(name, lowering, mask):
    """Even one that sees itself alone, and then has no key at all."""
    pipeline = pipeline_for(name, f"backbone.lowering._target_=unigen.core.attention.{lowering}", f"mask={mask}")
    with torch.no_grad():
        absent, zero = (pipeline.encode(batch(), hidden(way)) for way in ("absent", "zero"))
    layout = absent.layout
    wanted = target_of(pipeline, zero, layout.without(["condition0"]))
    found = target_of(pipeline, absent, layout)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[1], wanted[1], atol=1e-3), "the other sample has its image"
    with_zeros = target_of(pipeline, zero, layout)
    assert not torch.allclose(with_zeros[0], wanted[0], atol=1e-3), "negative control: zero latents are tokens"


@pytest.mark.parametrize("lowering", ["dense", "grouped", "plain"])
def test_training_with_absent_images_has_finite_gradients(lowering):
    words = f"backbone.lowering._target_=unigen.core.attention.{lowering}", "mask=conditions_alone"
    pipeline = pipeline_for("flux_mini", *words, "+dropout.condition=1", "+guidance.hide.condition=absent")
    loss, _ = pipeline.training_loss(batch(), generator(0))
    loss.backward()
    gradients = [p.grad for p in pipeline.backbone.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize(("way", "share"), [("absent", 1.0), ("black", 1.0), ("zero", 1.0), ("absent", 0.0)])
def test_a_hidden_images_pixels_never_reach_the_loss(way, share):
    """The last case is the negative control: shown, they do."""
    pipeline = pipeline_for("flux_mini", f"+dropout.condition={share}", f"+guidance.hide.condition={way}")
    other = batch()
    other.images = other.images | {"condition0": batch(seed=5).images["condition0"]}
    first, second = (float(pipeline.training_loss(x, generator(0))[0].detach()) for x in (batch(), other))
    assert (first == second) == (share == 1)


def test_a_black_image_is_one_that_the_codec_encodes():
    pipeline = pipeline_for()
    black = batch()
    black.images["condition0"] = torch.zeros_like(black.images["condition0"])
    with torch.no_grad():
        found, wanted, zero, shown = (
            pipeline.encode(x, way).features["condition0"]
            for x, way in ((batch(), hidden("black")), (black, {}), (batch(), hidden("zero")), (batch(), {}))
        )
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], shown[1])
    assert not torch.equal(found[0], zero[0]), "negative control: a black image is far from zero latents"


def test_an_empty_prompt_is_no_blank():
    pipeline = pipeline_for()
    with torch.no_grad():
        empty, blank = (pipeline.encode(batch(), hidden(way, "text")).features["text"] for way in ("empty", "blank"))
        wanted = pipeline.text.encode(["", " "])
    torch.testing.assert_close(empty[0], wanted[0])
    torch.testing.assert_close(blank[0], wanted[1])
    assert not torch.allclose(empty[0], blank[0], atol=1e-3), "negative control"


def test_roles_are_hidden_by_themselves_or_together():
    table = {"condition": "black"}
    chance = hiding.drawn({"text": 0.5, "condition": 0.5}, 400, table, generator(0))
    both = hiding.drawn({"text+condition": 0.5}, 400, table, generator(0))
    assert [x is None for x in both["text"]] == [x is None for x in both["condition"]]
    assert [x is None for x in chance["text"]] != [x is None for x in chance["condition"]], "negative control"
    assert set(both["text"]) == {None, "empty"} and set(both["condition"]) == {None, "black"}
    assert 150 < both["text"].count("empty") < 250
    assert hiding.drawn({"text": 0.0}, 4, {}, generator(0)) == {}
    assert hiding.share_of("text", {"text": 0.1}) == 0.1
    assert hiding.share_of("text", {"text": 0.5, "text+condition": 0.5, "condition": 1}) == 0.75


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("+guidance.hide.condition=grey", "guidance.hide.condition is 'grey'; legal are zero, black, absent"),
        ("+guidance.hide.text=zero", "guidance.hide.text is 'zero'; legal are empty, blank"),
        ("+guidance.hide.target=zero", "guidance.hide names 'target', which is generated"),
        ("+guidance.hide.buffer=black", "guidance.hide.buffer is 'black', but a buffer frame has no image of its own"),
        ("+guidance.hide.conditions=zero", "guidance.hide names role 'conditions', which does not exist; did you mean"),
        ("+dropout={text+buffer:0.1}", "dropout names role 'buffer'; formatter frames has"),
        ("+dropout={text+condition:2}", "dropout.text+condition is 2; legal are numbers from 0 to 1"),
    ],
)
def test_what_cannot_be_hidden_is_refused(words, said):
    with pytest.raises((ValueError, ConfigError)) as caught:
        pipeline_for("cogvideox_mini", words)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_noised_image_cannot_be_absent():
    words = "+guidance.hide.condition=absent", "+dropout.condition=0.1"
    assert pipeline_for("cogvideox_mini", *words).plan(slots())
    pipeline = pipeline_for("cogvideox_mini", *words, "formatter.caps.condition=0.5")
    with pytest.raises(ValueError, match=r"hides condition as 'absent', but formatter.caps noises it up to 0.5"):
        pipeline.plan(slots())


GUIDED = ("guidance.strength=3", "guidance.drop=[condition]")
UNTRAINED = "training never hides just that"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("guidance.strength=3",), None),
        (GUIDED, UNTRAINED),
        (("guidance.strength=1", "guidance.drop=[condition]"), None),  # guidance is off
        ((*GUIDED, "+dropout.condition=0.1"), None),
        ((*GUIDED, "+dropout={text+condition:0.1}"), UNTRAINED),
        (("guidance.strength=3", "guidance.drop=[text,condition]", "+dropout={text+condition:0.1}"), None),
        (("guidance.strength=3", "guidance.drop=[text,condition]", "+dropout.condition=0.1"), None),
        (("guidance.strength=3", "guidance.drop=[text,condition]"), UNTRAINED),
        (
            ("guidance.passes=[{drop:[condition],strength:2,hide:{condition:black}}]", "+dropout.condition=0.1"),
            "guidance.passes.0.hide.condition is 'black', but training hides condition as 'zero'",
        ),
        (
            (
                "guidance.passes=[{drop:[condition],strength:2}]",
                "+guidance.hide.condition=black",
                "+dropout.condition=0.1",
            ),
            None,
        ),
    ],
)
def test_a_pass_that_was_never_trained_is_said(words, said):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipeline_for("cogvideox_mini", *words)
    told = [str(w.message) for w in caught if "learnt this pass" in str(w.message)]
    assert len(told) == (said is not None) and all(said in one for one in told)
