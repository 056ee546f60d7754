"""ClipData: clips that depend on their number alone, forms that stack, one kind of image a clip, fitting captions."""

import itertools
import pickle
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_clips import EIGHTHS, maker, of_kind

from datamodules.emoji.cache import KINDS
from datamodules.emoji.names import base_of, caption, subject
from datamodules.pretraining.clips import FAMILY, FORMS, LONGEST, POSED, SHARES, STYLES, Form
from datamodules.pretraining.motions import (
    GROUPS,
    MOTION_SHARES,
    MOTIONS,
    ONE_WAY,
    Pose,
    background,
    colourful,
    posed,
    unlike,
)
from unigen.core.types import CONDITION, TARGET, Batch, ImageSlot, collate


@pytest.fixture(scope="module")
def make(folder):
    return maker(folder)


def first(loader, n: int) -> list[Batch]:
    return list(itertools.islice(loader, n))


def same(a: list[Batch], b: list[Batch]) -> bool:
    """Whether two runs of batches are equal in slots, words and pixels."""
    return [(x.slots, x.keys, x.prompts) for x in a] == [(y.slots, y.keys, y.prompts) for y in b] and all(
        torch.equal(x.images[name], y.images[name]) for x, y in zip(a, b, strict=True) for name in x.images
    )


def form_of(batch: Batch) -> str:
    """The one form of a batch, read from its keys."""
    (form,) = {key.split("/")[1] for key in batch.keys}
    return form


# --- clips ---------------------------------------------------------------------------------------------------------


def test_a_clip_depends_on_its_number_alone(make):
    one, other = make(seed=0).dataset("train"), make(seed=7, clips=9000, batch_size=3).dataset("train")
    whole = {i: one.draw(one.plan(i), EIGHTHS)[1] for i in range(40)}
    for i, frames in whole.items():
        assert one.plan(i) == other.plan(i)
        for name, form in one.forms.items():
            a, b = one[name, i, 0], other[name, i, 99]
            assert (a.slots, a.prompt, a.key) == (b.slots, b.prompt, b.key)
            shown = torch.cat(list(a.images.values()))
            assert torch.equal(shown, torch.cat(list(b.images.values())))
            assert np.array_equal(shown.numpy(), np.stack([frames[k] for k in form.moments]))
    assert len({np.stack(frames).tobytes() for frames in whole.values()}) == 40
    assert len({one.plan(i).seed for i in range(40)}) == 40
    assert make().dataset("val").plan(0) != one.plan(0)


def test_moments_are_evenly_spread_over_nine():
    moments = {n: Form(False, n, 1.0).moments for n in range(1, 10)}
    assert moments[1] == (0,) and moments[2] == (0, 4) and moments[3] == (0, 3, 6) and moments[4] == (0, 2, 4, 6)
    assert moments[8] == tuple(range(8)) and moments[9] == tuple(range(9))
    assert Form(True, 2, 1.0).moments == moments[3] != moments[2]


def test_some_clips_are_in_a_random_pose(make):
    dataset = make().dataset("train")
    plans = [dataset.plan(i) for i in range(400)]
    assert abs(sum(plan.moved for plan in plans) / 400 - POSED) < 0.08
    for plan in plans[:60]:
        start = dataset.draw(plan._replace(backward=False), [0.0])[1][0]
        assert np.array_equal(start, dataset.images.image(plan.kind, plan.glyphs[0])) != plan.moved


def test_kinds_and_motions_have_their_shares(make):
    dataset = make().dataset("train")
    plans = [dataset.plan(i) for i in range(2000)]
    kinds, motions = Counter(plan.kind for plan in plans), Counter(plan.motion for plan in plans)
    assert all(abs(kinds[kind] / 2000 - share) < 0.04 for kind, share in SHARES.items())
    assert {*MOTIONS, FAMILY} == set(itertools.chain(*GROUPS.values())) == set(motions) | set(GROUPS["fill"])
    for group, share in MOTION_SHARES.items():  # an image without relatives leaves the family's share to the others
        assert abs(sum(motions[name] for name in GROUPS[group]) / 2000 - share) < 0.06
    assert 0.4 < sum(plan.backward for plan in plans if plan.motion not in ONE_WAY) / 2000 < 0.55
    assert not any(plan.backward for plan in plans if plan.motion in ONE_WAY)
    assert {plan.glyphs[0] for plan in plans} == set(make().emoji.indices["train"])


def test_a_backward_clip_ends_as_the_original(make):
    """It is the forward clip reversed; a restyling takes half of the clip, so every form of some frames ends so."""
    dataset = make().dataset("train")
    seen = 0
    for plan in [plan for plan in map(dataset.plan, range(120)) if plan.motion not in ONE_WAY]:
        there, back = plan._replace(backward=False), plan._replace(backward=True)
        last = 4 if plan.motion in GROUPS["restyle"] else 8
        words, forward = dataset.draw(there, EIGHTHS)
        prefixed, frames = dataset.draw(back, EIGHTHS)
        assert prefixed == f"back from {words}"
        assert np.array_equal(np.stack(frames[: last + 1]), np.stack(forward[last::-1]))
        assert all(np.array_equal(frame, forward[0]) for frame in frames[last:])
        assert all(np.array_equal(frame, forward[last]) for frame in forward[last:])
        seen += not np.array_equal(np.stack(forward[: last + 1]), np.stack(forward[last::-1]))
        if last == 4:
            ends = [form.moments[-1] for form in dataset.forms.values() if len(form.moments) > 1]
            assert min(ends) >= last
    assert seen > 80  # forward is not its own reversal


def test_splits_are_disjoint_by_base_in_all_that_clips_show(make):
    data = make()
    bases, relatives = {}, 0
    for split in ("train", "val", "test"):
        dataset = data.dataset(split)
        plans = [dataset.plan(i) for i in range(600)]
        shown = {index for plan in plans for index in plan.glyphs}
        assert shown <= set(data.emoji.indices[split])
        bases[split] = {base_of(data.emoji.images.names[index]) for index in shown}
        relatives += sum(len(plan.glyphs) == 2 for plan in plans)
    assert relatives > 5 and not any(a & b for a, b in itertools.combinations(bases.values(), 2))
    again = data.dataset("train")
    bases["again"] = {base_of(data.emoji.images.names[again.plan(i).glyphs[0]]) for i in range(600)}
    assert bases["again"] & bases["train"]  # the check can fail


@pytest.mark.parametrize("kind", KINDS)
def test_a_family_clip_turns_into_a_relative_of_the_same_kind(make, kind):
    dataset, plans = of_kind(make, kind, 1500)
    families = [plan._replace(moved=False) for plan in plans if plan.motion == FAMILY]
    assert families and all((len(plan.glyphs) == 2) == (plan.motion == FAMILY) for plan in plans)
    for plan in families[:10]:
        names = [dataset.images.names[index] for index in plan.glyphs]
        assert base_of(names[0]) == base_of(names[1]) and names[0] != names[1]
        words, frames = dataset.draw(plan, EIGHTHS)
        before, after = (dataset.images.image(kind, index) for index in plan.glyphs)
        assert all(np.array_equal(frame, before) for frame in frames[:3]) and unlike(before, after)
        assert all(np.array_equal(frame, after) for frame in frames[3:])
        assert words.startswith("becoming ") and caption(names[1]).endswith(words.removeprefix("becoming "))


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_shows_one_kind_throughout(make, kind):
    """Grey, line art and edges stay colourless, colour stays, and edges stay white on black."""
    dataset, plans = of_kind(make, kind, 120)
    assert {plan.kind for plan in plans} == {kind}
    for plan in plans:
        frames = np.stack(dataset.draw(plan._replace(backward=False), EIGHTHS)[1])
        colour = np.ptp(frames, axis=1).max(axis=(1, 2))  # of every frame
        if kind not in ("twemoji", "openmoji"):
            assert colour.max() == 0
        elif colourful(frames[0]):
            assert colour.min() > 10
        assert background(frames[0]) == (0 if kind == "canny" else 255)  # of the original, the first frame forward
        uncovered = posed(frames[0], Pose(right=0.5))[..., :10]
        assert uncovered.max() == 0 if kind == "canny" else uncovered.min() == 255
        rim = np.median(np.concatenate([frames[..., 0, :], frames[..., -1, :]], axis=-1))
        spreads = plan.motion in ("darken", "noise", "pixelate", "blur", "thick")  # into the first and last row
        if kind in ("canny", "line") and not spreads:
            assert rim < 40 if kind == "canny" else rim == 255, plan


def test_prompts_fit_and_say_what_a_clip_shows(make):
    dataset = make().dataset("train")
    said = Counter()
    for i in range(400):
        plan, glyph = dataset.plan(i), dataset.images.names[dataset.plan(i).glyphs[0]]
        words = dataset.draw(plan, [0.0])[0]
        style = STYLES.get(plan.kind, f"{plan.kind} style")
        still, moving = dataset["still", i, 0], dataset["clip4", i, 0]
        assert still.subjects == moving.subjects == (subject(glyph),) and still.task == moving.task == "clip"
        for prompt in (still.prompt, moving.prompt):
            assert prompt.startswith(caption(glyph)) and subject(glyph) in prompt
            assert len(prompt.encode()) <= LONGEST or prompt == caption(glyph)
        assert not still.prompt.endswith(words)
        assert moving.prompt in (still.prompt, f"{still.prompt}, {words}")
        said["motion"] += moving.prompt != still.prompt
        said["style"] += style in still.prompt
        assert style in still.prompt or plan.kind not in STYLES or len(caption(glyph)) > 65
    assert 140 < said["motion"] < 220 and 200 < said["style"] < 290


def test_what_does_not_fit_is_left_out_the_motion_first(make):
    dataset = make().dataset("train")
    plan = dataset.plan(0)._replace(kind="twemoji", style_said=True, motion_said=True)
    words = caption(dataset.images.names[plan.glyphs[0]])
    assert dataset.prompt(plan, "turning left") == f"{words}, twemoji style, turning left"
    assert dataset.prompt(plan, "x" * LONGEST) == f"{words}, twemoji style"
    assert dataset.prompt(plan._replace(style_said=False), "turning left") == f"{words}, turning left"
    assert dataset.prompt(plan._replace(motion_said=False), "turning left") == f"{words}, twemoji style"


# --- batches -------------------------------------------------------------------------------------------------------


def test_every_batch_has_one_form_and_forms_have_their_shares(make):
    data = make(batch_size=2)
    batches = first(data.train_dataloader(), 400)
    forms = Counter(form_of(batch) for batch in batches)
    assert all(abs(forms[name] / 400 - form["share"]) < 0.08 for name, form in FORMS.items())
    for batch in batches[:40]:
        form = data.forms[form_of(batch)]
        assert batch.slots == form.slots(32) and batch.tasks == ["clip"] * 2
        assert batch.images["clip"].shape == (2, form.frames, 3, 32, 32) and batch.images["clip"].dtype == torch.uint8
        assert list(batch.images) == (["first", "clip"] if form.first else ["clip"])
        if form.first:
            assert batch.images["first"].shape == (2, 1, 3, 32, 32)
    assert len({key for batch in batches[:250] for key in batch.keys}) == 500  # an epoch shows each clip once
    dataset = data.dataset("train")
    with pytest.raises(ValueError, match="different slots"):
        collate([dataset["still", 0, 0], dataset["next", 1, 0]])


def test_slots_of_a_form():
    condition, clip = ImageSlot("first", CONDITION, 16, 16), ImageSlot("clip", TARGET, 16, 16, frames=2)
    assert Form(True, 2, 1.0).slots(16) == (condition, clip) and Form(False, 2, 1.0).slots(16) == (clip,)


def test_the_header_shows_the_first_form_with_a_condition(make):
    assert make().slots == Form(True, 1, 1.0).slots(32)
    without = {name: form for name, form in FORMS.items() if not form["first"]}
    assert make(forms=without).slots == Form(False, 1, 1.0).slots(32)


def test_a_resumed_run_goes_on_exactly(make):
    run = first(make().train_dataloader(), 9)
    again = make()
    again.trainer = SimpleNamespace(global_step=2, accumulate_grad_batches=2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert same(run[4:], first(again.train_dataloader(), 5))
    assert torch.equal(before, torch.get_rng_state())  # the loader leaves the global generator alone
    again.start_batch = 6
    assert same(run[6:], first(again.train_dataloader(), 3))
    assert not same(run[5:8], first(again.train_dataloader(), 3))
    assert not same(run, first(make(seed=1).train_dataloader(), 9))
    assert [form_of(b) for b in run] != [form_of(b) for b in first(make(seed=1).train_dataloader(), 9)]
    assert same(run[:3], first(make(num_workers=1).train_dataloader(), 3))


def test_validation_is_fixed_and_takes_the_forms_in_turn(make):
    one, other = make(seed=0, val_items=8), make(seed=1, val_items=8)
    batches = list(one.val_dataloader())
    assert same(batches, list(other.val_dataloader()))
    assert not same(batches, list(one.test_dataloader())[: len(batches)])
    assert [form_of(b) for b in batches] == ["next", "continue", "still", "clip4", "clip8"] * 2
    assert [len(b) for b in batches] == [6] * 5 + [2] * 5
    keys = [key for batch in batches for key in batch.keys]
    assert len(set(keys)) == 40 and set(keys) == {f"val-{i}/{name}" for i in range(8) for name in FORMS}
    assert all(key.startswith("clip-") for key in first(one.train_dataloader(), 1)[0].keys)
    with pytest.raises(ValueError, match="val split of 2 glyphs is empty"):
        make(limit=2).val_dataloader()


def test_fit_images_are_those_of_the_emoji_data(make):
    data = make()
    assert torch.equal(data.fit_images(10), data.emoji.fit_images(10)) and data.tasks == ("clip",)
    assert not torch.equal(data.fit_images(10)[:5], data.fit_images(10)[5:])
    copied = pickle.loads(pickle.dumps(data.dataset("train")))
    assert copied.plan(3) == data.dataset("train").plan(3) != copied.plan(4)
