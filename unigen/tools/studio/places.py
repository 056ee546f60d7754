"""The folders of the studio: what it lists and serves lies below them, and it refuses every other path."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from unigen.config.values import ConfigError
from unigen.evaluation.runs import find_runs
from unigen.weights.repositories import SHIPPED, shipped_folder

USUAL = "shipped:universal"
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
    """Return the runs below `places.runs` by their paths below it, in natural order; [] where there is none."""
    try:
        found = find_runs(str(places.runs))
    except ValueError:
        return []
    runs, out = places.runs.resolve(), places.out.resolve()
    own = [path for path in found if path.is_relative_to(runs) and not path.is_relative_to(out)]
    return [path.relative_to(runs).as_posix() for path in own]


def run_path(places: Places, name: str) -> Path:
    """Return the folder of a run by its name. Raises ConfigError for a name that is no run's."""
    if not isinstance(name, str) or name not in run_names(places):
        raise ConfigError(f"there is no run '{name}' below {places.runs}")
    return inside(places.runs / name, places.runs)


def model_names(places: Places) -> list[str]:
    """Return what can be tried: the shipped runs, the usual one first, then the runs that have an export."""
    shipped = [SHIPPED + path.parent.name for path in sorted(shipped_folder("").glob("*/export"))]
    own = [name for name in run_names(places) if (places.runs / name / "export" / "unigen.json").is_file()]
    return sorted(shipped, key=lambda name: name != USUAL) + own


def model_word(places: Places, name: str) -> str:
    """Return what run= takes for a model's name. Raises ConfigError for a name that is no model's."""
    if not isinstance(name, str) or name not in model_names(places):
        raise ConfigError(f"there is no model '{name}'; there are the shipped ones and the runs below {places.runs}")
    return name if name.startswith(SHIPPED) else str(run_path(places, name))


def images_below(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield the images of a run that match, in natural order, without those that a link takes out of the run."""
    for path in sorted(folder.glob(pattern)):
        if path.suffix.lower() in SHOWN and path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            yield path
