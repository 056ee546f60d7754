"""Runs one experiment from its configuration to its run folder: header, fit, metrics, export, summary."""

import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from unigen.config.files import remove_parts, unused
from unigen.config.values import Change, ConfigError, change_of, write_config
from unigen.evaluation.results import print_results, read_summary, write_csv, write_summary
from unigen.evaluation.scores import split, write_scores
from unigen.inference.sampling import unsampled
from unigen.launch.preemption import INTERRUPTED, NOTICE, Preempted, farewell
from unigen.pipeline.build import build, build_learner
from unigen.pipeline.learner import Learner
from unigen.training.card import write_card
from unigen.training.consolidation import damaged, restored
from unigen.training.global_batch import global_batch, unpublished


def quiet() -> None:
    """Keep the libraries' hints about themselves off the terminal; their errors and our own lines stay."""
    os.environ.setdefault("POSSIBLE_USER_WARNINGS", "off")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for hint in ("LeafSpec", "srun", "does not have many workers", "logging interval", "local_dir_use_symlinks"):
        warnings.filterwarnings("ignore", message=f".*{hint}.*")


def dry_run(config: dict[str, Any]) -> None:
    """Print the header from shapes alone, without weights. Of data, only the names of the user's own files are read."""
    with torch.device("meta"):
        learner = build_learner(config)
    data = build(config["data"])
    learner.check(data)
    print_header(learner, data, config)
    if getattr(data, "at_hand", False):
        print_data(data)


@rank_zero_only
def print_header(learner: Learner, data: Any, config: dict[str, Any]) -> None:
    """Print what the run is made of, and how many samples an update sees on all devices together."""
    learner.print_header(data.slots, config)
    made, console = global_batch(config, max(1, torch.cuda.device_count())), Console(highlight=False)
    console.print(f"batch of an update: {made}", soft_wrap=True)
    if said := unpublished(config, made):
        console.print(f"[bold]warning:[/bold] {said}", soft_wrap=True)
    if said := unsampled(data):
        console.print(f"sample.py condition= will not work: {said}", soft_wrap=True, markup=False)


@rank_zero_only
def print_data(data: Any) -> None:
    """Print what the data report: the number of samples of each split, and which of the user's files were left out."""
    if hasattr(data, "said"):
        Console(highlight=False).print(f"data: {data.said()}", soft_wrap=True, markup=False)


@rank_zero_only
def print_notes(learner: Learner, data: Any) -> None:
    """Print what the learner notes about the data, once they are prepared."""
    if said := learner.notes(data):
        Console(highlight=False).print(said, soft_wrap=True, markup=False)


def run(config: dict[str, Any], run_dir: Path) -> None:
    """Train (or go on from checkpoints/last.ckpt), export, measure, and write summary.json last.

    A finished folder is left alone, unless the configuration asks for more steps or for other measurements. Raises
    ValueError or OSError, one sentence each, for what a user can mend, and Preempted where the process is asked to
    stop; the same call later goes on from there.
    """
    if (run_dir / "summary.json").is_file() and not change_of(run_dir, config):
        Console().print("this run is finished; its results:")
        print_results(read_summary(run_dir), run_dir)
        return
    with NOTICE.listening():
        try:
            if rank_zero_only.rank == 0:  # by one rank: another's half-written file would be removed
                remove_parts(run_dir)
            if "preemption" not in config["callback"]:
                NOTICE.obey()
            _run(config, run_dir)
        except (Preempted, KeyboardInterrupt) as stop:
            NOTICE.note()
            NOTICE.interrupted |= isinstance(stop, KeyboardInterrupt)
            if rank_zero_only.rank == 0:
                farewell(run_dir, saved=last_checkpoint(run_dir).exists())
            if isinstance(stop, Preempted):
                raise
            raise SystemExit(INTERRUPTED) from None


def reopen(run_dir: Path, change: Change, config: Mapping[str, Any]) -> None:
    """Say how a folder that holds a run goes on, and keep files that this run would overwrite: summary and unusable
    log.

    Raises ConfigError if a finished run has no checkpoint to go on from, or a truncated one.
    """
    done, last, log = run_dir / "summary.json", last_checkpoint(run_dir), run_dir / "metrics.jsonl"
    console, said = Console(highlight=False), []
    if last.is_file() and not is_zipfile(last):  # before anything is moved
        raise damaged(last, "its end is missing")
    if done.is_file():
        if not last.exists():
            raise ConfigError(
                f"{run_dir} is finished and has no checkpoints/last.ckpt, so it cannot go on otherwise; "
                "use run_dir=<another folder>"
            )
        kept = unused(run_dir / f"summary_step_{read_summary(run_dir).get('steps', 0):06d}.json")
        said.append(f"this run was finished; its summary is kept as {kept.name}")
        done.rename(kept)
    elif log.is_file() and log.stat().st_size and not last.exists():
        kept = unused(run_dir / "metrics_without_checkpoint.jsonl")
        said.append(
            f"{run_dir} has a log but no checkpoints/last.ckpt: it begins anew at step 0; the log of before is kept as "
            f"{kept.name}"
        )
        log.rename(kept)
    if change.steps and last.exists():
        schedule = "; the learning rate follows the longer schedule" if config["optimizer"]["cooldown"] else ""
        said.append(f"it goes on to step {change.steps[1]:,} instead of {change.steps[0]:,}{schedule}")
    if change.measuring:
        said.append(f"it is measured in another way: {change.measuring}")
    for line in said:
        console.print(line, soft_wrap=True, markup=False)


def last_checkpoint(run_dir: Path) -> Path:
    """The checkpoint from which a run continues: a file, or a folder if the strategy shards it."""
    return run_dir / "checkpoints" / "last.ckpt"


def _run(config: dict[str, Any], run_dir: Path) -> None:
    torch.manual_seed(config["seed"])
    learner, data = build_learner(config), build(config["data"])
    learner.check(data)
    print_header(learner, data, config)
    data.prepare_data()
    print_data(data)
    print_notes(learner, data)
    learner.prepare(data)
    trainer, callbacks = make_trainer(config)
    if getattr(trainer.strategy, "divides_weights", False) and "checkpoint" not in callbacks:
        raise ValueError(
            "callback=[...] has no checkpoint, from which this strategy puts its weights together at the end"
        )
    if rank_zero_only.rank == 0:  # nothing of the user's is refused from here on
        reopen(run_dir, change_of(run_dir, config), config)
        write_config(run_dir, config)
    for logger in trainer.loggers:
        logger.log_hyperparams(config)
    last = last_checkpoint(run_dir)
    try:
        trainer.fit(learner, datamodule=data, ckpt_path=last if last.exists() else None)
    except SystemExit as stop:  # Ctrl-C: Lightning turns it into exit code 1 without a word
        if not trainer.interrupted or isinstance(stop, Preempted):
            raise
        raise KeyboardInterrupt from None
    NOTICE.obey()  # the rest can be repeated
    learner.require_finite()
    trained = bool(trainer.callback_metrics)  # else the checkpoint was of the last step: its validation may be missing
    if not trained or trainer.global_step % config["validation"]["every"]:  # the last step's losses and samples
        trainer.validate(learner, data, verbose=False)
    if trainer.is_global_zero:
        if getattr(trainer.strategy, "divides_weights", False):
            learner = restored(config, last)
        try:
            finish(learner, data, trainer, callbacks, config, run_dir)
        except Exception:
            for logger in trainer.loggers:  # as Lightning does for what fails in training
                logger.finalize("failed")
            raise


def make_trainer(config: dict[str, Any]) -> tuple[L.Trainer, dict[str, Any]]:
    """Build the Trainer, and its callbacks by name."""
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
    """Resolve the word "auto" to Lightning's: bf16-mixed where the hardware multiplies bf16, else 32-true."""
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
    """Write the export, the metrics of the test split, metrics.csv, the summary and model cards, and print
    the table.
    """
    learner.to(trainer.strategy.root_device).eval()  # Lightning moves it to the CPU when a fit ends
    learner.place_frozen()
    learner.settle(data)
    models = learner.export(run_dir / "export", config)  # first: a metric that fails must not cost the weights
    measured, each, of_items = split(learner.measure(data, config))
    values = {f"test/{name}": s["value"] for name, s in measured["metrics"].items() if s["value"] is not None}
    for logger in trainer.loggers:
        logger.log_metrics(values, trainer.global_step)
        logger.finalize("success")
    log = run_dir / "metrics.jsonl"
    if log.is_file():
        write_csv(log, run_dir / "metrics.csv")
    write_scores(run_dir, each, of_items)
    speed = callbacks["throughput"].rates() if "throughput" in callbacks else {}
    facts = learner.facts(data.slots) | reported(data)
    summary = write_summary(run_dir, config, facts, trainer.global_step, speed, measured)
    for folder in models:
        write_card(folder, summary, config)
    print_results(summary, run_dir)


def reported(data: Any) -> dict[str, str]:
    """{"data_report": a sentence} if the data have something to report at the end of a run, else {}."""
    said = data.report() if hasattr(data, "report") else None
    return {"data_report": said} if said else {}
