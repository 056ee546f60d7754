"""A sweep's job on several devices runs as the single run that it is, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import line
from tiny import ROOT

CONFIG = """
seed: 0
debug: false
trainer: {devices: 1}
run_dir: runs
user: null
hydra:
  run: {dir: "${run_dir}"}
  sweep: {dir: sweeps, subdir: "${hydra.job.num}"}
  callbacks: {sweep_folder: {_target_: callbacks.sweep_folder.SweepFolder}}
"""
SCRIPT = """
import os, sys, time
from pathlib import Path
from unigen.launch.preemption import NOTICE
NOTICE.listen()
from unigen.launch.start import launch
def main(cfg):
    from hydra.core.hydra_config import HydraConfig
    if cfg.seed == 1: raise ValueError("no such image")
    if cfg.seed == 2:
        os.kill(os.getppid(), 15)  # the sweep is asked to stop, and its job is told
        for _ in range(600):
            time.sleep(0.1)
            if NOTICE.given: raise SystemExit(143)
    print("ran", cfg.seed, os.getpid(), HydraConfig.get().runtime.output_dir, cfg.user)
launch(main, Path("conf"))
"""


def swept(folder: Path, *words: str) -> tuple[int, list[list[str]], str]:
    """Exit code, [pid, folder, user] of each job that ran, and stderr, of a sweep in `folder`."""
    (folder / "conf").mkdir(parents=True)
    (folder / "conf" / "config.yaml").write_text(CONFIG)
    (folder / "user" / "exp").mkdir(parents=True)
    (folder / "user" / "exp" / "mine.yaml").write_text("# @package _global_\nuser: mine\n")
    (folder / "script.py").write_text(SCRIPT)
    environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, "script.py", "-m", *words], cwd=folder, env=environment, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    ran = [said.split()[2:] for said in done.stdout.splitlines() if said.startswith("ran ")]
    return done.returncode, ran, done.stderr


def test_jobs_on_several_devices_have_a_process_each_and_the_sweeps_folders(tmp_path):
    _, alone, _ = swept(tmp_path / "one", "seed=0,3")
    assert len({pid for pid, *_ in alone}) == 1, "control: with one device they share the sweep's"
    code, ran, said = swept(tmp_path / "two", "--config-dir=user", "+exp=mine", "seed=0,3", "trainer.devices=2")
    assert code == 0, said
    assert len({pid for pid, *_ in ran}) == 2
    assert [Path(folder).parts[-2:] for _, folder, _ in ran] == [("sweeps", "0"), ("sweeps", "1")]
    assert [user for *_, user in ran] == ["mine", "mine"]


def test_one_that_fails_says_so_and_the_others_go_on(tmp_path):
    code, ran, said = swept(tmp_path, "seed=1,0", "trainer.devices=2")
    assert code == 1 and len(ran) == 1
    assert said.splitlines() == ["error: no such image", "job 0 failed: seed=1 trainer.devices=2"]


def test_a_request_to_stop_is_passed_on_and_ends_the_sweep(tmp_path):
    code, ran, said = swept(tmp_path, "seed=2,0", "trainer.devices=2")
    assert (code, ran) == (143, []), said


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
def test_a_sweep_under_ddp(tmp_path, named):
    """Two jobs of two ranks each over gloo: every job is trained once, in one sweep folder."""
    words = ["-m", "+exp=fcd_mask_a", "seed=0,1", *line(), "trainer.devices=2", "strategy=ddp", "data.batch_size=2",
             "trainer.accelerator=cpu", "logger=[jsonl]", "trainer.max_steps=1", "metric=[]"]  # fmt: skip
    words += [f"hydra.sweep.dir={tmp_path / 'sweeps' / 'here'}"] if named else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, ROOT / "experiments" / "run.py", *words], cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (sweep,) = [path for path in tmp_path.glob("**/sweeps/*") if path.is_dir()]
    runs = sorted(path.parent for path in sweep.glob("*/summary.json"))
    assert [json.loads((run / "summary.json").read_text())["seed"] for run in runs] == [0, 1]
