"""The commands of `slurm/sweep.py`: submit a sweep, show it, resubmit unfinished tasks, look at it, cancel it."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from slurm.cluster import read_cluster
from slurm.script import job_name, render, render_look
from slurm.states import Submission, ask, complaint, spelt
from slurm.status import add_submission, counts, read_sweep, table
from unigen.config.commands import command
from unigen.config.files import write_text
from unigen.config.manifest import MANIFEST, expand, manifest_text, without_flags
from unigen.config.stages import batch, read_line, write_plan
from unigen.config.values import ConfigError
from unigen.launch.claims import claimed, claimed_new, is_new

SCRIPT, LOOK = "array.sh", "look.sh"
SWEEPS = Path("runs/sweeps")  # hydra.sweep.dir of conf/config.yaml
OTHER = "name another folder: hydra.sweep.dir=<folder>"


def submit(conf: Path, words: Sequence[str], dry: bool = False) -> list[str]:
    """Write the sweep's folder and call sbatch once; with `dry`, only return the text of its files.

    Of a sweep in stages (`unigen.config.stages`) it submits the first, and a job that looks at it afterwards.

    Args:
        conf: experiments/conf.
        words: those of run.py, and cluster=<name>, cluster.<key>=<value>.

    Returns:
        Lines for the terminal.

    Raises:
        ConfigError: bad words (nothing is written then), or sbatch refuses (the folder stays, for `retry`).
    """
    ours = [word for word in words if word.lstrip("+~").startswith(("cluster=", "cluster."))]
    names = [word.partition("=")[2] for word in ours if word.lstrip("+").startswith("cluster=")]
    told = [word for word in ours if word.lstrip("+~").startswith("cluster.")]
    config_dir, rest = without_flags([word for word in words if word not in ours])
    folders = [folder / "cluster" for folder in (conf, config_dir) if folder]
    if len(names) != 1 or not names[0]:
        legal = ", ".join(sorted({file.stem for folder in folders for file in folder.glob("*.yaml")}))
        raise ConfigError(f"give cluster=<name> once; there are {legal}, or give the path of a .yaml file")
    cluster = read_cluster(folders, names[0], told)
    plan, folder = read_line(rest, config_dir)
    sweep = batch(conf, plan, folder) if plan else expand(conf, rest, config_dir)
    script = render(sweep, cluster, conf.parent / "run.py", Path.cwd(), sys.executable)
    named = any(word.lstrip("+").startswith("hydra.sweep.dir=") for word in rest)
    if dry:
        if named and sweep.folder.exists():
            _check_new(sweep.folder)
        shown = [f"# {sweep.folder / SCRIPT}", script, f"# {sweep.folder / MANIFEST}", manifest_text(sweep.lines)]
        return [text.rstrip("\n") for text in shown]
    with claimed(sweep.folder, OTHER) if named else claimed_new(sweep.folder) as own:
        _check_new(own)
        if own != sweep.folder:  # another sweep of this second has the name
            named_words = [*rest, f"hydra.sweep.dir='{own}'"]
            sweep = batch(conf, plan, own) if plan else expand(conf, named_words, config_dir)
            script = render(sweep, cluster, conf.parent / "run.py", Path.cwd(), sys.executable)
        (own / "logs").mkdir(exist_ok=True)
        write_text(own / MANIFEST, manifest_text(sweep.lines))
        write_text(own / SCRIPT, script)
        if plan:
            write_plan(own, plan)
            write_text(own / LOOK, render_look(own, cluster, Path.cwd(), sys.executable))
    return [*_sbatch(sweep.folder, list(range(len(sweep.lines)))), _hint(sweep.folder)]


def _check_new(folder: Path) -> None:
    if not is_new(folder):
        raise ConfigError(f"{folder} is not empty; {OTHER}")


def status(folder: Path | None, watch: bool = False, every: float = 5.0) -> None:
    """Print the table of a sweep (by default the newest below runs/sweeps); with `watch`, until nothing is live."""
    from rich.console import Console
    from rich.live import Live

    folder = newest() if folder is None else folder
    console, tasks = Console(highlight=False), read_sweep(folder)
    if not watch:
        console.print(table(folder, tasks))
        return
    with Live(table(folder, tasks), console=console, auto_refresh=False) as live:
        while any(task.live for task in tasks):
            time.sleep(every)
            tasks = read_sweep(folder)
            live.update(table(folder, tasks), refresh=True)


def newest() -> Path:
    found = sorted(SWEEPS.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ConfigError(f"no array sweep in {SWEEPS}; give the sweep's folder")
    return found[-1].parent


def retry(folder: Path, options: Sequence[str] = ()) -> list[str]:
    """Submit the lines that are neither finished nor queued in SLURM; `options` of sbatch replace the script's."""
    with _alone(folder):
        tasks = read_sweep(folder)
        again = [task.number for task in tasks if task.open]
        if not again:
            return [f"nothing to retry: {counts(tasks)}"]
        return [*_sbatch(folder, again, options), _hint(folder)]


def look(conf: Path, folder: Path) -> list[str]:
    """Decide what the finished stage of a sweep says, and submit the next one.

    Raises:
        ConfigError: tasks are unfinished, the sweep has no stages, or its question cannot be answered.
    """
    with _alone(folder):
        tasks = read_sweep(folder)
        if any(task.live for task in tasks):
            return [f"nothing to look at yet: {counts(tasks)}"]
        if any(task.open and task.submitted for task in tasks):
            again = f"{command('sweep')} retry {shlex.quote(str(folder))}"
            raise ConfigError(f"the sweep looks when all tasks are finished ({counts(tasks)}): {again}")
        words = [sys.executable, str(conf.parent / "look.py"), f"sweep={folder}"]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise ConfigError(done.stderr.strip().removeprefix("error: "))
        new = [task.number for task in read_sweep(folder) if not task.submitted]
        return [done.stdout.strip(), *(_sbatch(folder, new) if new else [])]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other `retry` or `look` of this sweep runs: two would start two processes in one run folder."""
    if not (folder / SCRIPT).is_file():  # no sweep, which `read_sweep` says
        yield
        return
    with open(folder / SCRIPT) as script:
        fcntl.flock(script, fcntl.LOCK_EX)
        yield


def cancel(folder: Path) -> list[str]:
    """Cancel the tasks that wait or run; finished ones stay. Raises ConfigError if SLURM refuses."""
    live = [task for task in read_sweep(folder) if task.live]
    if not live:
        return ["nothing to cancel: no task waits or runs"]
    jobs = {job: [task.number for task in live if task.job == job] for job in dict.fromkeys(t.job for t in live)}
    done = ask("scancel", *(f"{job}_[{spelt(tasks)}]" for job, tasks in jobs.items()))
    if done.returncode:
        raise ConfigError(f"scancel refuses: {complaint(done)}")
    return [f"cancelled: task {spelt(task.number for task in live)}"]


def _sbatch(folder: Path, tasks: list[int], options: Sequence[str] = ()) -> list[str]:
    """Submit tasks, and for a sweep in stages the job that looks at them; return a line on each."""
    script = folder.absolute() / SCRIPT
    limit = re.search(r"^#SBATCH --array=\S*?(%\d+)$", script.read_text(encoding="utf-8"), re.MULTILINE)
    array = spelt(tasks) + (limit[1] if limit else "")
    name = job_name(folder.resolve())
    done = ask("sbatch", "--parsable", *options, f"--job-name={name}", f"--array={array}", str(script))
    if done.returncode:
        hint = f"the sweep is written: {command('sweep')} retry {shlex.quote(str(folder))} submits it"
        raise ConfigError(f"sbatch refuses: {complaint(done)}; {hint}")
    job = done.stdout.strip().partition(";")[0]
    add_submission(folder, Submission(job, name, tasks))
    said = [f"submitted task {array} as SLURM's job {job}"]
    return [*said, _sbatch_look(folder, job)] if (folder / LOOK).is_file() else said


def _sbatch_look(folder: Path, after: str) -> str:
    """Submit the job that looks when the array `after` has ended; return a line on it, or on what to do without it."""
    script = folder.absolute() / LOOK
    done = ask("sbatch", "--parsable", f"--dependency=afterany:{after}", str(script))
    if done.returncode:
        by_hand = f"when the tasks have ended: {command('sweep')} look {shlex.quote(str(folder))}"
        return f"sbatch refuses the job that looks ({complaint(done)}); {by_hand}"
    return f"SLURM's job {done.stdout.strip().partition(';')[0]} looks when they have ended"


def _hint(folder: Path) -> str:
    near = os.path.relpath(folder)
    shown = shlex.quote(str(folder.absolute()) if near.startswith("..") else near)
    return f"sweep folder: {folder.absolute()}\nsee it with: {command('sweep')} status {shown} --watch"
