"""A sweep's job on several devices, run as a process of its own.

Lightning starts the other ranks of a run with the words of `sys.argv`. In a sweep those are the whole sweep's, so each
rank would walk through all of it; and process groups, memory and environment of one job would be there in the next. So
the job is started as the single run that it is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from omegaconf import DictConfig, ListConfig, OmegaConf

from unigen.claims import RANKS
from unigen.preemption import CODE, INTERRUPTED, NOTICE
from unigen.quoting import as_value

POLL = 0.5  # seconds between two looks at whether this process was asked to stop


class JobFailed(Exception):
    """The job's own process has said why."""


def needed(cfg: DictConfig) -> bool:
    """Whether this job of a sweep would start ranks itself: not with one device, nor where somebody else started us."""
    devices = OmegaConf.select(cfg, "trainer.devices", default=1)
    several = len(devices) > 1 if isinstance(devices, ListConfig) else str(devices) != "1"
    return several and not OmegaConf.select(cfg, "dry_run") and not any(name in os.environ for name in RANKS)


def run_job(flags: Sequence[str]) -> None:
    """Run the job that Hydra has begun, with the command line's `flags` (--config-dir) and the job's own overrides.

    A request to stop is passed on; the job saves and leaves. Raises SystemExit with the code of a job that was asked to
    stop, and JobFailed for one that failed.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    words = [*flags, *hydra.overrides.task, "hydra.mode=RUN", f"run_dir={as_value(hydra.runtime.output_dir)}"]
    environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}  # set by `launch`
    code = _waited_for(subprocess.Popen([sys.executable, sys.argv[0], *words], env=environment))
    if code in (CODE, INTERRUPTED):
        raise SystemExit(code)
    if code != 0:
        raise JobFailed


def _waited_for(process: subprocess.Popen[bytes]) -> int:
    """The exit code. A Ctrl-C reaches the process from the terminal; other requests to stop are passed on once."""
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
