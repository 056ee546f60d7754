"""Expands a command line into the tasks of an array: one line of overrides each, with the task's run folder.

The jobs, their folders and the sweep's folder are those that run.py's own multirun would make: they come from Hydra's
loader and sweeper.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unigen.config.preflight import preflight
from unigen.config.quoting import as_value, readable
from unigen.config.values import ConfigError, sentence

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from omegaconf import DictConfig

MANIFEST = "manifest.tsv"
BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class Shape(NamedTuple):
    """The resources of a task: nodes, devices of a node, and Lightning's word for their kind."""

    nodes: int
    devices: int
    accelerator: str


class Sweep(NamedTuple):
    """A sweep: its absolute folder, the lines of its manifest, and the shape that all of its tasks share."""

    folder: Path
    lines: list[list[str]]
    shape: Shape


def without_flags(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Split off the user's config folder (--config-dir), and drop -m, which a sweep implies.

    Raises:
        ConfigError: another flag.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    given, rest = parser.parse_known_args([word for word in words if word not in ("-m", "--multirun")])
    flag = next((word for word in rest if word.startswith("-")), None)
    if flag:
        raise ConfigError(f"'{flag}' is no option here; a sweep takes --config-dir=<folder> and -m")
    return given.config_dir, rest


def expand(conf: Path, words: Sequence[str], config_dir: Path | None = None) -> Sweep:
    """Make the sweep that `run.py -m` with `words` would run; write nothing.

    Args:
        conf: the project's config folder.
        words: overrides, as on the command line of run.py.
        config_dir: a folder of the user's own config files (run.py's --config-dir).

    Raises:
        ConfigError: whatever run.py refuses; a folder for each task that `words` set themselves; tasks of different
            shapes, or with a number of devices that only a node would know; a tab or line break in a value.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    words = readable(words)
    own = [] if config_dir is None else [f"--config-dir={config_dir.resolve()}"]
    preflight(conf, ["-m", *own, *words])
    if any(re.match(r"\+*run_dir=", word) for word in words):
        raise ConfigError("run_dir= is each task's own; name the sweep's folder with hydra.sweep.dir=<folder>")
    search = [] if config_dir is None else [f"hydra.searchpath=['file://{config_dir.resolve()}']"]
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf)):
            return _sweep(GlobalHydra.instance().config_loader(), words, own, search)
    except (HydraException, OmegaConfBaseException) as exc:
        raise ConfigError(sentence(exc)) from exc


def _sweep(loader: ConfigLoader, words: Sequence[str], own: list[str], search: list[str]) -> Sweep:
    from hydra.types import RunMode
    from omegaconf import open_dict

    master = loader.load_configuration("config", [*search, *words], RunMode.MULTIRUN)
    folder, kept = Path(master.hydra.sweep.dir).absolute(), _for_hydra(master, search)
    lines, shapes, folders = [], {}, set()
    for number, job in enumerate(_jobs(loader, master)):
        cfg = loader.load_sweep_config(master, job)
        with open_dict(cfg):
            cfg.hydra.job.num = number
        run_dir = folder / cfg.hydra.sweep.subdir
        shapes.setdefault(_shape(cfg), number)
        folders.add(run_dir)
        lines.append([*own, *kept, *job, "hydra.mode=RUN", f"run_dir={as_value(str(run_dir))}"])
    if len(folders) < len(lines):
        raise ConfigError("hydra.sweep.subdir gives several tasks one folder; it needs ${hydra.job.num}")
    if len(shapes) > 1:
        told = "; ".join(
            f"task {n} has {s.nodes} × {s.devices} on accelerator {s.accelerator}" for s, n in shapes.items()
        )
        raise ConfigError(f"the tasks of an array have one shape ({told}); make a sweep for each")
    _one_line_each(lines)
    return Sweep(folder, lines, next(iter(shapes)))


def _jobs(loader: ConfigLoader, master: DictConfig) -> list[list[str]]:
    """The overrides of every job, from the files' parameters and the line, as Hydra's sweeper combines them."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    sweeper = master.hydra.sweeper
    if sweeper._target_ != BASIC:
        raise ConfigError(f"an array is enumerated beforehand; hydra/sweeper is {sweeper._target_}, only basic can be")
    params = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    overrides = OverridesParser.create(config_loader=loader).parse_overrides([*params, *_said(master, "task")])
    return BasicSweeper.split_arguments(overrides, None)[0]


def _said(master: DictConfig, kind: str) -> list[str]:
    """The line's words for the "task" or for "hydra", unresolved: each job resolves its own ${...}."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(master.hydra.overrides[kind], resolve=False)


def _for_hydra(master: DictConfig, search: list[str]) -> list[str]:
    """The line's words for Hydra itself that every task needs, without those on the sweep: a task is a single run."""
    told = [word for word in _said(master, "hydra") if word not in search]
    return [word for word in told if not word.lstrip("+~").startswith(("hydra.mode", "hydra.sweep"))]


def _shape(cfg: DictConfig) -> Shape:
    devices, nodes = cfg.trainer.devices, cfg.trainer.num_nodes
    if not isinstance(devices, int) or devices < 1:
        raise ConfigError(f"trainer.devices is {devices}; SLURM needs their number beforehand, e.g. trainer.devices=8")
    if nodes < 1:
        raise ConfigError(f"trainer.num_nodes is {nodes}; it is at least 1")
    return Shape(nodes, devices, str(cfg.trainer.accelerator))


def _one_line_each(lines: list[list[str]]) -> None:
    bad = next((word for line in lines for word in line if re.search(r"[\t\n\r]", word) or not word), None)
    if bad is not None:
        raise ConfigError(f"{bad!r} holds a tab or a line break, which a line of the manifest cannot")


def manifest_text(lines: Sequence[Sequence[str]]) -> str:
    """The text of a manifest: one task a line, its words separated by tabs."""
    return "".join("\t".join(line) + "\n" for line in lines)


def read_manifest(folder: Path) -> list[list[str]]:
    """The lines of a sweep's manifest. Raises ConfigError if `folder` holds none."""
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{folder} is not the folder of an array sweep: it has no {MANIFEST}") from exc
    return [line.split("\t") for line in text.split("\n")[:-1]]


def run_folder(line: Sequence[str]) -> Path:
    """The run folder of a line's task."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    value: Any = OverridesParser.create().parse_override(line[-1]).value()
    return Path(str(value))


def differing(lines: Sequence[Sequence[str]]) -> list[str]:
    """For each line, the words that not all lines share, without the run folder."""
    shared = set.intersection(*(set(line) for line in lines)) if len(lines) > 1 else set()
    return [" ".join(w for w in line[:-1] if w not in shared and w != "hydra.mode=RUN") for line in lines]
