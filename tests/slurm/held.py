"""Stands in for python in a task: run.py, held in the middle of a step until this very process is asked to stop.

`python held.py FILE STARTS run.py words`: the first STARTS times that the task starts, its first rank says so in FILE,
by a line, and waits, halfway through its second step. Other ranks wait for it in the all-reduce of that step.
"""

import itertools
import os
import runpy
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

CALL = 4  # of two to each step


def hold(mark: Path) -> None:
    from unigen.launch.preemption import NOTICE
    from unigen.learners.denoising import Denoising

    step, calls = Denoising.training_step, itertools.count(1)

    def held(*args):
        if next(calls) == CALL:
            with mark.open("a") as file:
                print("held", file=file)
            while not NOTICE.given:
                time.sleep(0.05)
        return step(*args)

    Denoising.training_step = held


if __name__ == "__main__":
    mark, starts, *sys.argv = sys.argv[1:]
    if int(os.environ.get("SLURM_RESTART_COUNT", 0)) < int(starts) and os.environ["SLURM_PROCID"] == "0":
        hold(Path(mark))
    runpy.run_path(sys.argv[0], run_name="__main__")
