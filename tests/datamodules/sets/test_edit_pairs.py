"""Pairs listed in JSON lines (PhotoDoodle, relighting): kinds, both keys of a caption, wrong lines, paths."""

import json
from pathlib import Path

import numpy as np
import pytest
from miniature import pixels, png, written

from datamodules.reading.images import BadImage
from datamodules.sets.edit_pairs import EditPairs

KINDS = ("sksmagiceffects", "relighting")


def made(root: Path, *more: str, kinds=KINDS, **options) -> EditPairs:
    lines = [{"source": f"{i}.png", "target": f"edited/{i}.png", "text": f"add {i}"} for i in range(2)]
    written(root / "sksmagiceffects/meta.jsonl", "\n\n".join([*map(json.dumps, lines), *more]))
    line = {"source": "0.png", "target": "edited/0.png", "caption": "light from the  left", "mood": 3}
    written(root / "relighting/meta.jsonl", "\ufeff" + json.dumps(line))
    for k, kind in enumerate(KINDS):
        for i in range(2):
            written(root / kind / f"{i}.png", png(10 * k + i, 24))
            written(root / kind / f"edited/{i}.png", png(10 * k + i + 5, 24))
    return EditPairs(root, kinds, **options)


def test_pairs_are_named_after_their_kind(tmp_path):
    found = made(tmp_path)
    assert found.names == ("target", "sksmagiceffects_source", "relighting_source") and len(found) == 3
    for i, (kind, seed, caption) in enumerate(
        (("sksmagiceffects", 0, "add 0"), ("sksmagiceffects", 1, "add 1"), ("relighting", 10, "light from the left"))
    ):
        record = found.record(i)
        assert set(record.images) == {"target", f"{kind}_source"} and record.caption() == caption
        assert np.array_equal(record.read(f"{kind}_source"), pixels(seed, 24))
        assert np.array_equal(record.read("target"), pixels(seed + 5, 24)) and record.size() == (24, 16)
    assert found.record(1).key == "sksmagiceffects, line 3"


def test_kinds_limit_and_the_middle(tmp_path):
    assert made(tmp_path, kinds=["relighting"]).record(0).key == "relighting, line 1"
    few = made(tmp_path, limit=2)
    assert len(few) == 2 and few.record(1).caption() == "add 1"
    with pytest.raises(IndexError):
        few.record(2)
    for wrong in ("relighting", ()):
        with pytest.raises(ValueError, match="kinds="):
            EditPairs(tmp_path, wrong)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 5"),
        ("[]", "line 5: it is list"),
        ('{"source": "a", "image": "b", "text": "c"}', "line 5: it has no target but source, image, text"),
        ('{"source": "a", "target": "b", "caption": null, "text": "c"}', "it has no caption but source"),
        ('{"source": 3, "target": "b"}', "it has no source, caption but source, target"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, told):
    found = made(tmp_path, line)
    with pytest.raises(ValueError, match=told):
        len(found)


def test_files_that_are_missing_broken_or_outside_are_refused(tmp_path):
    written(tmp_path / "secret.png", png(1))
    lines = [
        {"source": source, "target": "edited/0.png", "text": ""}
        for source in ("none.png", "bad.png", "../../secret.png")
    ]
    root = tmp_path / "set"
    found = made(root, *map(json.dumps, lines))
    written(root / "sksmagiceffects/bad.png", png(1)[:50])
    for i, told in ((2, "there is no such file"), (3, r"sksmagiceffects/bad\.png")):
        with pytest.raises(BadImage, match=told):
            found.record(i).read("sksmagiceffects_source")
    assert found.record(2).captions == {}
    with pytest.raises(BadImage, match="leads out"):
        found.record(4)


def test_what_is_not_there_is_named(tmp_path):
    found = made(tmp_path, kinds=["unicorns"])
    with pytest.raises(ValueError, match=r"no folder .*unicorns"):
        len(found)
    (tmp_path / "relighting/meta.jsonl").unlink()
    with pytest.raises(ValueError, match=r"no file .*relighting/meta\.jsonl"):
        len(EditPairs(tmp_path, ["relighting"]))
    written(tmp_path / "relighting/meta.jsonl", "\n")
    with pytest.raises(ValueError, match="no pair in relighting"):
        len(EditPairs(tmp_path, ["relighting"]))
