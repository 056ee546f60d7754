"""UCE (RealGeneral Eq. 2): nothing at the start, a subject's embedding and a task's bias on condition slots after."""

import pytest
import torch
from tiny import batch, slots, tiny

from unigen.conditioning.uce import UCE, NoEmbedding
from unigen.core.noise import generator
from unigen.core.types import subjects_of
from unigen.pipeline.build import build_pipeline

SLOTS = slots(2)


def trained(tasks=("canny", "subject")) -> UCE:
    embedding = UCE(8, 4, list(tasks))
    torch.nn.init.normal_(embedding.subject.weight), torch.nn.init.normal_(embedding.bias)
    return embedding


def inputs(size: int = 2):
    g = torch.Generator().manual_seed(0)
    latents = {s.name: torch.randn(size, 1, 4, 4, 6, generator=g) for s in SLOTS}
    return latents, torch.randn(size, 5, 8, generator=g)


def marks(*rows: list[int], second: list[list[int]] | None = None) -> dict[str, torch.Tensor]:
    """Marked tokens of the samples, for both conditions, or of the `second` one others."""
    found = {}
    for name, marked in (("condition0", rows), ("condition1", second or rows)):
        found[name] = torch.zeros(len(rows), 5, dtype=torch.bool)
        for i, row in enumerate(marked):
            found[name][i, row] = True
    return found


def test_at_the_start_it_adds_exactly_nothing():
    latents, text = inputs()
    for embedding in (UCE(8, 4, ["canny"]), NoEmbedding()):
        out = embedding(latents, SLOTS, text, marks([1], []), ["canny", "canny"])
        assert out.keys() == latents.keys() and all(torch.equal(out[n], latents[n]) for n in latents)
    out = trained()(latents, SLOTS, text, marks([1], []), ["canny", "canny"])
    assert not torch.equal(out["condition0"], latents["condition0"]), "negative control"


def test_it_shifts_condition_slots_and_no_others():
    latents, text = inputs()
    out = trained()(latents, SLOTS, text, marks([1], [2]), ["canny", "subject"])
    assert torch.equal(out["target"], latents["target"])
    shifts = [out[n] - latents[n] for n in ("condition0", "condition1")]
    torch.testing.assert_close(shifts[0], shifts[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shifts[0], shifts[0][..., :1, :1].expand_as(shifts[0]), rtol=1e-4, atol=1e-5)


def test_equation_two_by_hand():
    embedding, (latents, text) = trained(), inputs(3)
    out = embedding(latents, SLOTS, text, marks([1], [0, 3, 4], []), ["canny", "subject", "subject"])
    instance = torch.stack([text[0, 1], text[1, [0, 3, 4]].mean(0), torch.zeros(8)])
    shift = instance @ embedding.subject.weight.T + embedding.bias[[0, 1, 1]]
    expected = latents["condition0"] + shift[:, None, :, None, None]
    torch.testing.assert_close(out["condition0"], expected)
    wrong = embedding(latents, SLOTS, text, marks([1], [0], []), ["canny", "subject", "subject"])
    assert not torch.allclose(wrong["condition0"][1], expected[1], atol=1e-3), "negative control: one of three tokens"


def test_the_keyword_of_each_condition_shifts_that_condition_alone():
    embedding, (latents, text) = trained(), inputs()
    one, other = (marks([1], [1], second=[[column], [column]]) for column in (2, 3))
    a, b = (embedding(latents, SLOTS, text, marked, ["canny", "canny"]) for marked in (one, other))
    assert torch.equal(a["condition0"], b["condition0"]) and not torch.equal(a["condition1"], b["condition1"])
    alone = embedding(latents, SLOTS, text, marks([1], [1]), ["canny", "canny"])
    assert torch.equal(alone["condition0"], a["condition0"]) and not torch.equal(alone["condition1"], a["condition1"])


@pytest.mark.parametrize(
    ("subjects", "found"),
    [
        (("cat", "dog"), [("cat",), ("dog",)]),
        (("cat",), [("cat",), ("cat",)]),
        (("a", "b", "c"), [("a", "b", "c")] * 2),
    ],
)
def test_as_many_keywords_as_conditions_are_one_each(subjects, found):
    assert [subjects_of(subjects, i, 2) for i in range(2)] == found
    assert subjects_of(("cat",), 0, 1) == ("cat",)


def test_without_a_match_only_the_bias_is_added():
    embedding, (latents, text) = trained(), inputs()
    a = embedding(latents, SLOTS, text, marks([], []), ["subject"] * 2)["condition0"]
    b = embedding(latents, SLOTS, torch.randn_like(text), marks([], []), ["subject"] * 2)["condition0"]
    assert torch.equal(a, b)
    torch.testing.assert_close((a - latents["condition0"])[:, 0, :, 0, 0], embedding.bias[1].expand(2, -1))


def test_an_unknown_task_is_named():
    latents, text = inputs()
    with pytest.raises(
        ValueError, match=r"task 'pose' has no bias in conditioning.embedding.tasks; it knows canny, subject"
    ):
        trained()(latents, SLOTS, text, marks([], []), ["canny", "pose"])


def test_the_papers_size():
    assert sum(p.numel() for p in UCE(4096, 16, ["canny"]).parameters()) == 65_536 + 16


# --- in the pipeline ---------------------------------------------------------------------------------------------


def test_after_a_step_only_condition_tokens_change():
    """The same weights with and without UCE: equal tokens at the start; a step of the loss moves the condition's."""
    torch.manual_seed(0)
    pipeline = build_pipeline(tiny("dropout.text=0"))
    with torch.no_grad():
        before = pipeline.encode(batch(), {}).features
        pipeline.embedding, learned = NoEmbedding(), pipeline.embedding
        without = pipeline.encode(batch(), {}).features
        pipeline.embedding = learned
    assert all(torch.equal(before[n], without[n]) for n in before)
    with torch.no_grad():
        for p in pipeline.backbone.parameters():
            p += 0.05 * torch.randn(p.shape)
    pipeline.training_loss(batch(), generator(0))[0].backward()
    torch.optim.SGD(learned.parameters(), lr=10.0).step()
    assert learned.bias.grad[1].abs().max() == 0 and learned.bias.grad[0].abs().max() > 0, "batch of canny alone"
    with torch.no_grad():
        after = pipeline.encode(batch(), {}).features
    assert {n for n in after if not torch.equal(after[n], before[n])} == {"condition0"}


def test_the_subject_reaches_its_image_through_the_prompt():
    """Two prompts of one image differ in its condition only if the keyword is found."""
    pipeline = build_pipeline(tiny())
    torch.nn.init.normal_(pipeline.embedding.subject.weight)
    made = {}
    for prompt in ("a cat", "a Cat", "cats", "a dog", "category"):
        one = batch(1)
        one.prompts = [prompt]
        with torch.no_grad():
            made[prompt] = pipeline.encode(one, {}).features["condition0"]
    assert torch.equal(made["a dog"], made["category"]), "no match, or only within a word: the bias alone"
    assert not torch.allclose(made["cats"], made["a dog"], atol=1e-3)
    assert not torch.allclose(made["a cat"], made["a dog"], atol=1e-3)
    assert not torch.allclose(made["a Cat"], made["a dog"], atol=1e-3)


def test_two_subjects_of_a_prompt_reach_their_own_images():
    pipeline = build_pipeline(tiny())
    torch.nn.init.normal_(pipeline.embedding.subject.weight)
    made = {}
    for subjects in (("cat", "dog"), ("cat", "cat"), ("dog", "cat")):
        one = batch(1, conditions=2)
        one.prompts, one.subjects = ["a cat and a dog"], [subjects]
        with torch.no_grad():
            made[subjects] = pipeline.encode(one, {}).features
    first, second = ("condition0", "condition1")
    assert torch.equal(made["cat", "dog"][first], made["cat", "cat"][first])
    assert not torch.equal(made["cat", "dog"][second], made["cat", "cat"][second])
    assert not torch.equal(made["cat", "dog"][first], made["dog", "cat"][first])


@pytest.mark.parametrize("tasks", [None, []])
def test_no_tasks_are_refused_in_a_sentence(tasks):
    with pytest.raises(ValueError, match=r"UCE has a bias for each task.*conditioning/embedding=none"):
        UCE(8, 4, tasks)
