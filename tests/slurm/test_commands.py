"""slurm/sweep.py: what it refuses before anything is written, and what --dry-run shows."""

import subprocess
import sys

import pytest
from tiny import ROOT

from slurm import commands
from unigen.config.values import ConfigError


def test_a_dry_run_shows_script_and_manifest_and_writes_nothing(conf, tmp_path):
    shown = commands.submit(conf, ["+table=both", "cluster=local", f"hydra.sweep.dir={tmp_path}/s", "-m"], dry=True)
    assert shown[0] == f"# {tmp_path}/s/array.sh" and shown[2] == f"# {tmp_path}/s/manifest.tsv"
    assert "#SBATCH --array=0-1%2\n" in shown[1] and f"{sys.executable} {tmp_path}/run.py" in shown[1]
    assert [line.split("\t")[0] for line in shown[3].splitlines()] == ["+exp=a", "+exp=b"]
    assert not (tmp_path / "s").exists()


def test_a_submission_is_one_array_in_a_folder_of_its_own(conf, tmp_path, monkeypatch):
    (tmp_path / "sbatch").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\necho 4\n')
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    words = ["+table=both", "seed=0,1", "cluster=local", f"hydra.sweep.dir={tmp_path}/s"]
    assert commands.submit(conf, words)[0] == "submitted task 0-3%2 as SLURM's job 4"
    assert (tmp_path / "said").read_text() == f"--parsable --job-name=s --array=0-3%2 {tmp_path}/s/array.sh\n"
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [
        *("array.sh", "logs", "manifest.tsv", "submissions.jsonl")
    ]
    for dry in (False, True):
        with pytest.raises(ConfigError, match="s is not empty; name another folder"):
            commands.submit(conf, words, dry)
    assert (tmp_path / "said").read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["+exp=a"], "give cluster=<name> once; there are local, slurm"),
        (["+exp=a", "cluster=local", "cluster=slurm"], "give cluster=<name> once"),
        (["+exp=a", "+cluster=lokal"], "cluster=lokal is unknown; did you mean 'local'?"),
        (["+exp=a", "cluster=local", "+cluster.partion=x"], "did you mean 'cluster.partition'?"),
        (["+exp=a", "cluster=local", "--cfg=job"], "'--cfg=job' is no option here"),
        (["+exp=a", "cluster=local", "--foo"], "'--foo' is no option here"),
        (["+exp=a", "cluster=local", "--config-dir=nowhere"], "nowhere does not exist"),
        (["+exp=a", "cluster=local", "sed=0"], "did you mean 'seed'?"),
    ],
)
def test_bad_words_write_nothing(conf, tmp_path, words, said):
    with pytest.raises(ConfigError) as error:
        commands.submit(conf, [*words, f"hydra.sweep.dir={tmp_path}/s"])
    assert said in str(error.value) and not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["retry"], "error: give one sweep's folder: python slurm/sweep.py retry"),
        (["status", "a", "b"], "error: give one sweep's folder"),
        (["status", "--wach"], "error: '--wach' is no option of status"),
        (["status"], "error: no array sweep in runs/sweeps"),
        (["cancel", "."], "error: . is not the folder of an array sweep"),
    ],
)
def test_the_entry_point_ends_bad_input_in_a_sentence(tmp_path, words, said):
    argv = [sys.executable, str(ROOT / "slurm" / "sweep.py"), *words]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith(said) and done.stderr.count("\n") == 1
