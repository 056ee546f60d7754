"""Configurations as plain data: resolves, writes, reads and compares them. ConfigError is the one error for bad input.

Light on purpose (no torch, no Lightning): entry points import it before anything heavy.
"""

from __future__ import annotations

import importlib.util
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import MarkedYAMLError

from unigen.config.commands import is_checkout
from unigen.config.files import write_text
from unigen.config.moved import moved

# Keys in which two runs of one configuration may differ: where it is written, who is told, where latents are kept, what
# stops it.
IGNORED = ("run_dir", "dry_run", "debug", "logger", "hydra", "cache", "callback.preemption", "table.margin")
# Those in which they may differ as long as the product stays: how the samples of a step are shared out.
SHARES = ("trainer.devices", "trainer.num_nodes", "trainer.accumulate_grad_batches", "data.batch_size")
# What is done with a model and does not train it; of these, what decides the numbers of a finished run.
MEASURING = ("evaluation", "metric", "solver", "data.test_items")
WATCHING = ("validation", *(f"callback.{name}" for name in ("checkpoint", "sample_grid", "console", "progress")))
WATCHING = (*WATCHING, "trainer.limit_val_batches", "trainer.log_every_n_steps")
LENGTH = "trainer.max_steps"
ABSENT = "(absent)"


class ConfigError(ValueError):
    """Bad input from the user. The message is one sentence: what is wrong, where, and what would be legal."""


def plain(cfg: DictConfig) -> dict[str, Any]:
    """`cfg` as nested dicts and lists, every interpolation resolved.

    Raises:
        ConfigError: a value is `???`, or an interpolation leads nowhere; names the key.
    """
    try:
        return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as exc:
        raise ConfigError(f"'{exc.full_key}' has no value; give it on the command line: {exc.full_key}=...") from exc
    except OmegaConfBaseException as exc:
        raise ConfigError(f"cannot resolve '{exc.full_key}': {sentence(exc)}") from exc


def write_config(run_dir: Path, config: Mapping[str, Any]) -> None:
    """Write `run_dir/config.yaml` atomically, also when the process is killed half-way.

    Raises:
        ConfigError: the folder cannot be made or written (no permission, full disk).
    """
    try:
        write_text(run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))))
    except OSError as exc:
        raise ConfigError(f"{exc}; free the disk or use run_dir=<folder>") from exc


def read_config(run_dir: Path) -> dict[str, Any]:
    """Read the plain config that `write_config` left in `run_dir`, with classes under today's names.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    path = run_dir / "config.yaml"
    try:
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except FileNotFoundError as exc:
        raise ConfigError(f"{run_dir} is not a run folder: it has no config.yaml") from exc
    except Exception as exc:  # PyYAML and OmegaConf raise a dozen unrelated types for damaged YAML
        raise ConfigError(f"cannot read {path} ({sentence(exc)}); restore it or use another folder") from exc
    if not isinstance(config, dict) or not config:
        raise ConfigError(f"cannot read {path} (it holds no configuration); restore it or use another folder")
    return moved(config)


class Change(NamedTuple):
    """The differences with which a run may go on: more steps (from, to), and other measurements."""

    steps: tuple[int, int] | None = None
    measuring: str | None = None

    def __bool__(self) -> bool:
        return bool(self.steps or self.measuring)


def same_run(run_dir: Path, config: Mapping[str, Any], ignore: Sequence[str] = IGNORED) -> Change:
    """Check that `run_dir` holds no configuration, or this one, or one that this one continues. Writes nothing.

    A run goes on with more steps, and may be validated and measured in another way. An absent key counts as null,
    which is how a key that is younger than the run says "off".

    Args:
        ignore: dotted keys that may differ, each with everything below it.

    Raises:
        ConfigError: the folder holds another configuration, or one that cannot be read.
    """
    if not (run_dir / "config.yaml").exists():
        for made, what in {"summary.json": "is finished", "checkpoints": "has checkpoints"}.items():
            if (run_dir / made).exists():
                raise ConfigError(
                    f"{run_dir} {what} and has no config.yaml; restore it or use run_dir=<another folder>"
                )
    refused, change = _compared(run_dir, config, ignore)
    if refused:
        raise ConfigError(f"{run_dir} already holds another configuration ({refused}); use run_dir=<another folder>")
    return change


def change_of(run_dir: Path, config: Mapping[str, Any]) -> Change:
    """Return the `Change` of a folder that has passed `same_run`; refuses nothing."""
    return _compared(run_dir, config, IGNORED)[1]


def _compared(run_dir: Path, config: Mapping[str, Any], ignore: Sequence[str]) -> tuple[str | None, Change]:
    """Return the differences that make this another run, in words (None: there are none), and the allowed `Change`."""
    if not (run_dir / "config.yaml").exists() or _untouched(run_dir):
        return None, Change()
    old, new = ({k: v for k, v in _leaves(_portable(c)) if v != {}} for c in (read_config(run_dir), config))
    steps = (old.get(LENGTH), new.get(LENGTH))
    if _step_samples(old) == _step_samples(new) is not None:
        ignore = (*ignore, *SHARES)
    if all(type(number) is int for number in steps) and steps[0] < steps[1]:
        ignore = (*ignore, LENGTH)
    changed = [key for key in {**new, **old} if old.get(key) != new.get(key) and not _below(key, ignore)]
    refused = [key for key in changed if not _below(key, (*MEASURING, *WATCHING))]
    measuring = [key for key in changed if _below(key, MEASURING)]
    if "evaluation.items" in measuring:
        measuring = [key for key in measuring if key != "data.test_items"]  # it follows evaluation.items
    change = Change(steps if LENGTH in ignore else None, _told(measuring, old, new))
    return _told(refused, old, new), change


def _untouched(run_dir: Path) -> bool:
    """True if the configuration is the only file there: a run that was refused before it began harms no other."""
    return all(path.name == "config.yaml" or path.name[0] == "." for path in run_dir.iterdir())


def _below(key: str, names: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _told(keys: Sequence[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """The first three differences in words, and the number of further ones; None if there is none."""
    if not keys:
        return None
    shown = ", ".join(f"{key} is {_short(old, key)} there and {_short(new, key)} here" for key in keys[:3])
    return f"{shown}, and {len(keys) - 3} more" if len(keys) > 3 else shown


def _step_samples(leaves: Mapping[str, Any]) -> int | None:
    """The number of samples of an optimiser step; None where the configuration does not say (devices=auto)."""
    shares = [leaves.get(key) for key in SHARES]
    return math.prod(shares) if all(type(share) is int for share in shares) else None


def _portable(config: Mapping[str, Any]) -> Any:
    """The configuration with its own run_dir removed from every path, so that a folder may be moved."""

    def clean(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {key: clean(value) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [clean(value) for value in node]
        return node.replace(home, "<run_dir>") if home and isinstance(node, str) else node

    home = config.get("run_dir")
    return clean(config)


def own_packages(root: Path, names: Sequence[str] = ("callbacks", "datamodules", "unigen")) -> None:
    """Check that each top-level package would be imported from `root`. Imports none of them.

    Raises:
        ConfigError: one comes from elsewhere (another project's folder, a stale install) or is not found.
    """
    again, instead = (f"run pip install -e {root}",) * 2 if is_checkout() else ("install unigen again", "rename it")
    for name in names:
        spec, wanted = importlib.util.find_spec(name), (root / name).resolve()
        found = list(spec.submodule_search_locations or [spec.origin]) if spec is not None else []
        if not found:
            raise ConfigError(f"package '{name}' is not installed; expected {wanted}: {again}")
        if Path(found[0]).resolve() != wanted:
            raise ConfigError(
                f"package '{name}' would come from {found[0]} instead of {wanted}; "
                f"take the former off PYTHONPATH, or {instead}"
            )


def sentence(exc: Exception) -> str:
    """Shorten an error of Hydra, OmegaConf or the YAML reader to one line, without advice that does not apply."""
    if isinstance(exc, MarkedYAMLError) and exc.problem_mark is not None:
        mark = exc.problem_mark
        return f"cannot read {mark.name}, line {mark.line + 1}: {exc.problem}"
    if isinstance(exc, OSError) and exc.strerror and exc.filename:
        return f"{exc.strerror}: {exc.filename}"
    text = str(exc) or (str(exc.__cause__) if exc.__cause__ else type(exc).__name__)
    text = re.split(r"\n\s*(?:Config search path|Search path|full_key|object_type)", text)[0]
    return " ".join(text.split())


def averages(config: Mapping[str, Any]) -> bool:
    """True if the run averages its weights: callback.ema is chosen, with a decay above 0."""
    return config["callback"].get("ema", {"decay": 0})["decay"] > 0


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every leaf; an empty mapping is a leaf, and a list is one value.

    A data reader whose `root` is null counts as null itself, because older configurations write it that way.
    """
    if prefix and isinstance(config, Mapping) and config.get("root", "") is None:
        config = None
    if not isinstance(config, Mapping) or not (config or not prefix):
        yield prefix, list(config) if isinstance(config, tuple) else config
        return
    for key, value in config.items():
        yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))


def _short(leaves: Mapping[str, Any], key: str) -> str:
    return textwrap.shorten(str(leaves.get(key, ABSENT)), 60, placeholder="...")
