"""Runs a sweep in stages on this machine, one run after another, each in a process of its own."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from unigen.config.manifest import MANIFEST, differing, read_manifest, run_folder, without_flags
from unigen.config.quoting import readable
from unigen.config.stages import Plan, batch, read_line, read_plan, write_plan
from unigen.config.values import ConfigError
from unigen.launch.claims import RANKS, claimed, claimed_new, is_new
from unigen.launch.own_process import JobFailed, run_line
from unigen.launch.preemption import NOTICE, Preempted
from unigen.tools.sweep.stages import advance, unfinished

OTHER = "name another folder: hydra.sweep.dir=<folder>"


def run_stages(conf: Path, words: Sequence[str]) -> int:
    """Run the sweep in stages that a line asks for, and return the exit code.

    A folder that holds the same sweep is continued: runs that are finished are not run again. A run that fails does not
    stop the others of its stage, but the sweep ends before the next one. `words` are those of run.py.

    Raises:
        ConfigError: the line is wrong, or its folder holds something else.
        SystemExit: a run was asked to stop; it has saved its state.
    """
    if any(name in os.environ for name in RANKS):
        raise ConfigError("a sweep in stages starts its runs itself; on a cluster use slurm/sweep.py")
    config_dir, rest = without_flags(readable(words))
    dry = [word for word in rest if word.lstrip("+") == "dry_run=true"]
    plan, folder = read_line([word for word in rest if word not in dry], config_dir)
    if dry:
        return _shown(conf, plan, folder)
    claim = claimed_new(batch(conf, plan).folder) if folder is None else claimed(folder, OTHER)
    with claim as own:
        begin(own, plan)
        return _carried_through(conf, own)


def begin(folder: Path, plan: Plan) -> None:
    """Write a plan into a claimed folder, or check that the folder holds this one."""
    if _there(folder, plan) is None:
        write_plan(folder, plan)


def _there(folder: Path, plan: Plan) -> Plan | None:
    """Return the plan of the same line in a folder, None for a new folder. Raises ConfigError for any other folder."""
    there = read_plan(folder)
    if there is None and folder.exists() and not is_new(folder):
        raise ConfigError(f"{folder} is not empty and holds no sweep in stages; {OTHER}")
    if there is not None and not there.same_line(plan):
        raise ConfigError(f"{folder} holds the sweep of another line ({_line(there)}); {OTHER}")
    return there


def _line(plan: Plan) -> str:
    looks = [f"until=resolved seeds={plan.looks[0]}..{plan.looks[-1]}"] if plan.looks else []
    return " ".join([*plan.words, *looks, *(f"tune.{key}={values}" for key, values in plan.tune.items())])


def _shown(conf: Path, plan: Plan, folder: Path | None) -> int:
    """Print the looks and the next batch: the first, or that of the plan which lies in the folder. Write nothing."""
    there = None if folder is None else _there(folder, plan)
    plan = there or plan
    sweep = None if plan.stop else batch(conf, plan, folder)  # what it refuses is said alone
    if plan.looks:
        print(f"looks after {', '.join(map(str, plan.looks))} seeds of each arm")
    if sweep is None:
        print(f"the sweep in {folder} has ended ({plan.stop}); nothing would be run")
        return 0
    waiting = [line for line in sweep.lines if not (run_folder(line) / "summary.json").is_file()]
    if there is None:
        print(f"the first of its stages would run {len(sweep.lines)} runs below {sweep.folder}:")
    elif waiting:
        counts = f"{len(waiting)} of its {len(sweep.lines)} runs"
        print(f"{_so_far(plan)}; the next stage would run {counts} below {folder}:")
    else:
        look = f"the sweep would look after {plan.seeds[1]} seeds" if plan.looks else "the sweep would end"
        then = "each arm's values would be chosen" if plan.tuning else look
        print(f"{_so_far(plan)}; all {len(sweep.lines)} runs of the next stage are finished, so {then}")
    shown = differing(sweep.lines)
    print("".join(f"{said}\n" for said, line in zip(shown, sweep.lines, strict=True) if line in waiting), end="")
    return 0


def _so_far(plan: Plan) -> str:
    """Return what a sweep has done, as the beginning of a sentence."""
    tuned = ["it has tuned each arm"] if plan.tuned is not None else []
    looked = [f"it has looked after {', '.join(str(each['seeds']) for each in plan.seen)} seeds"] if plan.seen else []
    return " and ".join([*tuned, *looked]) or "the sweep has begun"


def _carried_through(conf: Path, folder: Path) -> int:
    """Run what is unfinished and take the next step, until the plan ends or a run fails."""
    while not read_plan(folder).stop:
        if failed := _run(conf, folder):
            again = f"the same line with hydra.sweep.dir={shlex.quote(str(folder))} goes on"
            print(f"error: {failed} runs failed, so the sweep does not go on; {again}", file=sys.stderr)
            return 1
        print("\n".join(advance(conf, folder)), flush=True)
    print(f"run folder: {folder.absolute()}", flush=True)
    return 0


def _run(conf: Path, folder: Path) -> int:
    """Run the lines of the manifest that are not finished, and return how many have failed."""
    if not (folder / MANIFEST).is_file():
        return 0
    lines, failed = read_manifest(folder), 0
    told = differing(lines)
    for number in unfinished(folder):
        if NOTICE.given:  # between two runs; during one, `run_line` passes the request on
            raise Preempted
        print(f"run {number + 1} of {len(lines)}: {told[number]}", flush=True)
        try:
            run_line(conf.parent / "run.py", lines[number])
        except JobFailed:
            failed += 1
            print(f"run {number + 1} failed: {told[number]}", file=sys.stderr, flush=True)
    return failed
