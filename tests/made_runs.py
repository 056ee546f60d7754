"""Made-up run folders for tests of reports, and what they look for in a report."""

import base64
import json
from pathlib import Path

import yaml
from PIL import Image

from unigen.evaluation.runs import number
from unigen.evaluation.scores import write_scores
from unigen.tools.forms.tables import Table
from unigen.tools.report.report import Report

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SCRIPT = Path(__file__).parents[1] / "experiments" / "report.py"
PROTOCOL = {"split": "test", "items": 128, "solver": "ddim", "steps": 20, "seed": 0}
EVIL = '<script>alert("1")</script>|`x`\n\x1b[31m & *b* [l](http://e)'


def write_item_scores(folder: Path) -> None:
    """scores.jsonl of the metrics in a summary: 16 items of 8 base glyphs, which differ alike in all runs."""
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    values = {name: number(metric.get("value")) for name, metric in metrics.items()}
    each = {name: [v + d / 100 for d in range(-15, 17, 2)] for name, v in values.items() if v is not None}
    clusters = [{"key": f"{i}/canny", "clusters": {"base glyph": str(i // 2)}} for i in range(16)]
    write_scores(folder, each, clusters)


def make_run(folder: Path, name="a", seed=0, f1=0.3, rmse=0.2, config=None, grids=("final",), **changes) -> Path:
    """A finished run in `folder`; `changes` replace keys of summary.json."""
    (folder / "samples").mkdir(parents=True)
    settings = {"name": name, "seed": seed, "run_dir": str(folder), "paths": {"out": f"x{folder.name}"}, "lr": 0.1}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | (config or {})))
    lines = [{"step": s, "time": 0.0, "train/loss": 1 / s, "val/loss": 2 / s} for s in (10, 20, 30)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = {
        "canny_f1": {"value": f1, "low": 0.15, "high": 0.81, "better": "higher", "items": 128},
        "rmse": {"value": rmse, "low": None, "better": "lower"},
    }
    summary = {"name": name, "task": "canny", "seed": seed, "steps": 3000, "samples_seen": 192000, "seconds": 180.0}
    summary |= {"parameters": {"trained": 2070000}, "metrics": metrics, "protocol": PROTOCOL}
    summary |= {"throughput": {"samples_per_s": 400.0}}
    (folder / "summary.json").write_text(json.dumps(summary | changes))
    write_item_scores(folder)
    for grid in grids:
        (folder / "samples" / f"{grid}.png").write_bytes(PNG + grid.encode())
    return folder


def make_items(run: Path, shades: dict[int, int], count: int = 2, side: int = 8) -> Path:
    """Single images of `count` held-out items: at each step an output of one shade, in each item a little darker."""
    folder, said = run / "samples" / "items", []
    folder.mkdir(parents=True)

    def grey(shade: int, name: str) -> str:
        Image.new("RGB", (side, side), (shade,) * 3).save(folder / name)
        return name

    for i in range(count):
        slots = {name: grey(200, f"{i:03d}_{name}.png") for name in ("condition", "target")}
        for step, shade in shades.items():
            grey(shade // (i + 1), f"{i:03d}_target_step_{step:06d}.png")
        task, prompt = ("canny", "depth")[i % 2], f"item {i}"
        said.append({"key": f"k{i}", "task": task, "prompt": prompt, "slots": slots, "targets": ["target"]})
    (folder / "items.json").write_text(json.dumps(said))
    return run


def table(report: Report, title: str) -> Table:
    return next(table for table in report.tables if table.title.startswith(title))


def titles(report: Report) -> list[str]:
    return [table.title for table in report.tables]


def column(report: Report, header: str) -> list[str]:
    results = table(report, "Results")
    return [row[results.header.index(header)].text for row in results.rows]


def bold(report: Report) -> set[tuple[str, str]]:
    """(arm, column) of every marked cell of the results."""
    results = table(report, "Results")
    return {(r[0].text, h) for r in results.rows for h, c in zip(results.header, r, strict=True) if c.bold}


def notes(report: Report) -> str:
    return "\n".join(table(report, "Results").notes)
