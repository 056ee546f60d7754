"""A real two-node SLURM for tests (slurm/local_cluster.sh): is it installed, bring it up, wait for it.

Tests in this folder take the fixture `slurm_cluster`; of others, `import local_cluster` after conftest's example.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tiny import ROOT

from slurm.status import Task, read_sweep

SCRIPT = ROOT / "slurm" / "local_cluster.sh"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol")


def missing() -> str:
    """Why there can be no SLURM here; "" if there can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    return f"{', '.join(absent)} not installed (Debian: slurmctld slurmd slurm-client munge)" if absent else ""


def script(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(SCRIPT), *words], capture_output=True, text=True, timeout=60)


@contextmanager
def cluster() -> Iterator[Path]:
    """Its folder, while it is up; SLURM_CONF points this process and its children at it."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a socket's path is short
    before = os.environ.get("SLURM_CONF")
    try:
        done = script("up", str(folder))
        assert done.returncode == 0, done.stderr
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        yield folder
    finally:
        script("down", str(folder))
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.pop("SLURM_CONF", None)
        if before is not None:
            os.environ["SLURM_CONF"] = before


def wait_for(what: Callable[[], Any], seconds: float = 120.0, said: Callable[[], object] = str) -> Any:
    """What `what` returns as soon as it is true; after `seconds` the test fails, with `said()`."""
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, f"not within {seconds:g} s: {said()}"
        time.sleep(0.1)
    return value


def run(*words: str) -> str:
    """One of SLURM's programs; what it printed."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ended(folder: Path) -> list[Task] | None:
    """The tasks of a sweep, once none waits or runs."""
    tasks = read_sweep(folder)
    return None if any(task.live for task in tasks) else tasks


def logs(folder: Path) -> str:
    """What the tasks of a sweep printed."""
    return "\n".join(f"{path.name}: {path.read_text()}" for path in sorted((folder / "logs").iterdir()))
