"""Runs a sweep's job on several devices in a process of its own.

Lightning starts the other ranks of a run with the words of `sys.argv`. In a sweep these are the words of the whole
sweep, so each rank would run all of its jobs; and process groups, memory and environment of one job would remain in the
next. So the job is started as a single run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from unigen.config.quoting import as_value
from unigen.launch.claims import RANKS
from unigen.launch.preemption import CODE, INTERRUPTED, NOTICE

POLL = 0.5  # seconds between two looks at whether this process was asked to stop


class JobFailed(Exception):
    """A job failed in its own process, which has already reported the error."""


def needed(cfg: DictConfig) -> bool:
    """True if this job of a sweep would start ranks itself, that is, with several devices and outside of another
    launcher.
    """
    devices = OmegaConf.select(cfg, "trainer.devices", default=1)
    several = len(devices) > 1 if isinstance(devices, ListConfig) else str(devices) != "1"
    return several and not OmegaConf.select(cfg, "dry_run") and not any(name in os.environ for name in RANKS)


def run_job(flags: Sequence[str]) -> None:
    """Run the job that Hydra has begun, with the command line's `flags` (--config-dir) and the job's own overrides, as
    `run_line` does.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    run_line(
        sys.argv[0],
        [*flags, *hydra.overrides.task, "hydra.mode=RUN", f"run_dir={as_value(hydra.runtime.output_dir)}"],
    )


def run_line(script: str | Path, words: Sequence[str]) -> None:
    """Run a script with the words of a single run.

    A request to stop is passed on; the run saves and leaves. Raises SystemExit with the code of a run that was asked to
    stop, and JobFailed for one that failed.
    """
    environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}  # set by `launch`
    code = _waited_for(subprocess.Popen([sys.executable, str(script), *words], env=environment))
    if code in (CODE, INTERRUPTED):
        raise SystemExit(code)
    if code != 0:
        raise JobFailed


def _waited_for(process: subprocess.Popen[bytes]) -> int:
    """Wait for the process and return its exit code. Ctrl-C reaches it from the terminal; other requests to stop are
    passed on once.
    """
    told = False
    while True:
        try:
            return process.wait(timeout=POLL)
        except subprocess.TimeoutExpired:
            if NOTICE.given and not told:
                told = True
                process.send_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            process.wait()
            raise
