"""One experiment from its configuration to its run folder: header, fit, metrics, export, summary."""

import csv
import json
import logging
import os
import resource
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.table import Table

from unigen import export
from unigen.build import build, build_on_meta, build_pipeline
from unigen.evaluation import evaluate, protocol
from unigen.files import whole_file, write_text
from unigen.header import parameters, print_header
from unigen.module import Experiment

FIT_PICTURES = 2000  # training pictures that a codec without weights is fitted on


def quiet() -> None:
    """Keep the libraries' hints about themselves off the terminal; their errors and our own lines stay."""
    os.environ.setdefault("POSSIBLE_USER_WARNINGS", "off")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (".*LeafSpec.*", ".*srun.*", ".*does not have many workers.*", ".*logging interval.*", ".*isinstance.treespec.*"):
        warnings.filterwarnings("ignore", message=text)


def dry_run(config: dict[str, Any]) -> None:
    """Print the header from shapes alone: no weights, no data."""
    slots = build(config["data"]).slots
    print_header(build_on_meta(config), slots, config)


def run(config: dict[str, Any], run_dir: Path) -> None:
    """Train (or go on from checkpoints/last.ckpt), measure, export, and write summary.json last.

    A finished folder is left alone. Raises ValueError or OSError, one sentence each, for what a user can mend.
    """
    done = run_dir / "summary.json"
    if done.is_file():
        Console().print("this run is finished; its results:")
        print_results(json.loads(done.read_text()), run_dir)
        return
    torch.manual_seed(config["seed"])
    pipeline = build_pipeline(config)
    data = build(config["data"])
    print_header(pipeline, data.slots, config)
    data.prepare_data()
    pipeline.codec.fit(lambda: data.fit_pictures(FIT_PICTURES))
    module = Experiment(pipeline, config["optimizer"], config["seed"])
    trainer, callbacks = make_trainer(config)
    last = run_dir / "checkpoints" / "last.ckpt"
    trainer.fit(module, datamodule=data, ckpt_path=last if last.exists() else None)
    if trainer.interrupted:  # Ctrl-C: Lightning stops quietly; the last checkpoint stays
        raise SystemExit(130)
    print_results(finish(module, data, trainer, callbacks, config, run_dir), run_dir)


def make_trainer(config: dict[str, Any]) -> tuple[L.Trainer, dict[str, Any]]:
    """The Trainer, and its callbacks by name."""
    callbacks = {name: build(node) for name, node in config["callback"].items()}
    loggers = [build(node) for node in config["logger"].values()]
    partial = build(config["trainer"] | {"_partial_": True})
    return partial(callbacks=list(callbacks.values()), logger=loggers or False), callbacks


def finish(
    module: Experiment, data: Any, trainer: L.Trainer, callbacks: dict[str, Any], config: dict[str, Any], run_dir: Path
) -> dict[str, Any]:
    """Metrics on the test split, export, metrics.csv, and the summary, which says by existing that all is there."""
    pipeline = module.pipeline
    module.eval()
    metrics = {name: build(node) for name, node in config["metric"].items()}
    scores = evaluate(pipeline, data.test_dataloader(), metrics, config["evaluation"]["seed"])
    for logger in trainer.loggers:
        logger.log_metrics({f"test/{k}": s["value"] for k, s in scores.items() if s["value"] is not None}, trainer.global_step)
        logger.finalize("success")
    export.save(pipeline, run_dir / "export", config)
    write_csv(run_dir / "metrics.jsonl", run_dir / "metrics.csv")
    speed = callbacks["throughput"].rates() if "throughput" in callbacks else {}
    summary = {
        "name": config["name"],
        "paper": config["paper"],
        "task": config["task"]["name"],
        "scale": config["scale"]["name"],
        "seed": config["seed"],
        "mask": pipeline.mask.name,
        "steps": trainer.global_step,
        "samples_seen": trainer.global_step * config["data"]["batch_size"] * config["trainer"]["accumulate_grad_batches"],
        "seconds": round(speed.get("seconds", 0.0), 1),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "parameters": parameters(pipeline),
        "tokens": len(pipeline.plan(data.slots).layout),
        "throughput": speed,
        "metrics": scores,
        "protocol": protocol(pipeline, metrics, config),
        "published": config["published"],
        "samples": sorted(str(p.relative_to(run_dir)) for p in run_dir.glob("samples/*.png")),
    }
    write_text(run_dir / "summary.json", json.dumps(summary, indent=1))
    return summary


def print_results(summary: dict[str, Any], run_dir: Path) -> None:
    """The table of metrics, and what was written where."""
    table = Table(title=f"{summary['protocol']['items']} held-out samples, task {summary['task']}", title_justify="left")
    for column in ("metric", "no condition", "this run", "through codec", "better"):
        table.add_column(column, justify="left" if column in ("metric", "better") else "right")
    for name, s in summary["metrics"].items():
        table.add_row(name, *(f"{s[k]:.3f}" if s[k] is not None else "-" for k in ("low", "value", "high")), s["better"])
    console = Console(highlight=False)
    console.print(table)
    for what in ("samples", "checkpoints", "export", "metrics.jsonl", "metrics.csv", "summary.json", "config.yaml", "wandb"):
        if (run_dir / what).exists():
            console.print(f"{what + ':':<15}{run_dir / what}", soft_wrap=True)


def write_csv(log: Path, table: Path) -> None:
    """metrics.jsonl as a spreadsheet: a row a step, a column a metric; of repeated steps the last value counts."""
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
