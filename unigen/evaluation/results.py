"""The results of a finished run: summary.json, whose existence marks the run as finished, metrics.csv, and a table."""

import csv
import json
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from unigen.config.files import whole_file, write_text
from unigen.config.values import ConfigError
from unigen.core.protocol_card import hashed
from unigen.pipeline.header import device
from unigen.weights.own_files import read_object

WRITTEN = (
    *("samples", "checkpoints", "export", "metrics.jsonl", "metrics.csv", "summary.json", "config.yaml"),
    *("scores.jsonl", "refused", "wandb", "tensorboard"),
)


def write_summary(
    run_dir: Path,
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    steps: int,
    speed: Mapping[str, float],
    measured: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the summary and return it.

    `facts` (with the report of the data) and `measured` (metrics, bounds, protocol) come from the learner, `speed`
    holds Throughput's rates.
    """
    batch = config["data"]["batch_size"] * config["trainer"]["accumulate_grad_batches"]
    devices = config["trainer"]["devices"]
    ranks = config["trainer"]["num_nodes"] * (devices if isinstance(devices, int) else 1)
    summary = {
        "name": config["name"],
        "paper": config["paper"],
        "task": config["task"]["name"],
        "scale": config["scale"]["name"],
        "seed": config["seed"],
        "steps": steps,
        "samples_seen": steps * batch * ranks,
        "seconds": round(speed.get("seconds", 0.0), 1),
        "device": device(),
        "ranks": ranks,
        **gpu_memory(),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        **facts,
        "throughput": dict(speed),
        **hashed(measured),
        "published": ({"source": config["paper"]} if config["published"] else {}) | config["published"],
        "samples": sorted(str(p.relative_to(run_dir)) for p in run_dir.glob("samples/*.png")),
    }
    write_text(run_dir / "summary.json", json.dumps(summary, indent=1))
    return summary


TASKS_SHOWN = 8  # with more tasks the terminal shows only the metrics over all of them
UNNAMED = {"bounds": {"low": "low", "high": "high"}}  # of summaries from before the bounds had names
NUMBER = (int, float, type(None))
NEEDED = {
    "metrics": {},
    "bounds": {"low": str, "high": str},
    "protocol": {"items": int},
    "samples_seen": int,
    "task": (str, type(None)),
}
NEEDED_OF_METRIC = {"value": NUMBER, "low": NUMBER, "high": NUMBER, "better": str}


def read_summary(run_dir: Path) -> dict[str, Any]:
    """Read the summary of a finished run. Raises ConfigError, naming the file, if it is unreadable or incomplete."""
    path = run_dir / "summary.json"
    advice = "remove the file and give the same command again: the run is evaluated again from its last checkpoint"
    found = UNNAMED | read_object(path, advice)
    metrics = found.get("metrics")
    kinds = NEEDED | {"metrics": dict.fromkeys(metrics, NEEDED_OF_METRIC) if isinstance(metrics, dict) else dict}
    if odd := unusable(found, kinds):
        raise ConfigError(f"{path} is damaged (it has no usable '{odd}'); {advice}")
    return found


def unusable(node: Any, kinds: Any, key: str = "") -> str | None:
    """Return the dotted key of the first value that is absent or not of its kind; None if all are usable.

    `kinds` is a type, a tuple of types, or a mapping from keys to kinds. The result is 'mapping' if `node` is none.
    """
    if not isinstance(kinds, dict):
        return None if isinstance(node, kinds) else key
    if not isinstance(node, dict):
        return key or "mapping"
    for name, kind in kinds.items():
        whole = f"{key}.{name}".lstrip(".")
        if odd := whole if name not in node else unusable(node[name], kind, whole):
            return odd
    return None


def gpu_memory() -> dict[str, float]:
    """Return the peak of this process's GPU memory in GiB; {} without a GPU."""
    import torch

    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {"peak_gpu_memory_gib": round(peak / 2**30, 2)} if peak else {}


def print_results(summary: Mapping[str, Any], run_dir: Path) -> None:
    """Print the table of metrics, and the paths of the files that were written."""
    console = Console(highlight=False)
    items, seen = summary["protocol"]["items"], summary["samples_seen"]
    kind = "held-out" if summary["protocol"].get("split", "test") == "test" else "training"
    console.print(f"{items} {kind} samples, task {summary['task']}, after {seen:,} training samples", soft_wrap=True)
    print_metrics(console, summary)
    if "data_report" in summary:
        console.print(f"data: {summary['data_report']}", soft_wrap=True, markup=False)
    for what in WRITTEN:
        if (run_dir / what).exists():
            console.print(f"{what + ':':<15}{run_dir / what}", soft_wrap=True)


def print_metrics(console: Console, measured: Mapping[str, Any]) -> None:
    """Print the table of metrics with their bounds, and under it the reasons for absent metrics."""
    table = Table()
    for column in ("metric", measured["bounds"]["low"], "this run", measured["bounds"]["high"], "better"):
        table.add_column(column, justify="left" if column in ("metric", "better") else "right")
    for name, s in measured["metrics"].items():
        numbers = ("-" if s[k] is None else f"{s[k]:.3f}" for k in ("low", "value", "high"))
        table.add_row(name, *(("", "absent", "") if "reason" in s else numbers), s["better"])
        tasks = s.get("tasks", {})
        for task, own in tasks.items() if len(tasks) <= TASKS_SHOWN else ():
            value = "-" if own["value"] is None else f"{own['value']:.3f}"
            table.add_row(f"  {task} ({own['items']})", "", value, "", "")
    console.print(table)
    count = max((len(s.get("tasks", {})) for s in measured["metrics"].values()), default=0)
    if count > TASKS_SHOWN:
        console.print(f"the metrics of each of {count} tasks are in summary.json", soft_wrap=True)
    for name, s in measured["metrics"].items():
        if "reason" in s:
            console.print(f"{name} is absent: {s['reason']}", soft_wrap=True, markup=False)
        elif s["value"] is None:
            console.print(f"{name} has no value: the score of at least one image is not finite", soft_wrap=True)
        if s.get("undetected"):
            console.print(f"{name}: no subject found in {s['undetected']} of {s['items']} images, which count whole")


def write_csv(log: Path, table: Path) -> None:
    """Write metrics.jsonl as a CSV file, a row a step and a column a metric; a repeated step keeps its last values."""
    rows: dict[int, dict[str, Any]] = {}
    for line in log.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # the torn last line of a killed run
            continue
        rows.setdefault(entry["step"], {}).update(entry)
    columns = dict.fromkeys(key for row in rows.values() for key in row)
    with whole_file(table) as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows[step] for step in sorted(rows))
