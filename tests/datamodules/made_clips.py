"""Small ClipData for tests of clips and their motions."""

from collections.abc import Callable
from pathlib import Path

from datamodules.pretraining.clips import ClipData, ClipDataset

EIGHTHS = [k / 8 for k in range(9)]
COLOUR_KINDS = ("twemoji", "openmoji")


def maker(folder: Path) -> Callable[..., ClipData]:
    """What builds a small ClipData, whose images are drawn into `folder` once, with other options."""

    def build(**options) -> ClipData:
        data = ClipData(**{"size": 32, "limit": 280, "cache": folder, "batch_size": 6, "clips": 500, **options})
        data.prepare_data()
        return data

    return build


def of_kind(make, kind: str, count: int) -> tuple[ClipDataset, list]:
    """The training clips of one kind of image, and the plans of the first few."""
    dataset = make(kinds={kind: 1.0}).dataset("train")
    return dataset, [dataset.plan(i) for i in range(count)]
