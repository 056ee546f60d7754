"""One experiment from its configuration to its run folder: header, fit, metrics, export, summary."""

import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from unigen.build import build, build_learner
from unigen.card import write_card
from unigen.config import write_config
from unigen.consolidation import restored
from unigen.files import remove_parts
from unigen.global_batch import global_batch, unpublished
from unigen.learner import Learner
from unigen.preemption import NOTICE, Preempted, farewell
from unigen.results import print_results, write_csv, write_summary
from unigen.sampling import unsampled
from unigen.scores import split, write_scores

UNNAMED = {"bounds": {"low": "low", "high": "high"}}  # of summaries from before the bounds had names


def quiet() -> None:
    """Keep the libraries' hints about themselves off the terminal; their errors and our own lines stay."""
    os.environ.setdefault("POSSIBLE_USER_WARNINGS", "off")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for hint in ("LeafSpec", "srun", "does not have many workers", "logging interval", "local_dir_use_symlinks"):
        warnings.filterwarnings("ignore", message=f".*{hint}.*")


def dry_run(config: dict[str, Any]) -> None:
    """Print the header from shapes alone: no weights, no data."""
    with torch.device("meta"):
        learner = build_learner(config)
    print_header(learner, build(config["data"]), config)


@rank_zero_only
def print_header(learner: Learner, data: Any, config: dict[str, Any]) -> None:
    """What the run is, and how many samples an update sees on all devices together."""
    learner.print_header(data.slots, config)
    made, console = global_batch(config, max(1, torch.cuda.device_count())), Console(highlight=False)
    console.print(f"batch of an update: {made}", soft_wrap=True)
    if said := unpublished(config, made):
        console.print(f"[bold]warning:[/bold] {said}", soft_wrap=True)
    if said := unsampled(data):
        console.print(f"sample.py condition= will not work: {said}", soft_wrap=True, markup=False)


def run(config: dict[str, Any], run_dir: Path) -> None:
    """Train (or go on from checkpoints/last.ckpt), measure, export, and write summary.json last.

    A finished folder is left alone. Raises ValueError or OSError, one sentence each, for what a user can mend, and
    Preempted where the process is asked to stop; the same call later goes on from there.
    """
    done = run_dir / "summary.json"
    if done.is_file():
        Console().print("this run is finished; its results:")
        print_results(UNNAMED | json.loads(done.read_text()), run_dir)
        return
    with NOTICE.listening():
        if rank_zero_only.rank == 0:
            remove_parts(run_dir)
            write_config(run_dir, config)  # by one rank: another's half-written file would be removed
        try:
            if "preemption" not in config["callback"]:
                NOTICE.obey()
            _run(config, run_dir)
        except Preempted:
            NOTICE.note()
            if rank_zero_only.rank == 0:
                farewell(run_dir, saved=last_checkpoint(run_dir).exists())
            raise


def last_checkpoint(run_dir: Path) -> Path:
    """Where a run goes on from: a file, or a folder if the strategy shards it."""
    return run_dir / "checkpoints" / "last.ckpt"


def _run(config: dict[str, Any], run_dir: Path) -> None:
    torch.manual_seed(config["seed"])
    learner, data = build_learner(config), build(config["data"])
    print_header(learner, data, config)
    data.prepare_data()
    learner.prepare(data)
    trainer, callbacks = make_trainer(config)
    if getattr(trainer.strategy, "divides_weights", False) and "checkpoint" not in callbacks:
        raise ValueError(
            "callback=[...] has no checkpoint, from which this strategy puts its weights together at the end"
        )
    for logger in trainer.loggers:
        logger.log_hyperparams(config)
    last = last_checkpoint(run_dir)
    try:
        trainer.fit(learner, datamodule=data, ckpt_path=last if last.exists() else None)
    except SystemExit as stop:  # Ctrl-C: Lightning turns it into exit code 1 without a word
        if not trainer.interrupted or isinstance(stop, Preempted):
            raise
        kept = f"run_dir={run_dir} goes on from the last checkpoint" if last.exists() else "there is no checkpoint yet"
        Console(stderr=True).print(f"interrupted; {kept}", soft_wrap=True)
        raise SystemExit(130) from None
    NOTICE.obey()  # what follows can be done again
    trained = bool(trainer.callback_metrics)  # else the checkpoint was of the last step: its validation may be missing
    if not trained or trainer.global_step % config["validation"]["every"]:  # the last step's losses and samples
        trainer.validate(learner, data, verbose=False)
    if trainer.is_global_zero:
        if getattr(trainer.strategy, "divides_weights", False):
            learner = restored(config, last)
        finish(learner, data, trainer, callbacks, config, run_dir)


def make_trainer(config: dict[str, Any]) -> tuple[L.Trainer, dict[str, Any]]:
    """The Trainer, and its callbacks by name."""
    callbacks = {name: build(node) for name, node in config["callback"].items()}
    loggers = [build(node) for node in config["logger"].values()]
    batches = config["validation"]["every"] * config["trainer"]["accumulate_grad_batches"]
    partial = build(config["trainer"] | {"precision": precision(config["trainer"]["precision"]), "_partial_": True})
    trainer = partial(
        strategy=build(config["strategy"]),
        callbacks=list(callbacks.values()),
        logger=loggers or False,
        val_check_interval=batches,
    )
    return trainer, callbacks


def precision(word: str) -> str:
    """Lightning's word for "auto": bf16-mixed where the hardware multiplies bf16, else 32-true."""
    if word != "auto":
        return word
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        fast = able.get("avx512_bf16", False) or able.get("amx_bf16", False)
    return "bf16-mixed" if fast else "32-true"


def finish(
    learner: Learner, data: Any, trainer: L.Trainer, callbacks: dict[str, Any], config: dict[str, Any], run_dir: Path
) -> None:
    """Metrics on the test split, export, metrics.csv, summary, model cards, and the table on the terminal."""
    learner.to(trainer.strategy.root_device).eval()  # Lightning moves it to the CPU when a fit ends
    learner.place_frozen()
    learner.settle(data)
    measured, each = split(learner.measure(data, config))
    values = {f"test/{name}": s["value"] for name, s in measured["metrics"].items() if s["value"] is not None}
    for logger in trainer.loggers:
        logger.log_metrics(values, trainer.global_step)
        logger.finalize("success")
    models = learner.export(run_dir / "export", config)
    log = run_dir / "metrics.jsonl"
    if log.is_file():
        write_csv(log, run_dir / "metrics.csv")
    write_scores(run_dir, each)
    speed = callbacks["throughput"].rates() if "throughput" in callbacks else {}
    facts = learner.facts(data.slots) | reported(data)
    summary = write_summary(run_dir, config, facts, trainer.global_step, speed, measured)
    for folder in models:
        write_card(folder, summary, config)
    print_results(summary, run_dir)


def reported(data: Any) -> dict[str, str]:
    """{"data_report": a sentence}, what the data have to say at the end of a run, if they have anything."""
    said = data.report() if hasattr(data, "report") else None
    return {"data_report": said} if said else {}
