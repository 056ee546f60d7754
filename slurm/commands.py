"""What `slurm/sweep.py` does: submit a sweep, show it, submit again what is open, cancel it."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from slurm.cluster import read_cluster
from slurm.manifest import MANIFEST, expand, manifest_text
from slurm.script import job_name, render
from slurm.states import Submission, ask, complaint, spelt
from slurm.status import add_submission, counts, read_sweep, table
from unigen.claims import claimed, claimed_new, is_new
from unigen.config import ConfigError
from unigen.files import write_text

SCRIPT = "array.sh"
SWEEPS = Path("runs/sweeps")  # hydra.sweep.dir of conf/config.yaml


def submit(conf: Path, words: Sequence[str], dry: bool = False) -> list[str]:
    """Writes the sweep's folder and calls sbatch once; with `dry` only says what it would write.

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
    config_dir, rest = _config_dir([word for word in words if word not in ours])
    folders = [folder / "cluster" for folder in (conf, config_dir) if folder]
    if len(names) != 1 or not names[0]:
        legal = ", ".join(sorted({file.stem for folder in folders for file in folder.glob("*.yaml")}))
        raise ConfigError(f"say cluster=<name> once; there are {legal}, or say the path of a .yaml file")
    cluster = read_cluster(folders, names[0], told)
    sweep = expand(conf, rest, config_dir)
    script = render(sweep, cluster, conf.parent / "run.py", Path.cwd(), sys.executable)
    if dry:
        shown = [f"# {sweep.folder / SCRIPT}", script, f"# {sweep.folder / MANIFEST}", manifest_text(sweep.lines)]
        return [text.rstrip("\n") for text in shown]
    other = "name another folder: hydra.sweep.dir=<folder>"
    named = any(word.lstrip("+").startswith("hydra.sweep.dir=") for word in rest)
    with claimed(sweep.folder, other) if named else claimed_new(sweep.folder) as own:
        if not is_new(own):
            raise ConfigError(f"{own} is not empty; {other}")
        if own != sweep.folder:  # another sweep of this second has the name
            sweep = expand(conf, [*rest, f"hydra.sweep.dir='{own}'"], config_dir)
            script = render(sweep, cluster, conf.parent / "run.py", Path.cwd(), sys.executable)
        (own / "logs").mkdir(exist_ok=True)
        write_text(own / MANIFEST, manifest_text(sweep.lines))
        write_text(own / SCRIPT, script)
    return [_sbatch(sweep.folder, list(range(len(sweep.lines)))), _hint(sweep.folder)]


def _config_dir(words: list[str]) -> tuple[Path | None, list[str]]:
    """The user's folder of configs, and the words without it and without -m, which goes without saying."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    given, rest = parser.parse_known_args([word for word in words if word not in ("-m", "--multirun")])
    flag = next((word for word in rest if word.startswith("-")), None)
    if flag:
        raise ConfigError(f"'{flag}' is no option here; there are --dry-run, --config-dir=<folder>, -m and --help")
    return given.config_dir, rest


def status(folder: Path | None, watch: bool = False, every: float = 5.0) -> None:
    """Prints the table of a sweep (by default the newest below runs/sweeps); with `watch` until nothing is live."""
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
        raise ConfigError(f"no array sweep in {SWEEPS}; say the sweep's folder")
    return found[-1].parent


def retry(folder: Path, options: Sequence[str] = ()) -> list[str]:
    """Submits the lines that are neither finished nor in SLURM's hands; `options` of sbatch replace the script's."""
    with _alone(folder):
        tasks = read_sweep(folder)
        again = [task.number for task in tasks if task.open]
        if not again:
            return [f"nothing to retry: {counts(tasks)}"]
        return [_sbatch(folder, again, options), _hint(folder)]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other `retry` of this sweep is under way: two would put two processes into one run folder."""
    if not (folder / MANIFEST).is_file():  # no sweep, which `read_sweep` says
        yield
        return
    with open(folder / MANIFEST) as manifest:
        fcntl.flock(manifest, fcntl.LOCK_EX)
        yield


def cancel(folder: Path) -> list[str]:
    """Ends what waits or runs; what is finished stays. Raises ConfigError if SLURM refuses."""
    live = [task for task in read_sweep(folder) if task.live]
    if not live:
        return ["nothing to cancel: no task waits or runs"]
    jobs = {job: [task.number for task in live if task.job == job] for job in dict.fromkeys(t.job for t in live)}
    done = ask("scancel", *(f"{job}_[{spelt(tasks)}]" for job, tasks in jobs.items()))
    if done.returncode:
        raise ConfigError(f"scancel refuses: {complaint(done)}")
    return [f"cancelled: task {spelt(task.number for task in live)}"]


def _sbatch(folder: Path, tasks: list[int], options: Sequence[str] = ()) -> str:
    script = folder.absolute() / SCRIPT
    limit = re.search(r"^#SBATCH --array=\S*?(%\d+)$", script.read_text(encoding="utf-8"), re.MULTILINE)
    array = spelt(tasks) + (limit[1] if limit else "")
    name = job_name(folder.resolve())
    done = ask("sbatch", "--parsable", *options, f"--job-name={name}", f"--array={array}", str(script))
    if done.returncode:
        hint = f"the sweep is written: python slurm/sweep.py retry {shlex.quote(str(folder))} submits it"
        raise ConfigError(f"sbatch refuses: {complaint(done)}; {hint}")
    job = done.stdout.strip().partition(";")[0]
    add_submission(folder, Submission(job, name, tasks))
    return f"submitted task {array} as SLURM's job {job}"


def _hint(folder: Path) -> str:
    near = os.path.relpath(folder)
    shown = shlex.quote(str(folder.absolute()) if near.startswith("..") else near)
    return f"sweep folder: {folder.absolute()}\nsee it with: python slurm/sweep.py status {shown} --watch"
