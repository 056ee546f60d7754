"""Sweeps in stages as arrays: the first array, the job that looks, the next array; one on a real SLURM."""

import json
import subprocess
import sys

import pytest
from local_cluster import ended, logs, wait_for
from made_runs import make_run
from small_runs import line
from tiny import ROOT

from slurm import commands
from unigen.config.manifest import read_manifest, run_folder
from unigen.config.stages import read_plan
from unigen.config.values import ConfigError

LOOK = f"""
import runpy, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
own = runpy.run_path({str(ROOT / "experiments" / "look.py")!r})
own["main"].__globals__["CONF"] = Path(__file__).parent / "conf"
sys.exit(own["main"](sys.argv[1:]))
"""


@pytest.fixture
def submitted(conf, tmp_path, monkeypatch):
    """A submitted sweep of two arms; sbatch writes its words to `said` and numbers the jobs, scontrol knows none."""
    for name, text in {
        "sbatch": f'echo "$@" >> {tmp_path}/said\nwc -l < {tmp_path}/said',
        "scontrol": "echo Invalid job id >&2; exit 1",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "look.py").write_text(LOOK)
    words = ["+table=both", "until=resolved", "seeds=2..4", "cluster=local", f"hydra.sweep.dir={tmp_path}/s"]
    said = commands.submit(conf, words)
    assert said[:2] == ["submitted task 0-3%2 as SLURM's job 1", "SLURM's job 2 looks when they have ended"]
    return tmp_path / "s"


def finish(folder, lead: float = 0.0) -> None:
    for line_ in read_manifest(folder):
        place, name = run_folder(line_), "b" if "+exp=b" in line_ else "a"
        if not place.exists():
            seed = int(place.name[-1])
            f1 = 0.5 + 0.01 * seed * (name == "b") + lead * (name == "b")
            make_run(place, name, seed, metrics={"f1": {"value": f1, "better": "higher"}})


def test_a_look_submits_the_next_seeds_as_the_next_array(submitted, conf, tmp_path):
    calls = (tmp_path / "said").read_text().splitlines()
    assert calls[1] == f"--parsable --dependency=afterany:1 {submitted}/look.sh"
    script = (submitted / "look.sh").read_text()
    assert "sweep.py look" in script and f"--output={submitted}/logs/look.log" in script and "--array" not in script
    with pytest.raises(ConfigError, match=r"the sweep looks when all tasks are finished \(4 to retry\): .* retry "):
        commands.look(conf, submitted)
    finish(submitted)
    said = commands.look(conf, submitted)
    assert said[0].startswith("look 1 of 2, after 2 seeds") and "goes on to 4 seeds" in said[0]
    assert said[1:] == ["submitted task 4-7%2 as SLURM's job 3", "SLURM's job 4 looks when they have ended"]
    assert [run_folder(each).name for each in read_manifest(submitted)[4:]] == [
        *("0_a_seed2", "1_a_seed3", "2_b_seed2", "3_b_seed3")
    ]
    finish(submitted)
    [end] = commands.look(conf, submitted)
    assert end.startswith("look 2 of 2, after 4 seeds") and read_plan(submitted).stop == "limit"
    assert commands.look(conf, submitted) == ["the sweep has ended"]
    assert len((tmp_path / "said").read_text().splitlines()) == 4, "nothing more is submitted"


def test_an_answered_question_submits_nothing(submitted, conf, tmp_path):
    finish(submitted, lead=5.0)
    [said] = commands.look(conf, submitted)
    assert "the question is answered, the sweep stops" in said
    assert len((tmp_path / "said").read_text().splitlines()) == 2


def test_a_sweep_without_stages_has_nothing_to_look_at(conf, tmp_path, submitted):
    commands.submit(conf, ["+exp=a", "cluster=local", f"hydra.sweep.dir={tmp_path}/t"])
    assert not (tmp_path / "t" / "plan.json").exists() and not (tmp_path / "t" / "look.sh").exists()
    finish(tmp_path / "t")
    with pytest.raises(ConfigError, match=r"t is not the folder of a sweep in stages: it has no plan.json"):
        commands.look(conf, tmp_path / "t")


def test_a_job_that_looks_and_is_refused_is_done_by_hand(submitted, tmp_path):
    (tmp_path / "sbatch").write_text("#!/bin/sh\ncase $* in *look.sh) echo no >&2; exit 1;; *) echo 9;; esac\n")
    said = commands.retry(submitted)
    assert said[0] == "submitted task 0-3%2 as SLURM's job 9"
    assert said[1].startswith(
        "sbatch refuses the job that looks (no); when the tasks have ended: python slurm/sweep.py"
    )


@pytest.mark.slow
def test_a_real_sweep_goes_through_its_stages_by_itself(slurm_cluster, tmp_path):
    """Two arms, a grid of two, looks after 2 and 3 seeds: 10 tiny runs in three arrays, and three jobs that look."""
    words = ["+exp=fcd_mask_a,fcd_mask_b", f"hydra.sweep.dir={tmp_path}/sweep", "cluster=local", "task=canny"]
    words += [
        *line("logger=[jsonl]", "evaluation.items=4"),
        "until=resolved",
        "seeds=2..3",
        "tune.optimizer.lr=1e-3,3e-3",
    ]
    sweep = [sys.executable, str(ROOT / "slurm" / "sweep.py"), *words]
    done = subprocess.run(sweep, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "sweep"
    told = folder / "logs" / "look.log"
    wait_for(lambda: told.is_file() and "the sweep stops" in told.read_text(), 3000, said=lambda: logs(folder))
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["stop"] in ("answered", "limit") and len(plan["tuned"]) == 2
    assert len(read_manifest(folder)) == 4 + 2 * plan["seen"][-1]["seeds"]
    assert ended(folder) and all((run_folder(each) / "summary.json").exists() for each in read_manifest(folder))
    print(told.read_text())
