"""Folders of anything: of 4,000 files with odd names and broken contents each is used or named, and nothing raised."""

import json
import os
import random
import unicodedata
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from test_fuzzed_images import mutated, valid

from datamodules.graph.graph import AnnotationGraph
from datamodules.reading.folder import scan
from datamodules.reading.images import BadImage
from datamodules.sets.data import SetGraphData
from datamodules.sets.own_folder import OwnFolder

FILES = 32  # in a folder
ANNOTATIONS = ("canny", "depth")
GRAPH = AnnotationGraph(
    nodes={"condition": ["canny", "depth", "hed"]},
    groups={"make": {"maps": ["canny|depth|hed > target"]}},
)
STEMS = ("a", "b", "dog", "dog_2", "photo 1", "IMG.0001", "-rf", "a,b", "%s", "x" * 200, "new\nline", "\x1b[31m")
STEMS = (*STEMS, "caf\u00e9", "cafe\u0301", "\u732b")
WORDS = ("", "", "", "", "_canny", ".depth", "_cany", "_night", ".png", "_mask")
IMAGES = (".png", ".jpg", ".JPG", ".jpeg", ".webp", ".gif", ".bmp", ".tiff", ".heic", ".avif", ".npy", ".svg", ".psd")
TEXTS = (".txt", ".caption", ".TXT", ".json")
TABLES = ("metadata.csv", "metadata.jsonl", "captions.tsv", "labels.csv", "captions.jsonl")
OTHERS = (".md", "", ".mp4", ".zip", ".png~")
FOLDERS = ("", "", "", "sub", "canny", "depth", "control", "2024", "day one", ".git")
HARD = (b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"\xe9", b'"', b"\n", b",", b"{", b"[[[[", b"\\u0000", b"\xff", b"\x85")


def text(rng: random.Random) -> bytes:
    """A caption in some encoding, mostly whole."""
    words = rng.choice(
        ("a cat", "caf\u00e9 \u732b", "", " \r\n", "x" * rng.choice((10, 5000)), "two\nlines", "\u202e\u0301")
    )
    return words.encode(rng.choice(("utf-8", "utf-8-sig", "utf-16", "utf-8")))


def rows(rng: random.Random, names: list[str], kind: str) -> bytes:
    """A table on some of the names, and on some that are not there or lead out."""
    found, keys = [], (rng.choice(("file_name", "file_name", "image", "id")), rng.choice(("text", "caption", "label")))
    for _ in range(rng.randrange(8)):
        name = rng.choice((*names, "gone.png", "../../etc/passwd", "/etc/passwd", "", "a\0.png", "\ud800.png"))
        found.append((name, rng.choice(("a cat", "", 'say "hi"', "x\ny", None, 3, ["a"]))))
    if kind.endswith(".jsonl"):
        return "\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in found).encode()
    comma = "\t" if kind.endswith(".tsv") else rng.choice(",;")
    return "\r\n".join(comma.join(str(cell) for cell in row) for row in [keys, *found]).encode("utf-8", "replace")


def broken(rng: random.Random, data: bytes) -> bytes:
    """The data as they are, or with pieces cut out, put in, or in their place."""
    for _ in range(rng.choice((0, 0, 1, 3))):
        at = rng.randrange(len(data) + 1)
        data = data[:at] + rng.choice(HARD) + data[at + rng.choice((0, 0, 1, 30)) :]
    return rng.choice((data, data, data, data, rng.randbytes(rng.randrange(60)), b""))


def made(root: Path, rng: random.Random, sources: list[bytes]) -> None:
    """A folder of FILES files."""
    names: list[str] = []
    for _ in range(FILES):
        stem = rng.choice(STEMS) + rng.choice(WORDS)
        kind = rng.randrange(20)
        folder = rng.choice(FOLDERS)
        if kind < 11:
            name, data = stem + rng.choice(IMAGES), rng.choice(sources)
            data = data if rng.random() < 0.7 else mutated(rng, data, sources)
        elif kind < 15:
            name = rng.choice((*names, stem)).rsplit(".", 1)[0].rpartition("/")[2] + rng.choice(TEXTS)
            data = json.dumps({rng.choice(("caption", "text", "tags")): rng.choice(("a", "", None, 3))}).encode()
            data = broken(rng, data if name.endswith(".json") else text(rng))
        elif kind < 17:
            name = rng.choice(TABLES)
            data = broken(rng, rows(rng, [name.rpartition("/")[2] for name in names] or ["a.png"], name))
        else:
            name, data = rng.choice(("", ".")) + stem + rng.choice(OTHERS), rng.randbytes(rng.randrange(20))
        path = root / folder / (name or "none")
        path.parent.mkdir(parents=True, exist_ok=True)
        if len(os.fsencode(path.name)) < 250 and not os.path.lexists(path):
            link = rng.random()
            if link < 0.04:
                path.symlink_to(rng.choice((root, root.parent, root / "gone", path, root / "sub")))
            else:
                path.write_bytes(data)
            names.append(f"{folder}/{name}")
    if rng.random() < 0.3:
        (root / os.fsdecode(b"caf\xe9.png")).write_bytes(rng.choice(sources))


def walked(root: Path) -> Counter[str]:
    """All files and links that lie below a folder, in NFC, hidden folders as one, found without the scan."""
    found: Counter[str] = Counter()
    for folder, folders, files in os.walk(root):
        hidden = [name for name in folders if name.startswith(".")]
        links = [name for name in folders if os.path.islink(os.path.join(folder, name)) and name not in hidden]
        folders[:] = [name for name in folders if name not in (*hidden, *links)]
        for name in (*files, *hidden, *(f"{link}/" for link in links)):
            path = os.fsencode(os.path.relpath(os.path.join(folder, name), root)).decode("utf-8", "backslashreplace")
            path = unicodedata.normalize("NFC", path + "/" * name.endswith("/"))
            found[path.replace("\n", "\\n").replace("\x1b", "\\x1b")] += 1
    return found


def check(root: Path) -> tuple[str, int]:
    """What became of a folder, and how many files it has; everything must be counted, in words of one line."""
    found = walked(root)
    total = found.total()
    try:
        scanned = scan(root, ANNOTATIONS)
    except ValueError as error:  # two files that could be the same, or no image
        assert str(root) in str(error) or "remove one" in str(error) or "rename it" in str(error), error
        assert "\n" not in str(error) and len(str(error)) < 6000
        return "refused", total
    told = Counter(scanned.used) + Counter(name for name, _ in scanned.left_out)
    linked = [name for name in found if name.endswith("/")]
    inside = {name for name in told if any(name.startswith(link) for link in linked)}  # of links to folders
    assert {name for name in found if not name.endswith("/")} == {name for name in told if name not in inside}
    assert all(told[name] == found[name] for name in found if not name.endswith("/"))
    assert all(any(name.startswith(link) for name in inside) for link in linked)
    paths = [path for record in scanned.records for path in (record.target, *record.annotations.values())]
    assert all(record.key.isprintable() for record in scanned.records)
    assert len({record.key for record in scanned.records}) == len(scanned.records)
    assert paths and all(path.is_file() for path in paths)
    for record in scanned.records:
        assert record.caption != "" and not {"\n", "\r", "\0"} & set(record.caption or "")
    return "scanned", total


def read(root: Path) -> Counter[str]:
    """What became of the images of a folder; nothing but a BadImage is raised, and the header is one line."""
    own, outcomes = OwnFolder(root, ANNOTATIONS), Counter()
    data = SetGraphData(graph=GRAPH, train=own, held_out=5, size=64, rows=[0, 0], report=root / "none")
    assert "\n" not in data.said() and str(len(own)) in data.said() and "\n" not in data.report()
    for i in range(len(own)):
        for image in own.record(i).images.values():
            try:
                pixels = image.read()
                outcomes["read"] += pixels.dtype == np.uint8 and pixels.shape[0] == 3
            except BadImage as error:
                assert "\n" not in str(error)
                outcomes["bad"] += 1
    return outcomes


def fuzz(tmp_path: Path, seed: int, folders: int) -> tuple[Counter[str], int]:
    rng, sources, outcomes, files = random.Random(seed), valid(), Counter(), 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(folders):
            root = tmp_path / f"{number}" / "data"
            root.mkdir(parents=True)
            made(root, rng, sources)
            outcome, count = check(root)
            outcomes[outcome] += 1
            files += count
            outcomes += read(root) if outcome == "scanned" else Counter()
    return outcomes, files


def test_files_of_a_few_odd_folders_are_used_or_named(tmp_path, capfd):
    outcomes, files = fuzz(tmp_path, 1, 12)
    capfd.readouterr()  # libtiff writes to stderr itself
    assert files > 250 and outcomes["scanned"] > 4 and outcomes["read"] > 20 and outcomes["bad"] > 2


@pytest.mark.slow
def test_four_thousand_files_are_used_or_named(tmp_path, capfd):
    outcomes, files = fuzz(tmp_path, 0, 200)
    capfd.readouterr()
    assert files > 4000 and outcomes["scanned"] > 190 and outcomes["read"] > 500 and outcomes["bad"] > 50


def test_the_count_notices_a_file_that_is_lost(tmp_path, monkeypatch):
    """Negative control."""
    made(tmp_path, random.Random(3), valid())
    (tmp_path / "sure.png").write_bytes(valid()[0])
    assert check(tmp_path)[0] == "scanned"
    whole = scan(tmp_path, ANNOTATIONS)
    monkeypatch.setitem(check.__globals__, "scan", lambda *_: whole._replace(left_out=whole.left_out[1:]))
    with pytest.raises(AssertionError):
        check(tmp_path)
