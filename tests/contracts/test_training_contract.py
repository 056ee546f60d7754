"""One training step over the config folder: who gets a gradient, what randomness comes from where."""

import pytest
import torch
from tiny import batch, choices, crossed, randomise, spread, tiny

from unigen.core.noise import generator
from unigen.pipeline.build import build_pipeline


def parts(pipeline) -> dict[str, torch.nn.Parameter]:
    modules = {"backbone": pipeline.backbone, "embedding": pipeline.embedding, "text": pipeline.text}
    return {f"{m}.{n}": p for m, part in modules.items() for n, p in part.named_parameters() if p.requires_grad}


def randomised(*overrides: str):
    torch.manual_seed(0)
    pipeline = build_pipeline(tiny(*overrides))
    for part in (pipeline.backbone, pipeline.embedding):
        randomise(part)
    return pipeline


def gradients(pipeline) -> dict[str, torch.Tensor | None]:
    loss, _ = pipeline.training_loss(batch(4), generator(0, "train"))
    loss.backward()
    return {n: p.grad for n, p in parts(pipeline).items()}


@pytest.mark.parametrize(
    ("modulation", "adapter", "name"),
    spread(choices("conditioning/modulation"), choices("conditioning/adapter"), ["fcd_a", "fcd_b", "fcd_c", "fcd_d"]),
)
def test_everything_trained_gets_a_gradient_but_what_cannot(name, modulation, adapter):
    """The loss is on the target alone. After the last block's attention nothing is exchanged any more, so what
    modulates text and condition before its feed-forward (norm2, where no target shares it) has a gradient of zero.
    None has no gradient at all, which DDP would refuse.
    """
    pipeline = randomised(f"mask={name}", f"conditioning/modulation={modulation}", f"conditioning/adapter={adapter}")
    found = gradients(pipeline)
    assert not [n for n, g in found.items() if g is None]
    silent = {n for n, g in found.items() if not (g != 0).any()}
    branches = set(pipeline.modulation.branches.values()) - {pipeline.modulation.branches["target"]}
    expected = {n for n in found if any(f"blocks.1.norm2.branches.{b}." in n for b in branches)}
    assert silent == expected and expected


def test_what_cannot_reach_the_target_gets_no_gradient():
    """Negative control: under the literal mask B the target does not read the condition, so UCE cannot learn."""
    found = gradients(randomised("mask=fcd_b_literal"))
    assert not (found["embedding.subject.weight"] != 0).any() and not (found["embedding.bias"] != 0).any()


@pytest.mark.parametrize(
    ("word", "fill"), [("own", "replicate"), pytest.param("shared", "zero", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(("loss", "process"), crossed(choices("loss"), choices("process")))
def test_every_loss_on_every_process_is_finite_and_learns(loss, process, fill, word):
    overrides = [
        f"loss={loss}",
        f"process={process}",
        "backbone.training_steps=1000",
        f"formatter.temporal_padding={fill}",
    ]
    config = tiny(*overrides)
    timing = config["conditioning"]["modulation"]["timing"]
    config["conditioning"]["modulation"]["timing"] = dict.fromkeys(timing, word)
    pipeline = build_pipeline(config)
    optimizer = torch.optim.Adam(parts(pipeline).values(), lr=3e-3)
    losses = []
    for _ in range(12):
        value, logged = pipeline.training_loss(batch(4), generator(0, "same"))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert logged.keys() == {"target"} and all(x == x for x in losses)
    assert losses[-1] < 0.9 * losses[0]


def test_all_randomness_comes_from_the_generator():
    pipeline = randomised()
    pipeline.dropout = {"text": 0.5}
    values = []
    for seed, step in [(0, 1), (0, 1), (0, 2), (1, 1)]:
        torch.manual_seed(len(values))
        values.append(pipeline.training_loss(batch(4), generator(seed, "train", step))[0].item())
    assert values[0] == values[1] and len(set(values)) == 3


@pytest.mark.parametrize(("how", "alike"), [("same", True), ("independent", False)])
def test_noise_in_the_copies_is_as_the_formatter_says(how, alike):
    from unigen.core.canvas import from_tokens

    pipeline = randomised(f"formatter.copy_noise={how}")
    plan = pipeline.plan(batch().slots)
    drawn = pipeline.draw_noise(plan, [generator(i) for i in range(2)])
    assert drawn.keys() == {"target"}
    eps = from_tokens(drawn["target"], plan.layout["target"].grid, pipeline.backbone.patch)
    assert torch.equal(eps[:, 0], eps[:, 1]) == alike and not torch.equal(eps[0], eps[1])


def test_hidden_text_is_the_empty_prompt_for_those_samples_alone():
    pipeline = randomised()
    shown = pipeline.encode(batch(), {}).features["text"]
    mixed = pipeline.encode(batch(), {"text": ["empty", None]}).features["text"]
    torch.testing.assert_close(mixed[:1], pipeline.text.encode([""]))
    torch.testing.assert_close(mixed[1:], shown[1:])
    assert not torch.allclose(mixed[0], shown[0], atol=1e-3)


def test_segments_are_timed_as_the_table_says():
    pipeline, t_B = randomised(), torch.tensor([0.2, 1.0])
    layout = pipeline.plan(batch().slots).layout
    shared = pipeline.times(layout, t_B)
    assert all(t is t_B for t in shared.values()), "one tensor, so that it is embedded once"
    pipeline.modulation.timing["condition"] = "own"
    assert pipeline.times(layout, t_B)["condition0"].tolist() == [0, 0]
    assert pipeline.times(layout, t_B)["target"] is t_B
