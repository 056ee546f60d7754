"""A sweep in stages that is asked to stop saves, leaves with 143, and goes on with the same line."""

import signal
import subprocess
import sys
import time

import pytest
from small_runs import line, log
from tiny import ROOT

from unigen.config.stages import read_plan
from unigen.launch.preemption import CODE


@pytest.mark.slow
def test_a_sweep_that_is_asked_to_stop_goes_on_later(tmp_path):
    words = ["+exp=fcd_mask_a,fcd_mask_b", "task=canny", "until=resolved", "seeds=2..2", "hydra.sweep.dir=s"]
    words += [*line("logger=[jsonl]"), "trainer.max_steps=200", "validation.every=200", "trainer.log_every_n_steps=1"]
    command = [sys.executable, str(ROOT / "experiments" / "run.py"), *words]
    first = tmp_path / "s" / "0_fcd_mask_a_canny_seed0"
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as sweep:
        end = time.monotonic() + 300
        while not (first / "metrics.jsonl").is_file() and time.monotonic() < end:
            time.sleep(0.1)
        sweep.send_signal(signal.SIGTERM)
        said = sweep.communicate(timeout=300)[0]
    assert sweep.returncode == CODE, said
    assert not (first / "summary.json").exists() and not (tmp_path / "s" / "1_fcd_mask_a_canny_seed1").exists()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and read_plan(tmp_path / "s").stop == "limit", done.stderr
    steps = [entry["step"] for entry in log(first) if "train/loss" in entry]
    assert steps == sorted(set(steps)) and steps[-1] == 200, "nothing is repeated or missing"
