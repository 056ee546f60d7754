"""The folders of the studio: what it lists and serves lies below them, and it refuses every other path."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from unigen.config.values import ConfigError
from unigen.evaluation.runs import find_runs, natural
from unigen.launch.claims import OWNER
from unigen.weights.repositories import SHIPPED, shipped_folder

USUAL = "shipped:universal"
AT = " @ "  # between a run and one of its checkpoints, in the name of a model
SHOWN = (".png", ".gif", ".webp")  # the files of a run that the page shows


class Places(NamedTuple):
    """`root`: the checkout. `runs`: the folder whose runs are listed. `out`: where the studio writes."""

    root: Path
    runs: Path
    out: Path

    @property
    def conf(self) -> Path:
        return self.root / "experiments" / "conf"

    @property
    def drawings(self) -> Path:
        return self.root / "docs" / "own_images"


def inside(path: Path, folder: Path) -> Path:
    """Return the real path. Raises ConfigError if it lies outside the folder, also by way of a link or of `..`."""
    real = path.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise ConfigError(f"'{path.name}' lies outside {folder}, which is all that this page shows")
    return real


def run_names(places: Places) -> list[str]:
    """Return the runs below `places.runs` by their paths below it, in natural order; [] where there is none.

    A run that has only claimed its folder so far is one too.
    """
    runs, out = places.runs.resolve(), places.out.resolve()
    try:
        found = set(find_runs(str(runs)))
    except ValueError:  # none has written anything yet
        found = set()
    found |= {claim.parent for claim in runs.glob(f"*/{OWNER}")}
    own = [path for path in found if path.is_relative_to(runs) and not path.is_relative_to(out)]
    return sorted((path.relative_to(runs).as_posix() for path in own), key=natural)


def run_path(places: Places, name: str) -> Path:
    """Return the folder of a run by its name. Raises ConfigError for a name that is no run's."""
    if not isinstance(name, str) or name not in run_names(places):
        raise ConfigError(f"there is no run '{name}' below {places.runs}")
    return inside(places.runs / name, places.runs)


def model_names(places: Places) -> list[str]:
    """Return what can be tried: the shipped runs, the usual one first, then each run's export and its checkpoints.

    A checkpoint is called NAME @ last or NAME @ best; one of a training that is running is as new as its last save.
    """
    shipped = [SHIPPED + path.parent.name for path in sorted(shipped_folder("").glob("*/export"))]
    own = []
    for name in run_names(places):
        folder = places.runs / name
        own += [name] if (folder / "export" / "unigen.json").is_file() else []
        own += [f"{name}{AT}{path.stem}" for path in sorted((folder / "checkpoints").glob("[!.]*.ckpt"))]
    return sorted(shipped, key=lambda name: name != USUAL) + own


def model_of(places: Places, name: str) -> tuple[str, Path | None]:
    """Return what run= takes for a model's name, and the checkpoint that is to be exported first, if any.

    Raises ConfigError for a name that is no model's.
    """
    if not isinstance(name, str) or name not in model_names(places):
        raise ConfigError(f"there is no model '{name}'; there are the shipped ones and the runs below {places.runs}")
    if name.startswith(SHIPPED):
        return name, None
    run, at, stem = name.rpartition(AT)
    if not at:
        return str(run_path(places, name)), None
    folder = run_path(places, run)
    return str(folder), inside(folder / "checkpoints" / f"{stem}.ckpt", folder)


def images_below(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield the images of a run that match, in natural order, without those that a link takes out of the run."""
    for path in sorted(folder.glob(pattern)):
        if path.suffix.lower() in SHOWN and path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            yield path
