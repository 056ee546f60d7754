"""The commands build, verify and gc of `experiments/cache.py`, with what they print."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from unigen.cache.store import LOSSY, fingerprint
from unigen.cache.upkeep import gc, verify
from unigen.config.values import ConfigError
from unigen.tools.cache.filling import Source, build_cache, reencode
from unigen.training.experiment import quiet

SAMPLE = 16  # the number of entries of a kind that verify encodes again


def run_command(command: str, config: Mapping[str, Any], options: Mapping[str, str], with_exp: bool) -> None:
    """Run one command on the folder `config["cache"]`. Raises ValueError or OSError, each with one sentence."""
    if not isinstance(config["cache"], str):
        raise ConfigError("say which folder: cache=<folder>")
    folder = Path(config["cache"])
    if command != "build" and not folder.is_dir():
        raise ConfigError(f"cache={folder} is no folder; build makes it")
    quiet()
    if command == "build":
        _build(config, options)
    elif command == "verify":
        _verify(folder, config, int(options.get("sample", SAMPLE)) if with_exp else 0)
    else:
        _gc(folder, config, options, with_exp)


def _build(config: Mapping[str, Any], options: Mapping[str, str]) -> None:
    try:
        build_cache(config, int(options["batches"]) if "batches" in options else None)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; finished entries are kept, and the same command continues from there")
        raise SystemExit(130) from None


def _verify(folder: Path, config: Mapping[str, Any], sample: int) -> None:
    console = Console(highlight=False)
    stocks, bad = verify(folder)
    for name, stock in stocks.items():
        kind = f"{stock.about.get('class')} {name[:12]} ({stock.about.get('stored')})"
        console.print(f"{kind}: {stock.entries} entries in {_count(stock.shards, 'shard')}, {stock.bytes / 1e6:.1f} MB")
    if not stocks:
        console.print(f"{folder} holds no entries")
    compared, wrong = reencode(config, sample) if sample else (0, [])
    if sample:
        console.print(f"{compared} kept entries of held-out data were encoded again, {len(wrong)} of them differ")
    _list("", [*map(str, bad), *wrong])
    if bad or wrong:
        raise ConfigError(
            f"{_count(len(bad), 'bad shard')} and {_count(len(wrong), 'entry that differs', 'entries that differ')} "
            f"in {folder}: gc yes=true removes bad shards, and what is missing is encoded again"
        )


def _gc(folder: Path, config: Mapping[str, Any], options: Mapping[str, str], with_exp: bool) -> None:
    keep = None
    if "others" in options:
        if not with_exp:
            raise ConfigError("others=drop needs +exp=NAME, the experiment whose encoders' entries are kept")
        source = Source(config)
        mine = [encoder for encoder in (source.codec, source.text) if encoder is not None]
        keep = {fingerprint(encoder, lossy) for encoder in mine for lossy in (None, *LOSSY)}
    yes = options.get("yes") == "true"
    done = gc(folder, yes, keep)
    console = Console(highlight=False)
    console.print(
        f"{_count(len(done.temporary), 'temporary file')} removed, "
        f"{_count(len(done.merged), 'shard')} merged into {len(done.written)}"
    )
    fate = "removed" if yes else "would be removed with yes=true"
    _list(f"{fate}: ", [*map(str, done.broken), *(f"{path} is of another encoder" for path in done.others)])


def _list(before: str, lines: Sequence[str]) -> None:
    for line in lines:
        Console(highlight=False).print(f"{before}{line}", soft_wrap=True, markup=False)


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
