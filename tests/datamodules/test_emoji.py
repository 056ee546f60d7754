"""EmojiSplits: which glyphs train, validate and test, and the images that a codec is fitted on."""

import pytest
import torch

from datamodules.emoji.cache import KINDS, glyphs
from datamodules.emoji.names import base_of
from datamodules.emoji.splits import EmojiSplits, split_indices, split_of


def splits(**options) -> EmojiSplits:
    return EmojiSplits(**{"size": 24, "val_items": 64, "test_items": 64, "limit": 200, **options})


def straddling(names, split) -> set[str]:
    """Base glyphs with glyphs in more than one split, `split` telling a glyph's."""
    splits: dict[str, set[str]] = {}
    for name in names:
        splits.setdefault(base_of(name), set()).add(split(name))
    return {base for base, found in splits.items() if len(found) > 1}


def test_splits_are_disjoint_by_base_and_about_90_5_5():
    names = glyphs()
    indices = split_indices(names)
    where = {names[i]: split for split, found in indices.items() for i in found}
    assert len(where) == len(names) == sum(map(len, indices.values()))
    assert not straddling(names, where.get)
    assert straddling(names, split_of)  # splitting by glyph would straddle
    assert 0.85 < len(indices["train"]) / len(names) < 0.93
    assert min(len(indices["val"]), len(indices["test"])) > 150


def test_val_and_test_begin_with_one_glyph_of_every_base():
    names, indices = glyphs(), split_indices(glyphs())
    for split in ("val", "test"):
        bases = [base_of(names[i]) for i in indices[split]]
        assert len(set(bases[:64])) == 64 and len(set(bases)) < len(bases)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"size": 4}, "size=4"),
        ({"val_items": 0}, "val_items=0"),
        ({"test_items": 0}, "test_items=0"),
        ({"limit": 0}, "limit=0"),
    ],
)
def test_bad_options_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        splits(**wrong)


def test_fit_images_are_of_all_kinds_and_of_training_only(folder):
    data = splits(cache=folder)
    images = data.fit_images(20)
    assert images.shape == (20, 3, 24, 24) and images.dtype == torch.uint8
    assert torch.equal(images, splits(cache=folder, val_items=3).fit_images(20))
    assert len({image.numpy().tobytes() for image in images}) == 20
    train = set(data.indices["train"])
    for k, kind in enumerate(KINDS):
        found = [i for i in range(200) if torch.equal(torch.tensor(data.images.image(kind, i)), images[k])]
        assert found and set(found) <= train
