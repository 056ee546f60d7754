"""Runs a sweep in stages on this machine, one run after another, each in a process of its own."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from unigen.config.manifest import MANIFEST, Sweep, differing, read_manifest, without_flags
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
        return _shown(batch(conf, plan, folder), plan)
    claim = claimed_new(batch(conf, plan).folder) if folder is None else claimed(folder, OTHER)
    with claim as own:
        begin(own, plan)
        return _carried_through(conf, own)


def begin(folder: Path, plan: Plan) -> None:
    """Write a plan into a claimed folder, or check that the folder holds this one."""
    there = read_plan(folder)
    if there is None and not is_new(folder):
        raise ConfigError(f"{folder} is not empty and holds no sweep in stages; {OTHER}")
    if there is None:
        write_plan(folder, plan)
    elif not there.same_line(plan):
        raise ConfigError(f"{folder} holds the sweep of another line ({_line(there)}); {OTHER}")


def _line(plan: Plan) -> str:
    looks = [f"until=resolved seeds={plan.looks[0]}..{plan.looks[-1]}"] if plan.looks else []
    return " ".join([*plan.words, *looks, *(f"tune.{key}={values}" for key, values in plan.tune.items())])


def _shown(sweep: Sweep, plan: Plan) -> int:
    """Print the looks and the first batch."""
    if plan.looks:
        print(f"looks after {', '.join(map(str, plan.looks))} seeds of each arm")
    print(f"the first of its stages would run {len(sweep.lines)} runs below {sweep.folder}:")
    print("\n".join(differing(sweep.lines)))
    return 0


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
