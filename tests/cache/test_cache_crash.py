"""Killed writers, writers side by side, broken files: a cache is whole at any moment, and nothing in it is wrong."""

import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_runs import line, small
from tiny import composed

from unigen.cache import files as cache_files
from unigen.cache import upkeep
from unigen.cache.files import BadShard, Shelf, homes, read_shard, shards, write_shard
from unigen.cache.store import Cache, StrictCache
from unigen.cache.upkeep import gc, verify
from unigen.tools.cache import filling as cache_build
from unigen.tools.cache.filling import build_cache, reencode

HOME = "ab" * 32
KILLS = 8


def entries(*numbers: int) -> dict[str, torch.Tensor]:
    return {f"{n:064x}": torch.full((4, 8), float(n)) for n in numbers}


def shelf(folder: Path) -> Shelf:
    return Shelf(folder / HOME, {"class": "Fake"})


def numbers(folder: Path) -> dict[int, float]:
    """Every entry as a fresh reader sees it."""
    seen = shelf(folder)
    return {int(key, 16): float(seen.get(key)[0, 0]) for key in seen}


def forked(task: Callable[[], object]) -> int:
    """The id of a child process that runs `task` without a word."""
    if child := os.fork():
        return child
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        task()
    finally:
        os._exit(0)


def slowly(task: Callable[[], object], shards: int = 6) -> None:
    """`task` with disks so slow that it is hit while it writes; so many shards later it hangs in the middle of one."""
    sync, done = os.fsync, itertools.count()
    os.fsync = lambda file: (sync(file), time.sleep(0.004 if next(done) < shards else 60))
    task()


@pytest.fixture
def filling(tmp_path, monkeypatch):
    """A configuration whose build writes a shard for every four images."""
    config = small(tmp_path / "run", "encoder/codec=autoencoder_mini", f"cache={tmp_path / 'kept'}")
    config["trainer"]["max_steps"] = 40
    source = cache_build.Source(config)
    monkeypatch.setattr(cache_build, "Source", lambda config: source)
    monkeypatch.setattr(cache_files, "SHARD_BYTES", 4096)
    return config


def expected(config) -> set[str]:
    """The keys of all that the data show."""
    source = cache_build.Source(config)
    batches = (batch for split in source.splits(None) for batch in split.batches)
    return {cache_build.clip_key(x) for batch in batches for clips in source.clips(batch) for x in clips}


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_only_what_was_not_written(tmp_path, filling):
    rng, kept = random.Random(0), tmp_path / "kept"
    for _ in range(KILLS):
        before, child = len(list(kept.rglob("*.safetensors"))), forked(lambda: slowly(lambda: build_cache(filling)))
        deadline = time.monotonic() + 20
        while len(list(kept.rglob("*.safetensors"))) <= before and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.012))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        stocks, bad = verify(kept)
        assert bad == [] and sum(stock.entries for stock in stocks.values()) > 0
    wanted, found = expected(filling), set(shelf_of(kept))
    assert found < wanted, "negative control: the killed ones had not finished"
    build_cache(filling)
    assert verify(kept)[1] == [] and set(shelf_of(kept)) == wanted
    assert reencode(filling, 4) == (4, [])


def shelf_of(kept: Path) -> Shelf:
    (home,) = homes(kept)
    return Shelf(home, {})


def test_two_writers_at_once(tmp_path, filling, monkeypatch):
    """Both have looked into the folder before either wrote."""
    kept, opened = tmp_path / "kept", cache_build.open_cache(filling, StrictCache)
    opened.shelf(cache_build.Source(filling).codec)
    monkeypatch.setattr(cache_build, "open_cache", lambda *_: opened)
    for child in [forked(lambda: build_cache(filling)) for _ in range(2)]:
        os.waitpid(child, 0)
    stocks, bad = verify(kept)
    keys = set(shelf_of(kept))
    assert bad == [] and keys == expected(filling)
    assert sum(stock.entries for stock in stocks.values()) > len(keys), "both made some of them"
    assert len(gc(kept, yes=False).merged) > 2
    stocks, bad = verify(kept)
    assert bad == [] and set(shelf_of(kept)) == keys
    assert sum(stock.entries for stock in stocks.values()) == len(keys), "and one of each is left"


@pytest.mark.parametrize("length", [0, 5, 60, -1])
def test_a_truncated_shard_is_named_and_passed_over(length, tmp_path):
    good = write_shard(tmp_path / HOME, entries(1, 2), {})
    bad = write_shard(tmp_path / HOME, entries(3), {})
    assert verify(tmp_path)[1] == [], "negative control"
    bad.write_bytes(bad.read_bytes()[:length])
    assert [error.path for error in verify(tmp_path)[1]] == [bad]
    with pytest.warns(UserWarning, match=f"{bad.name} is no whole shard"):
        assert numbers(tmp_path) == {1: 1.0, 2: 2.0}
    assert gc(tmp_path, yes=False).broken and bad.exists(), "nothing that may hold data goes without a word"
    gc(tmp_path, yes=True)
    assert shards(tmp_path / HOME) == [good]


def test_a_flipped_bit_and_a_shard_in_the_wrong_folder_are_found(tmp_path):
    path = write_shard(tmp_path / HOME, entries(1, 2), {})
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    with pytest.raises(BadShard, match="its checksum differs"):
        read_shard(path)
    moved = write_shard(tmp_path / HOME, entries(3), {})
    (tmp_path / ("cd" * 32)).mkdir()
    moved = moved.rename(tmp_path / ("cd" * 32) / moved.name)
    with pytest.raises(BadShard, match="the wrong folder"):
        read_shard(moved)
    assert len(verify(tmp_path)[1]) == 2 and gc(tmp_path, yes=False).merged == []


def test_gc_merges_small_shards_and_keeps_every_key(tmp_path, monkeypatch):
    monkeypatch.setattr(upkeep, "SHARD_BYTES", 512)
    monkeypatch.setattr(upkeep, "SMALL", 300)
    for some in [(1, 2, 3), (1, 2, 3), (3, 4), (5,), (4, 5, 6), (7,), (8,)]:  # 128 bytes an entry
        write_shard(tmp_path / HOME, entries(*some), {"class": "Fake"})
    reader = shelf(tmp_path)
    assert reader.get(f"{7:064x}") is not None
    done = gc(tmp_path, yes=False)
    stocks, bad = verify(tmp_path)
    assert bad == [] and stocks[HOME].entries == 8 and stocks[HOME].about["class"] == "Fake"
    assert len(done.merged) == 5 and len(done.written) == 1, "the small ones, and one of those that are alike"
    assert numbers(tmp_path) == {n: float(n) for n in range(1, 9)}
    assert gc(tmp_path, yes=False).merged == [], "a second time there is nothing to do"
    assert [float(reader.get(f"{n:064x}")[0, 0]) for n in (7, 8)] == [7.0, 8.0], "a reader from before follows"


def test_gc_leaves_one_of_each_over_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(upkeep, "SHARD_BYTES", 300)  # two entries
    for n in (*range(8), *range(8)):
        write_shard(tmp_path / HOME, entries(n), {})
    assert verify(tmp_path)[0][HOME].entries == 16
    assert len(gc(tmp_path, yes=False).written) == 4
    assert verify(tmp_path)[0][HOME].entries == 8 and numbers(tmp_path) == {n: float(n) for n in range(8)}


def test_gc_removes_old_temporary_files_and_leaves_what_is_not_its_own(tmp_path):
    home, other = tmp_path / HOME, tmp_path / "weights"
    write_shard(home, entries(1), {})
    other.mkdir()
    for path in (home / ".a.safetensors.x.part", home / ".b.safetensors.y.part", other / "model.safetensors"):
        path.write_bytes(b"half")
    os.utime(home / ".a.safetensors.x.part", (time.time() - 4000,) * 2)
    done = gc(tmp_path, yes=True, keep=set())
    assert [path.name for path in done.temporary] == [".a.safetensors.x.part"]
    assert (home / ".b.safetensors.y.part").exists() and (other / "model.safetensors").exists()
    assert len(done.others) == 1 and shards(home) == []


def test_entries_wait_for_a_full_shard_or_a_minute(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(cache_files, "SHARD_BYTES", 300)
    writer, reader = shelf(tmp_path), shelf(tmp_path)
    for n in (1, 2):
        writer.put(*next(iter(entries(n).items())))
    assert shards(tmp_path / HOME) == [] and len(writer) == 2 and writer.get(f"{1:064x}") is not None
    writer.put(*next(iter(entries(3).items())))
    assert len(shards(tmp_path / HOME)) == 1, "three of 128 bytes are enough"
    writer.put(*next(iter(entries(4).items())))
    clock[0] = 61.0
    writer.flush_if_due()
    assert len(shards(tmp_path / HOME)) == 2
    assert reader.get(f"{1:064x}") is None
    reader.put(*next(iter(entries(5).items())))
    reader.flush()
    assert reader.get(f"{1:064x}") is not None, "whoever writes sees what others wrote"


def test_what_waits_is_written_when_a_cache_goes(tmp_path):
    made = cache_build.build(composed(*line("encoder/codec=patch_pca"))["encoder"]["codec"])
    kept = Cache(tmp_path)
    kept.moments(made, torch.zeros(2, 1, 3, 16, 16, dtype=torch.uint8), torch.device("cpu"))
    assert verify(tmp_path)[0] == {}
    del kept
    assert [stock.entries for stock in verify(tmp_path)[0].values()] == [1]
