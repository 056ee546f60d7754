"""Every published table at paper scale, by the commands in its header, on miniatures of what was published.

The words are those of the headers; what is added are sizes. Models and data sets are those of tests/published. Tables
whose arms are the same runs share a sweep, and not every arm of a table is trained. FID's Inception is a stand-in, for
its library is an extra; MAN-IQA and MUSIQ, whose library is another one, are the only columns that stay empty.
"""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from published import offline, sizes
from published.sets import SETS
from small_runs import command, kept_images
from tiny import CONF, choices
from torch import nn

from unigen.evaluation.evaluations import benches_of
from unigen.evaluation.runs import read_table
from unigen.metrics.sets import Inception
from unigen.tools.report.report import build_report

EMPTY = ("man_iqa", "musiq")  # pyiqa's, for non-commercial use alone
FEW = ("data.num_workers=0", "logger=[jsonl]")
HELD = "data.held_out=3"
DRAWN = ("evaluation.items=2", "solver.steps=1", "data.num_workers=0")


class Sweep(NamedTuple):
    """A table whose header's command is run, some of its arms, and the tables that are measured on its runs."""

    table: str
    arms: tuple[str, ...]
    tables: tuple[str, ...]
    family: str = "cogvideox"
    few: tuple[str, ...] = (HELD,)
    drawn: tuple[str, ...] = ()


SWEEPS = [
    Sweep("realgeneral_masks", ("fcd_mask_a", "fcd_mask_d"), ("realgeneral_masks",), few=(HELD, "data.train.pairs=12"),
          drawn=("evaluation.images=1",)),
    Sweep("realgeneral_modules", ("fcd_mask_a",), ("realgeneral_modules", "realgeneral_customization"),
          few=(HELD, "data.train.pairs=12"), drawn=("evaluation.images=1",)),
    Sweep("realgeneral_canny", ("fcd_mask_a",), ("realgeneral_canny",)),
    Sweep("realgeneral_depth", ("fcd_mask_a",), ("realgeneral_depth",)),
    Sweep("visualcloze_examples", ("visualcloze_fill",), ("visualcloze_examples", "visualcloze_style"), "flux"),
    Sweep("visualcloze_fill_dev", ("visualcloze_fill", "visualcloze_dev"),
          tuple(f"visualcloze_{part}" for part in ("fill_dev", "canny", "depth", "deblur", "subject")), "flux"),
]  # fmt: skip
QUICK = "realgeneral_masks"


class Means(nn.Module):
    """Features (N, 6) of images: means and spreads of their colours, in Inception's place."""

    num_features = 6

    def forward(self, images_N3HW: torch.Tensor) -> torch.Tensor:
        values_N3P = images_N3HW.double().flatten(2)
        return torch.cat([values_N3P.mean(2), values_N3P.std(2)], 1)


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    """The folder of each data set, by its name in tests/published/sets."""
    folder = tmp_path_factory.mktemp("sets")
    for name, make in SETS.items():
        make(folder / name)
    return {name: folder / name for name in SETS}


@pytest.fixture(scope="module")
def here(published_cache, tmp_path_factory) -> Iterator[Path]:
    """An empty folder to work in, the published files and nothing else, and a stand-in for Inception."""
    folder = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch, offline(published_cache):
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(Inception, "protocol", {"features": "a stand-in"})
        patch.setattr(Inception, "network", lambda self: Means())
        yield folder


def header(table: str, script: str, folders: dict[str, str]) -> list[str]:
    """The words of the last command of a script in a table's header, with `folders` for <what is to be filled in>."""
    text = (CONF / "table" / f"{table}.yaml").read_text().replace("\n#   ", " ")
    *_, line = re.findall(rf"^# python experiments/{script} (.*)$", text, re.M)
    return shlex.split(re.sub(r"<([^>]*)>", lambda match: folders[match[1]], line))


def folders(roots: dict[str, Path], sweep: Path) -> dict[str, str]:
    """What a header calls the folders."""
    called = {
        "Subjects200K": "subjects200k",
        "Graph200K": "graph200k",
        "text-to-image-2M": "text_to_image_2m",
        "DreamBench": "dreambench",
        "COCO": "coco",
    }
    return {"sweep folder": str(sweep)} | {name: str(roots[key]) for name, key in called.items()}


def run(sweep: Sweep, roots: dict[str, Path], folder: Path) -> None:
    """The header's commands: train, and measure for every table."""
    known = folders(roots, folder)
    words = [word for word in header(sweep.table, "run.py", known) if not word.startswith("seed=")]
    said = [f"+exp={','.join(sweep.arms)}", f"hydra.sweep.dir={folder}", *FEW, *sizes(sweep.family), *sweep.few]
    assert command("run.py", *words, *said) == 0
    for table in sweep.tables:
        assert command("evaluate.py", *header(table, "evaluate.py", known), *DRAWN, *sweep.drawn) == 0


def check(table: str, arms: tuple[str, ...], folder: Path) -> None:
    """The published figures stand beside ours, and of ours none is missing that a metric could give."""
    said = read_table(CONF / "table", table)
    trained = {row for row in said.order if said.benches.get(row, {"exp": row})["exp"] in arms}
    report = build_report(str(folder), said)
    shown = next(each for each in report.tables if each.title.startswith(said.title))
    rows = {row[0].text: dict(zip(shown.header, row, strict=True)) for row in shown.rows}
    ours = {name for name, cells in rows.items() if cells["seeds"].text != "0"}
    assert ours == trained and trained and set(rows) == set(said.order)
    for name, row in rows.items():
        for column, number in said.published.get(name, {}).items():
            assert row[f"{column} (published)"].sort == number, (name, column)
    for column, metrics in said.at("paper").items():
        assert metrics and (f"{column} (published)" in shown.header) == bool(said.published), column
        for metric in metrics:
            head = next(head for head in shown.header if head.startswith(f"{metric} (ours)"))
            empty = [name for name in ours if rows[name][head].sort is None]
            assert not empty or metric.startswith(EMPTY), (metric, empty)
            assert not empty or any(f"{metric} is absent: " in note for each in report.tables for note in each.notes)


def rehearse(sweep: Sweep, roots: dict[str, Path], here: Path) -> None:
    run(sweep, roots, here / sweep.table)
    for table in sweep.tables:
        check(table, sweep.arms, here / sweep.table)


@pytest.mark.slow
def test_realgenerals_table_4(roots, here):
    sweep = next(sweep for sweep in SWEEPS if sweep.table == QUICK)
    rehearse(sweep, roots, here)
    assert command("report.py", *header(QUICK, "report.py", folders(roots, here / QUICK))) == 0
    text = (here / QUICK / "report.md").read_text()
    assert "dinov2_segmented (dreambench) (ours)" in text and "0.668" in text
    evaluation = here / QUICK / "0_fcd_mask_a_subject_seed0" / "evaluation"
    (evaluation / "dreambench").rename(evaluation / "elsewhere")
    with pytest.raises(AssertionError):  # negative control
        check(QUICK, sweep.arms, here / QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [sweep for sweep in SWEEPS if sweep.table != QUICK], ids=lambda sweep: sweep.table)
def test_rehearsal_of(sweep, roots, here):
    rehearse(sweep, roots, here)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["cogvideox", "flux"])
def test_what_a_base_draws_from_text(family, roots, here):
    """Figure 7 has no numbers, so its table is not among those above; no step of training."""
    arm, folder = f"text_to_image_{family}", here / family
    few = ("trainer.max_steps=0", "data.limit=200", kept_images())
    run(Sweep("realgeneral_bases", (arm,), ("realgeneral_bases",), family, few=few), roots, folder)
    (result,) = folder.glob(f"*_{arm}_*/evaluation/coco_text/evaluation.json")
    metrics = json.loads(result.read_text())["metrics"]
    assert set(metrics) == {"clip_t", "clip_score", "fid"}
    assert all(score["value"] is not None for score in metrics.values()), metrics
    assert len(list(result.parent.glob("images/*_output.png"))) == 2


def test_every_table_of_the_two_papers_is_rehearsed():
    rehearsed = {table for sweep in SWEEPS for table in sweep.tables}
    papers = [name for name in choices("table") if name.startswith(("realgeneral_", "visualcloze_"))]
    published = {name for name in papers if read_table(CONF / "table", name).published}
    assert published <= rehearsed <= set(choices("table")) and len(published) > 5
    for sweep in SWEEPS:
        for table in sweep.tables:
            found = read_table(CONF / "table", table)
            assert any(benches_of(found, arm, "paper") for arm in sweep.arms)
