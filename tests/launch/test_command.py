"""The command `unigen` is the programs of experiments/ and slurm/sweep.py under one name, and completes their words."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import CONF, ROOT, choices

from unigen.config import commands
from unigen.launch import command
from unigen.launch.completion import candidates, own_keys

CALL = "from unigen.launch.command import main; main()"


def unigen(*words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """`unigen` with these words, as the installed script calls it."""
    paths = os.pathsep.join([environment.pop("PYTHONPATH", ""), str(ROOT)]).strip(os.pathsep)
    environment = os.environ | {"PYTHONPATH": paths} | environment
    words = [sys.executable, "-P", "-c", CALL, *words]  # -P: a script has no "" in sys.path
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture
def called(monkeypatch):
    """What `main` would run: (file, words) of each program."""
    ran = []
    monkeypatch.setattr(runpy, "run_path", lambda path, run_name: ran.append((path, run_name, sys.argv)))
    monkeypatch.setenv(commands.RUN, "")  # so that it is put back

    def call(*words: str) -> list:
        monkeypatch.setattr(sys, "argv", ["unigen", *words])
        command.main()
        return ran

    return call


@pytest.mark.parametrize(
    "path", [*sorted(ROOT.glob("experiments/*.py")), ROOT / "slurm/sweep.py"], ids=lambda p: p.stem
)
def test_every_program_is_one_of_the_command(path, called):
    assert called(path.stem, "a=1", "-m") == [(str(path), "__main__", [str(path), "a=1", "-m"])]


def test_the_help_says_what_each_program_does(called, capsys):
    assert called() == called("--help") == []
    said = capsys.readouterr().out
    for name in command.programs():
        (line,) = {line for line in said.splitlines() if line.split()[:1] == [name]}
        assert len(line.split()) > 3 and "`" not in line, line
    assert "Apache-2.0" in said and "CC BY-SA 4.0" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runn"], "error: unknown program 'runn' (did you mean 'run'?)"),
        (["+exp=fcd_mask_a"], "error: unknown program '+exp=fcd_mask_a' (known programs: bench, "),
        (["--completion", "fish"], "error: --completion fish: legal are bash and zsh"),
        (["--completion"], "error: --completion of no shell: legal are bash and zsh"),
    ],
)
def test_what_is_no_program_is_refused(words, said, called):
    with pytest.raises(SystemExit) as stop:
        called(*words)
    assert str(stop.value).startswith(said) and "\n" not in str(stop.value)


def test_errors_and_help_name_the_command_that_was_used(tmp_path, monkeypatch):
    assert commands.as_here("python slurm/sweep.py status") == "python slurm/sweep.py status", "in this checkout"
    monkeypatch.setattr(commands, "ROOT", tmp_path)  # as installed: no pyproject.toml beside the packages
    assert commands.command("sweep") == "unigen sweep"
    assert (
        commands.as_here("`python experiments/run.py +exp=a`, python other.py")
        == "`unigen run +exp=a`, python other.py"
    )
    done = unigen("run", "--help", cwd=tmp_path)
    assert "unigen run +exp=NAME" in done.stdout and "python experiments" not in done.stdout
    done = unigen("sample", "--help", cwd=tmp_path)
    assert "unigen sample run=<run folder> condition=<image>" in done.stdout and "python exp" not in done.stdout


def test_experiments_of_ones_own_need_no_checkout(tmp_path):
    """An experiment, a group file and a module of a project that is none of ours, started from its folder."""
    weights = yaml.safe_load((CONF / "loss" / "velocity.yaml").read_text())["weights"]
    files = {
        "conf/exp/mine.yaml": "# @package _global_\ndefaults: [fcd_mask_a, override /loss: own]\nname: mine\n",
        "conf/loss/own.yaml": yaml.safe_dump({"_target_": "my_parts.Own", "weights": weights}),
        "my_parts.py": "from unigen.losses.errors import Velocity\nclass Own(Velocity):\n    print('my own loss')\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    line = ["run", "--config-dir", "conf", "+exp=mine", "dry_run=true", f"data.cache={tmp_path}"]
    done = unigen(*line, cwd=tmp_path, PYTHONPATH=".")
    assert done.returncode == 0 and "my own loss" in done.stdout, done.stderr
    hidden = unigen(*line, cwd=tmp_path)
    assert hidden.returncode == 1 and "_target_ is 'my_parts.Own', which" in hidden.stderr, "negative control"
    assert "PYTHONPATH" in hidden.stderr
    missing = unigen("run", "--config-dir", "nowhere", "+exp=mine", cwd=tmp_path)
    assert missing.returncode == 1 and missing.stderr == f"error: config folder {tmp_path}/nowhere does not exist\n"
    without = unigen("run", "+exp=mine", cwd=tmp_path)
    assert without.returncode == 1 and "unknown choice 'mine' for group 'exp'" in without.stderr, "negative control"


def test_a_package_of_the_user_that_hides_ours_is_named(tmp_path):
    (tmp_path / "experiments").mkdir()  # no package is imported by this name
    (tmp_path / "experiments" / "__init__.py").write_text("raise ValueError")
    assert unigen("export", "--help", cwd=tmp_path, PYTHONPATH=".").returncode == 0
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "__init__.py").touch()
    done = unigen("export", "--help", cwd=tmp_path, PYTHONPATH=".")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: package 'callbacks' would come from {tmp_path / 'callbacks'} instead of")


def complete(line: str) -> list[str]:
    return candidates(line, command.programs())


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("unigen ", {"run ", "sweep "}),
        ("unigen sa", {"sample "}),
        ("unigen run +exp=fcd_mask_", {f"+exp={name}" for name in choices("exp") if name.startswith("fcd_mask_")}),
        ("unigen run +exp=methods/ominicontrol", {"+exp=methods/ominicontrol2", "+exp=methods/ominicontrol_subject"}),
        ("unigen run trainer.max", {"trainer.max_steps="}),
        ("unigen run metric=[ssim,ps", {"metric=[ssim,psnr"}),
        ("unigen run backbone=wan_mini backbone.conf", {"backbone.config."}),
        ("unigen run family=wan/m", {"family=wan/mini"}),
        ("unigen evaluate run=x me", {"metrics_only="}),
        ("unigen evaluate bench=emoji_can", {"bench=emoji_canny"}),
        ("unigen sweep cluster=sl", {"cluster=slurm"}),
        ("unigen sample rows=", set()),  # names of files, which the shell completes
        ("unigen nothing ", set()),
        ("unigen run --config-dir", set()),
    ],
)
def test_completes(line, some):
    assert set(complete(line)) == some or (some and line == "unigen " and some < set(complete(line)))


def test_completes_files_of_ones_own(tmp_path):
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "mine.yaml").write_text("# @package _global_\n")
    assert complete(f"unigen run --config-dir {tmp_path} +exp=mi") == ["+exp=mine", "+exp=mini/" + "x"][:1] + [
        f"+exp=mini/{path.stem}" for path in sorted((CONF / "exp" / "mini").glob("*.yaml"))
    ]
    assert "+exp=mine" not in complete("unigen run +exp=mi"), "negative control"


def test_own_keys_are_those_of_the_help():
    assert own_keys("Do it: `x run=<folder>`.\n\nrun=    a folder\nseed=, steps=   numbers\n  out=  a=b\n") == [
        "run=",
        "seed=",
        "steps=",
        "out=",
    ]


ASKED = {
    "bash": 'COMP_LINE="unigen run +exp=fcd_mask_"; COMP_POINT=${#COMP_LINE}; _unigen; echo "${COMPREPLY[@]}"',
    "zsh": 'compadd() { echo "${@:4}"; }; words=(unigen run +exp=fcd_mask_); CURRENT=3; _unigen',
}


@pytest.mark.parametrize("shell", ASKED)
def test_a_shell_completes_with_it(shell, tmp_path, called, capsys):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} is installed")
    shim = tmp_path / "unigen"
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{CALL}" "$@"\n')
    shim.chmod(0o755)
    called("--completion", shell)
    lines = f"{capsys.readouterr().out}\n{ASKED[shell]}"
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([shell, "-c", lines], env=environment, capture_output=True, text=True)
    found = [name for name in choices("exp") if name.startswith("fcd_mask_")]
    assert done.stdout.split() == [name if shell == "bash" else f"+exp={name}" for name in found], done.stderr
