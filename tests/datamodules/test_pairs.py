"""PairsData: two views of one glyph, each augmented by itself, words that fit them, keyed batches, disjoint splits."""

import itertools
import pickle
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from datamodules.emoji.names import base_of, caption, subject
from datamodules.pretraining.pairs import LONGEST, STYLES, PairDataset, PairsData, augmented
from unigen.core.types import CONDITION, TARGET, Batch, ImageSlot

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def make(folder):
    def build(**options) -> PairsData:
        data = PairsData(**{"size": 32, "limit": 280, "cache": folder, "batch_size": 6, **options})
        data.prepare_data()
        return data

    return build


def first(loader, n: int) -> list[Batch]:
    return list(itertools.islice(loader, n))


def same(a: list[Batch], b: list[Batch]) -> bool:
    """Whether two runs of batches are equal in slots, words and pixels."""
    return [(x.slots, x.keys, x.prompts) for x in a] == [(y.slots, y.keys, y.prompts) for y in b] and all(
        torch.equal(x.images[name], y.images[name]) for x, y in zip(a, b, strict=True) for name in x.images
    )


def trained_on(data: PairsData) -> PairDataset:
    return data.train_dataloader().dataset


def kinds_of(sample) -> tuple[str, str]:
    first_kind, second_kind = sample.key.split("/")[1].split(">")
    return first_kind, second_kind


# --- views ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STYLES)
def test_a_view_is_close_to_its_image_and_never_the_same(make, kind):
    """Closer than another glyph's image, mostly: it must stay recognisable."""
    images = [make().emoji.images.image(kind, i) for i in range(0, 280, 7)]
    nearest = 0
    for i, image in enumerate(images):
        view, other = (augmented(image, random.Random(seed)) for seed in (i, i + 1000))
        assert view.dtype == np.uint8 and view.shape == image.shape and view.flags.c_contiguous
        assert not np.array_equal(view, image) and not np.array_equal(view, other)
        assert np.array_equal(view, augmented(image, random.Random(i)))
        distances = [np.abs(view.astype(int) - p).mean() for p in images]
        nearest += int(np.argmin(distances) == i)
    assert nearest > 0.5 * len(images)


def test_what_a_view_uncovers_has_the_colour_of_the_border():
    image = np.zeros((3, 32, 32), np.uint8)
    image[0] = 200
    for seed in range(30):
        assert augmented(image, random.Random(seed)).std(axis=(1, 2)).max() < 20  # noise, at the most


def test_views_vary_in_all_that_a_judge_should_overlook():
    """Over many seeds: a square's place and size, its colours (sometimes none), sharpness and noise."""
    image = np.full((3, 32, 32), 255, np.uint8)
    image[:, 10:22, 10:22] = np.array([200, 30, 90], np.uint8)[:, None, None]
    views = np.stack([augmented(image, random.Random(seed)) for seed in range(300)]).astype(float)
    dark = views[:, 1] < 140
    columns = np.array([np.nonzero(d)[1].mean() for d in dark])
    sizes, colours = dark.sum(axis=(1, 2)), np.ptp(views[:, :, 14:18, 14:18].mean(axis=(2, 3)), axis=1)
    corners = views[:, :, :4, :4].std(axis=(2, 3)).max(axis=1)
    assert np.ptp(columns) > 3 and sizes.max() > 1.5 * sizes.min()
    assert 10 < (colours < 15).sum() < 60 and colours.max() > 180
    assert 20 < (corners > 1).sum() < 80


def test_a_view_is_never_mirrored():
    """Captions say 'facing right'."""
    image = np.full((3, 32, 32), 255, np.uint8)
    image[:, 8:24, 6:12] = 0
    for seed in range(60):
        view = augmented(image, random.Random(seed)).astype(float).mean(axis=0)
        assert view[:, :16].mean() < view[:, 16:].mean()


# --- samples -------------------------------------------------------------------------------------------------------


def test_a_sample_shows_one_glyph_twice(make):
    data = make()
    for batch in first(data.train_dataloader(), 3):
        assert batch.slots == data.slots == (ImageSlot("first", CONDITION, 32, 32), ImageSlot("second", TARGET, 32, 32))
        assert list(batch.images) == ["first", "second"] and batch.tasks == ["pair"] * 6
        for x in batch.images.values():
            assert x.shape == (6, 1, 3, 32, 32) and x.dtype == torch.uint8
        for key, prompt, subjects in zip(batch.keys, batch.prompts, batch.subjects, strict=True):
            glyph = key.split("/")[0]
            assert prompt.startswith(caption(glyph)) and subjects == (subject(glyph),)


def test_styles_have_their_shares_and_the_words_are_the_second_images(make):
    dataset = trained_on(make())
    samples = [dataset[i % len(dataset), 31 * i] for i in range(600)]
    kinds = Counter(kinds_of(sample) for sample in samples)
    assert set(kinds) == set(itertools.product(STYLES, STYLES))
    twice = kinds[STYLES[0], STYLES[0]] + kinds[STYLES[1], STYLES[1]]
    assert 60 < twice < 125 and abs(kinds["openmoji", "twemoji"] - kinds["twemoji", "openmoji"]) < 80
    styled = 0
    for sample in samples:
        plain = caption(sample.key.split("/")[0])
        assert sample.prompt in (plain, f"{plain}, {kinds_of(sample)[1]} style")
        assert len(sample.prompt.encode()) <= LONGEST or sample.prompt == plain
        styled += sample.prompt != plain
    assert 240 < styled < 340


def test_the_two_views_are_augmented_apart(make):
    dataset = trained_on(make())
    twice = [s for i in range(200) if len(set(kinds_of(s := dataset[i, i]))) == 1]
    assert twice and not any(torch.equal(s.images["first"], s.images["second"]) for s in twice)


def test_a_style_that_does_not_fit_is_left_out():
    words, chosen = "x" * (LONGEST - 10), [random.Random(seed) for seed in range(40)]
    assert all(PairDataset._choices(words, rng)[1] == words for rng in chosen)
    assert {PairDataset._choices("x", random.Random(seed))[1] for seed in range(40)} == {
        "x",
        "x, openmoji style",
        "x, twemoji style",
    }


# --- batches -------------------------------------------------------------------------------------------------------


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
    assert same(run[:2], first(make(num_workers=1).train_dataloader(), 2))


@pytest.mark.parametrize("split", ["val", "test"])
def test_held_out_pairs_are_as_drawn_and_fixed(make, split):
    def loader(data: PairsData):
        return data.val_dataloader() if split == "val" else data.test_dataloader()

    data = make(val_items=8, test_items=8)
    batches = list(loader(data))
    assert same(batches, list(loader(make(seed=1, val_items=8, test_items=8))))
    assert [len(batch) for batch in batches] == [6, 2]
    drawn = data.emoji.images
    for batch in batches:
        for i, (key, prompt) in enumerate(zip(batch.keys, batch.prompts, strict=True)):
            index = drawn.names.index(key.split("/")[0])
            assert key.endswith("/openmoji>twemoji") and prompt == caption(drawn.names[index])
            assert np.array_equal(batch.images["first"][i, 0], drawn.image("openmoji", index))
            assert np.array_equal(batch.images["second"][i, 0], drawn.image("twemoji", index))
            assert not np.array_equal(batch.images["first"][i, 0], batch.images["second"][i, 0])


def test_splits_are_disjoint_by_base(make):
    data = make(val_items=999, test_items=999)
    train = {sample.key.split("/")[0] for i in range(len(trained_on(data))) for sample in [trained_on(data)[i, i]]}
    held = {
        split: {key.split("/")[0] for batch in loader for key in batch.keys}
        for split, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader()))
    }
    bases = {"train": {base_of(g) for g in train}} | {k: {base_of(g) for g in v} for k, v in held.items()}
    assert all(bases.values()) and sum(map(len, held.values())) + len(train) == 280
    assert not any(a & b for a, b in itertools.combinations(bases.values(), 2))
    some = set(sorted(train)[::2])
    assert {base_of(g) for g in some} & {base_of(g) for g in train - some}, "the check could not fail"


def test_a_split_without_glyphs_is_refused(make):
    with pytest.raises(ValueError, match="val split of 2 glyphs is empty"):
        make(limit=2).val_dataloader()
    with pytest.raises(ValueError, match="batch_size=0"):
        make(batch_size=0)


def test_datasets_travel_to_workers(make):
    dataset = trained_on(make())
    copied = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copied[3, 5].images["first"], dataset[3, 5].images["first"])
    assert not torch.equal(copied[3, 5].images["first"], dataset[3, 6].images["first"])
    assert torch.equal(make().fit_images(4), make().emoji.fit_images(4))


def test_the_yaml_lists_every_argument_with_its_default():
    written = yaml.safe_load((ROOT / "experiments/conf/data/pairs.yaml").read_text())
    defaults = dict(PairsData.__init__.__kwdefaults__)
    assert set(written) == {"_target_", *defaults}
    interpolated = {"seed", "test_items"}
    assert all(written[key] == defaults[key] for key in defaults if key not in interpolated)
