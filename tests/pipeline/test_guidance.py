"""Guidance of several passes: the formula of two strengths, passes that are not needed, and what a run says of them."""

from typing import Any

import pytest
import torch
from tiny import batch, randomise, tiny

from unigen.pipeline.build import build_pipeline
from unigen.pipeline.guidance import Guidance, Guided

BOTH = {"drop": ["text", "condition"]}
TEXT = {"drop": ["text"]}


def pipeline_for(*words: str):
    torch.manual_seed(0)
    pipeline = build_pipeline(tiny("backbone=flux_mini", "process=rectified_flow", "solver=euler", *words))
    for part in (pipeline.backbone, pipeline.embedding):
        randomise(part, 0.1)
    return pipeline


def predicted(pipeline, guidance: Guidance, tasks: tuple[str, ...] = ("", "")) -> torch.Tensor:
    pipeline.guidance = guidance
    with torch.no_grad():
        passes = [(pipeline.encode(batch(), hidden), strength) for hidden, strength in guidance.passes(tasks)]
        state = {"target": torch.ones(2, 6, 64)}
        return Guided(pipeline, pipeline.encode(batch(), {}), passes)(state, 0.6)["target"]


def alone(pipeline, *roles: str, **hide: str) -> torch.Tensor:
    """The prediction of one pass by itself."""
    if not roles:
        return predicted(pipeline, Guidance(1.0))
    return predicted(pipeline, Guidance(0.0, roles, hide=hide))


@pytest.mark.parametrize("way", ["zero", "black", "absent"])
@pytest.mark.parametrize("mask", ["full", "conditions_alone"])
def test_two_strengths_are_the_formula_of_instruct_pix2pix(way, mask):
    """u + 1.5 (r - u) + 5 (f - r), Eq. 3; with conditions that see themselves alone, whose keys are kept."""
    pipeline = pipeline_for(f"mask={mask}", "conditioning.modulation.timing.condition=own")
    hide = {"condition": way}
    u, r, f = alone(pipeline, "text", "condition", **hide), alone(pipeline, "text"), alone(pipeline)
    found = predicted(pipeline, Guidance(passes=[BOTH | {"strength": 1.5}, TEXT | {"strength": 5.0}], hide=hide))
    torch.testing.assert_close(found, u + 1.5 * (r - u) + 5 * (f - r), rtol=1e-4, atol=1e-4)
    swapped = predicted(pipeline, Guidance(passes=[BOTH | {"strength": 5.0}, TEXT | {"strength": 1.5}], hide=hide))
    assert not torch.allclose(found, swapped, atol=1e-3), "negative control"


def test_a_pass_may_hide_a_role_in_a_way_of_its_own():
    pipeline = pipeline_for()
    own = {"drop": ["condition"], "strength": 4.0, "hide": {"condition": "absent"}}
    found = predicted(pipeline, Guidance(passes=[own], hide={"condition": "black"}))
    torch.testing.assert_close(found, predicted(pipeline, Guidance(4.0, ["condition"], hide={"condition": "absent"})))
    black = predicted(pipeline, Guidance(4.0, ["condition"], hide={"condition": "black"}))
    assert not torch.allclose(found, black, atol=1e-3), "negative control"


def test_one_pass_is_strength_and_drop_to_the_bit():
    pipeline = pipeline_for()
    plain = predicted(pipeline, Guidance(3.0, ["text"]))
    assert torch.equal(predicted(pipeline, Guidance(passes=[TEXT | {"strength": 3.0}])), plain)
    assert torch.equal(predicted(pipeline, Guidance(3.0, ["condition"], passes=[TEXT])), plain)
    assert not torch.equal(predicted(pipeline, Guidance(3.5, passes=[TEXT])), plain), "negative control"


@pytest.mark.parametrize(
    ("strengths", "left"), [((1.5, 5.0), 2), ((1.0, 5.0), 1), ((5.0, 5.0), 1), ((5.0, 1.0), 2), ((1.0, 1.0), 0)]
)
def test_a_pass_of_weight_0_is_not_computed(strengths, left):
    pipeline = pipeline_for()
    guidance = Guidance(passes=[each | {"strength": s} for each, s in zip((BOTH, TEXT), strengths, strict=True)])
    assert len(guidance.passes(["", ""])) == len(guidance.needed()) == left
    u, r, f = alone(pipeline, "text", "condition"), alone(pipeline, "text"), alone(pipeline)
    wanted = u + strengths[0] * (r - u) + strengths[1] * (f - r)
    torch.testing.assert_close(predicted(pipeline, guidance), wanted, rtol=1e-4, atol=1e-4)


def test_a_pass_without_a_strength_has_that_of_its_task():
    pipeline = pipeline_for()
    table = {"subject": {"strength": 6.0}}
    guidance = Guidance(2.0, by_task=table, passes=[BOTH | {"strength": 1.5}, TEXT])
    mixed = predicted(pipeline, guidance, ("subject", "canny"))
    six, two = (
        predicted(pipeline, Guidance(passes=[BOTH | {"strength": 1.5}, TEXT | {"strength": s}])) for s in (6.0, 2.0)
    )
    torch.testing.assert_close(mixed, torch.stack([six[0], two[1]]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(six[1], two[1], atol=1e-3), "negative control"
    assert [s.tolist() for _, s in guidance.at(4.0).passes(["subject", "canny"])] == [[1.5, 1.5], [4.0, 4.0]]
    with pytest.raises(ValueError, match=r"given \(4\), but each of the 1 passes of guidance.passes has its own"):
        Guidance(passes=[TEXT | {"strength": 2.0}]).at(4.0)


def test_rescaled_tokens_have_the_norm_of_the_prediction_that_hides_nothing():
    pipeline = pipeline_for()
    plain, scaled = (predicted(pipeline, Guidance(4.0, ["text"], rescale=x)) for x in (False, True))
    shown = alone(pipeline)
    torch.testing.assert_close(scaled.norm(dim=-1), shown.norm(dim=-1))
    torch.testing.assert_close(scaled / scaled.norm(dim=-1, keepdim=True), plain / plain.norm(dim=-1, keepdim=True))
    assert not torch.allclose(plain.norm(dim=-1), shown.norm(dim=-1), atol=1e-2), "negative control"


def counted(pipeline) -> list[tuple[int, tuple[str, ...]]]:
    """Record the batch and the segments of every call of the backbone from now on."""
    calls, real = [], pipeline.backbone.forward

    def forward(tokens, *more, **named):
        calls.append((len(next(iter(tokens.features.values()))), tokens.layout.names))
        return real(tokens, *more, **named)

    pipeline.backbone.forward = forward
    return calls


def test_a_pass_without_images_is_computed_without_them():
    pipeline = pipeline_for()
    calls = counted(pipeline)
    passes = [BOTH | {"strength": 1.5}, TEXT | {"strength": 5.0}]
    predicted(pipeline, Guidance(passes=passes, hide={"condition": "absent"}))
    every = ("text", "condition0", "target")
    assert calls == [(4, every), (2, ("text", "target"))]
    calls.clear()
    predicted(pipeline, Guidance(passes=passes, hide={"condition": "zero"}))
    assert calls == [(6, every)], "negative control: zero latents are tokens"


def test_an_image_that_some_samples_lack_stays_in_the_batch_of_all():
    """By their tasks, one sample's pass hides the condition and the other's the text."""
    pipeline = pipeline_for()
    own = {"a": {"drop": ["condition"]}}
    found = predicted(pipeline, Guidance(3.0, ["text"], own, {"condition": "absent"}), ("a", "b"))
    first = predicted(pipeline, Guidance(3.0, ["condition"], hide={"condition": "absent"}))
    second = predicted(pipeline, Guidance(3.0, ["text"]))
    torch.testing.assert_close(found, torch.stack([first[0], second[1]]), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(first[1], second[1], atol=1e-3), "negative control"


def test_outside_its_interval_guidance_is_off():
    pipeline = pipeline_for()
    shown, always = alone(pipeline), predicted(pipeline, Guidance(4.0, ["text"]))
    for interval, wanted, unlike in (([0, 0.5], shown, always), ([0.6, 0.6], always, shown), ([0.5, 1], always, shown)):
        found = predicted(pipeline, Guidance(4.0, ["text"], interval=interval))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(found, unlike, atol=1e-3), "negative control"


def test_a_step_outside_the_interval_costs_one_pass():
    pipeline = pipeline_for("solver=euler_static", "guidance.strength=4", "guidance.interval=[0.8,1]")
    calls = counted(pipeline)
    pipeline.sample(batch(), 0)
    steps, guided = pipeline.solver.steps, sum(t >= 0.8 for t in pipeline.solver.times()[:-1])
    assert 0 < guided < steps and len(calls) == 2 * guided + (steps - guided) and {size for size, _ in calls} == {2}


@pytest.mark.parametrize("interval", [[0.5], [0.9, 0.1], [0, 1.5], ["0", "1"], "01", [False, True]])
def test_an_illegal_interval_is_refused(interval):
    with pytest.raises(ValueError, match=r"guidance.interval is .*; legal are two times"):
        Guidance(2.0, ["text"], interval=interval)


def test_a_negative_prompt_stands_for_the_hidden_text_in_guidance_alone():
    pipeline = pipeline_for()
    empty, blurred, sharp = (predicted(pipeline, Guidance(4.0, ["text"], negative=n)) for n in (None, "blurred", "s"))
    torch.testing.assert_close(predicted(pipeline, Guidance(4.0, ["text"], negative="")), empty)
    assert not torch.allclose(blurred, empty, atol=1e-3) and not torch.allclose(blurred, sharp, atol=1e-3)
    torch.testing.assert_close(predicted(pipeline, Guidance(4.0, ["text"]).against("blurred")), blurred)
    own = Guidance(passes=[TEXT | {"strength": 4.0, "hide": {"text": "blank"}}, TEXT | {"strength": 1}], negative="s")
    assert [each.hide["text"] for each in own.passes_of("")] == ["blank", "negative"], "a way of its own is kept"
    plain, with_it = (
        pipeline_for(*words).training_loss(batch(), torch.Generator().manual_seed(0))[0]
        for words in (("dropout.text=1",), ("dropout.text=1", "guidance.negative=blurred", "guidance.strength=4"))
    )
    assert torch.equal(plain, with_it), "training does not know it"


def test_a_negative_prompt_that_no_pass_shows_is_refused():
    for guidance in ({"drop": ["condition"]}, {"passes": [TEXT | {"hide": {"text": "blank"}}]}):
        with pytest.raises(ValueError, match=r"guidance.negative would not be used"):
            Guidance(2.0, negative="blurred", **guidance)
    with pytest.raises(ValueError, match=r"guidance.negative is 3; it must be a prompt"):
        Guidance(2.0, ["text"], negative=3)


def test_a_run_says_its_negative_prompt_and_its_interval():
    guidance = Guidance(6.0, ["text"], negative="blurred", interval=[0.2, 1])
    assert guidance.lines() == [
        "guidance: 2 passes a step, with everything shown; without text (the negative prompt), strength 6; at t from "
        "0.2 to 1, else 1 pass"
    ]
    assert guidance.protocol == {"guidance": 6.0, "drop": ["text"], "negative": "blurred", "interval": [0.2, 1.0]}
    assert guidance.at(2.0).protocol == guidance.protocol | {"guidance": 2.0}


def test_several_passes_sample_and_another_strength_is_another_image():
    words = "guidance.passes=[{drop:[text,condition],strength:1.5},{drop:[text]}]", "+dropout.condition=0.1"
    first, second = (pipeline_for(*words, f"guidance.strength={s}").sample(batch(), 0)["target"] for s in (5, 2))
    assert first.shape == (2, 1, 3, 32, 48) and not torch.equal(first, second)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"passes": "text"}, "guidance.passes is 'text'; it must be a list"),
    ({"passes": ["text"]}, "guidance.passes.0 is 'text'; legal is a table"),
    ({"passes": [{"drop": []}]}, "guidance.passes.0 drops no role"),
    ({"passes": [{"drop": ["text"], "weight": 2}]}, "guidance.passes.0.weight is unknown; legal are drop, strength"),
    ({"passes": [{"drop": "text"}]}, "guidance.passes.0.drop is 'text'; it must be a list of roles"),
    ({"passes": [{"drop": ["text"], "strength": "5"}]}, "guidance.passes.0.strength is '5'; it must be a number"),
    ({"passes": [TEXT | {"hide": {"condition": "zero"}}]}, "guidance.passes.0.hide names 'condition', which this pass"),
    ({"passes": [TEXT], "by_task": {"a": {"drop": ["text"]}}}, "guidance.by_task.a.drop would not be used"),
]


@pytest.mark.parametrize(("said", "why"), REFUSED)
def test_an_illegal_pass_is_named(said, why):
    with pytest.raises(ValueError) as caught:
        Guidance(2.0, ["text"], **said)
    assert why in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_says_its_passes():
    assert Guidance(1.0, ["text"]).lines() == []
    one = "guidance: 2 passes a step, with everything shown; without text (the empty prompt), strength 6"
    assert Guidance(6.0, ["text"]).lines() == [one]
    several = Guidance(5.0, passes=[BOTH | {"strength": 1.5}, TEXT], hide={"condition": "black"}, rescale=True)
    assert several.lines() == [
        "guidance: 3 passes a step, with everything shown; without text (the empty prompt) and condition (a black "
        "image), strength 1.5; without text (the empty prompt), strength 5; tokens keep the norm of the first"
    ]
    by_task = Guidance(2.0, ["text"], {"subject": {"strength": 6.0}}).lines()
    assert [line[:24] for line in by_task] == ["guidance (subject): 2 pa", "guidance (other tasks): "]


def test_the_protocol_of_older_runs_is_unchanged_and_that_of_passes_says_them():
    assert Guidance(2.0, ["text"], hide={"condition": "black"}).protocol == {"guidance": 2.0, "drop": ["text"]}
    told = Guidance(5.0, ["text"], passes=[BOTH | {"strength": 1.5}, TEXT], hide={"condition": "black"}).protocol
    assert told["guidance"] == 5.0 and "drop" not in told and told["hide"] == {"condition": "black"}
    assert [each["strength"] for each in told["passes"]] == [1.5, None]
