"""An entry point ends bad input in one sentence and exit code 1, alone and in a multirun."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny import CONF

from unigen.config.preflight import preflight

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
from unigen.launch.start import launch
from unigen.launch.terminal import one_line_for_ctrl_c
one_line_for_ctrl_c()
def main(cfg):
    if cfg.seed == 1: raise ValueError("the image cannot be read:\\n truncated")
    if cfg.seed == 2: raise RuntimeError("a defect")
    if cfg.seed == 7: raise SystemExit(143)
    if cfg.seed == 8:
        try: raise KeyboardInterrupt
        finally: raise ValueError("as OmegaConf's own clean-up fails")
    print("ran", cfg.seed, *filter(None, [cfg.get("name")]))
launch(main, Path("conf"))
"""


TABLE = {
    "exp/a": "# @package _global_\nname: a",
    "exp/b": "# @package _global_\nname: b",
    "table/both": """# @package _global_
hydra: {mode: MULTIRUN, sweep: {dir: sweeps/both}, sweeper: {params: {+exp: "a,b"}}}""",
}


def launched(folder: Path, *argv: str, config: str = CONFIG, **files: str) -> subprocess.CompletedProcess:
    for name, text in {"config": config, **files}.items():
        path = folder / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
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
        ("seed=8", -2, [], "interrupted\n"),
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


@pytest.mark.parametrize(
    ("line", "out"),
    [
        ("+table=both", ["ran 0 a", "ran 0 b"]),
        ("+table=both seed=0,3", ["ran 0 a", "ran 3 a", "ran 0 b", "ran 3 b"]),
        ("+table=both +exp=b seed=3,4", ["ran 3 b", "ran 4 b"]),
        ("+exp=b,a +table=both", ["ran 0 b", "ran 0 a"]),
        ("-m seed=0,3", ["ran 0 table", "ran 3 table"]),  # negative control: without the table no arm is run
    ],
)
def test_a_table_makes_a_multirun_of_its_arms(tmp_path, line, out):
    done = launched(tmp_path, *line.split(), **TABLE, config=CONFIG + "name: table\n")
    assert (done.returncode, done.stderr) == (0, "")
    said = [text for text in done.stdout.splitlines() if "[HYDRA]" not in text]
    assert said == [*out, f"run folder: {tmp_path / 'sweeps'}" + ("" if line.startswith("-m") else "/both")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("+table=both +exp=c seed=0,1", "unknown choice 'c' for group 'exp' on the command line"),
        ("+table=both hydra.mode=RUN", "hydra.sweeper.params in table/both.yaml would be ignored"),
        ("-m +table=both,other", "hydra.sweeper.params in table/both.yaml would be ignored"),
    ],
)
def test_nothing_of_a_table_is_dropped_without_a_word(tmp_path, line, said):
    done = launched(tmp_path, *line.split(), **TABLE, **{"table/other": TABLE["table/both"]}, config=CONFIG + "name: x")
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.count("\n") == 1
    assert said in done.stderr and not (tmp_path / "sweeps").exists()


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


def test_a_key_of_swept_choices_alone_is_told_so_that_hydra_takes_it():
    """Hydra composes a sweep without what is swept first, and takes an error there for a single run."""
    words = ["+table=visualcloze_fill_dev", "seed=0,1", "scale=paper", "encoder.text.clip.config.hidden_size=24"]
    assert preflight(CONF, [*words, "trainer.max_steps=2"]) == words[3:]
    assert preflight(CONF, ["+exp=visualcloze_dev", *words[2:]]) == [], "of a single run Hydra knows it"
