"""An entry point ends bad input in one sentence and exit code 1, alone and in a multirun."""

import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = """
seed: 0
debug: false
hydra:
  run: {dir: runs}
  sweep: {dir: sweeps, subdir: "${hydra.job.num}"}
  callbacks: {sweep_folder: {_target_: callbacks.sweep_folder.SweepFolder}}
"""
SCRIPT = """
import sys
from pathlib import Path
from unigen.launch import launch
def main(cfg):
    if cfg.seed == 1: raise ValueError("the image cannot be read:\\n truncated")
    if cfg.seed == 2: raise RuntimeError("a defect")
    if cfg.seed == 7: raise SystemExit(143)
    print("ran", cfg.seed)
launch(main, Path("conf"))
"""


def launched(folder: Path, *argv: str) -> subprocess.CompletedProcess:
    (folder / "conf").mkdir()
    (folder / "conf" / "config.yaml").write_text(CONFIG)
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *argv], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("line", "code", "out", "err"),
    [
        ("seed=0", 0, ["ran 0"], ""),
        ("seed=1", 1, [], "error: the image cannot be read: truncated\n"),
        ("sed=1", 1, [], "error: unknown key 'sed' on the command line; did you mean 'seed'?\n"),
        ("seed=7", 143, [], ""),
        ("-m seed=1,0", 1, ["ran 0", "run folder: "], "error: the image cannot be read: truncated (job 0: seed=1)\n"),
        ("-m seed=0,3", 0, ["ran 0", "ran 3", "run folder: "], ""),
        ("-m seed=7,0", 143, [], ""),
    ],
)
def test_launch(tmp_path, line, code, out, err):
    done = launched(tmp_path, *line.split())
    said = [text for text in done.stdout.splitlines() if "[HYDRA]" not in text]
    assert (done.returncode, done.stderr) == (code, err)
    assert [text[: len(start)] for text, start in zip(said, out, strict=True)] == out
    if out[-1:] == ["run folder: "]:
        assert said[-1] == f"run folder: {tmp_path / 'sweeps'}"


def test_launch_keeps_the_traceback_of_a_defect(tmp_path):
    done = launched(tmp_path, "seed=2")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("error: RuntimeError: a defect\n")


def test_debug_shows_where_a_user_error_arose(tmp_path):
    done = launched(tmp_path, "seed=1", "debug=true")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("error: the image cannot be read: truncated\n")
