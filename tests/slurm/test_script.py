"""The batch script: what it asks of SLURM, and that a line reaches the run word for word."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tiny import CONF, choices

from slurm.cluster import read_cluster
from slurm.script import options, render, setup
from unigen.config.manifest import MANIFEST, Shape, Sweep, expand, manifest_text
from unigen.config.values import ConfigError

FOLDERS = [CONF / "cluster"]
ONE = Shape(1, 1, "auto")
HOSTILE = [r"""paper='it\'s 100% a, "b" \\ $(touch x) `y` #z ~ ${w}'""", "a=*", "b=  two  blanks ", "c=é", "--d=-"]


def asked(cluster: dict, shape: Shape = ONE, tasks: int = 3, folder: str = "/sweeps/one") -> dict[str, str]:
    """sbatch's options by name."""
    sweep = Sweep(Path(folder), [["seed=0", "run_dir=x"]] * tasks, shape)
    said = options(sweep, cluster, Path("/work dir"))
    return {name: value for name, _, value in (option.removeprefix("--").partition("=") for option in said)}


@pytest.mark.parametrize("name", choices("cluster"))
def test_every_cluster_renders(name):
    said = asked(read_cluster(FOLDERS, name))
    assert said["array"].startswith("0-2") and said["open-mode"] == "append" and "requeue" in said
    assert said["output"] == "/sweeps/one/logs/%a.log" and said["chdir"] == "'/work dir'"


def test_nodes_processes_and_gpus_follow_the_trainer():
    cluster = read_cluster(FOLDERS, "slurm", ["cluster.gpus=a100", "cluster.array_limit=4"])
    said = asked(cluster, Shape(2, 8, "gpu"), tasks=12)
    wanted = {"nodes": "2", "ntasks-per-node": "8", "gpus-per-node": "a100:8", "array": "0-11%4", "signal": "USR1@120"}
    assert wanted.items() <= said.items() and not {"partition", "account", "mem"} & set(said)
    assert asked(read_cluster(FOLDERS, "slurm"))["gpus-per-node"] == "1" and asked(cluster | {"array_limit": 0})
    assert "gpus-per-node" not in asked(cluster, Shape(1, 4, "cpu"))
    assert "gpus-per-node" not in asked(cluster | {"gpus": "none"})
    with pytest.raises(ConfigError, match="the cluster says gpus: none"):
        asked(cluster | {"gpus": "none"}, Shape(1, 4, "gpu"))
    assert asked(cluster | {"gpus": "none", "sbatch": ["--gres=gpu:4"]}, Shape(1, 4, "gpu"))["gres"] == "gpu:4"


def test_a_clusters_keys_reach_sbatch():
    words = ["partition=big", "account=lab", "qos=long", "constraint='a100&ib'", "time=1:00:00", "mem=64G"]
    cluster = read_cluster(FOLDERS, "slurm", [*(f"cluster.{word}" for word in words), "cluster.signal_seconds=0"])
    said = asked(cluster | {"sbatch": ["--exclude=n7", "--exclusive"]}, folder="/a b/50% off")
    wanted = {"partition": "big", "account": "lab", "qos": "long", "constraint": "'a100&ib'", "time": "1:00:00"}
    assert wanted.items() <= said.items() and said["mem"] == "64G" and said["exclude"] == "n7" and "exclusive" in said
    assert "signal" not in said
    assert said["output"] == "'/a b/50%% off/logs/%a.log'" and said["job-name"] == "50__off"


def test_setup_comes_in_order_and_quoted():
    cluster = read_cluster(FOLDERS, "slurm") | {"modules": ["cuda/12.8"], "setup": ["conda activate unigen"]}
    first, second, meeting, *rest = setup(cluster | {"environment": {"A": "b c", "ON": True}})
    assert (first, second, rest) == (
        "module load cuda/12.8", "conda activate unigen", ["export A='b c'", "export ON=true"]
    )  # fmt: skip
    assert "scontrol show hostnames" in meeting
    assert setup(read_cluster(FOLDERS, "local")) == ["export MASTER_ADDR=127.0.0.1", "export OMP_NUM_THREADS=1"]
    with pytest.raises(ConfigError, match="'A-B' is no name of a variable"):
        setup(cluster | {"environment": {"A-B": 1}})


# --- what bash makes of it -------------------------------------------------------------------------------------------


def executed(folder: Path, script: str, task: int) -> tuple[int, list[str], str]:
    """The exit code, the words that srun got, and stderr of a script as task `task`, with stand-ins for SLURM's."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "srun").write_text('#!/bin/bash\nprintf "%s\\0" "$@" "MASTER_ADDR=$MASTER_ADDR"\nexit 5\n')
    (tools / "scontrol").write_text("#!/bin/bash\n[ \"$*\" = 'show hostnames n[4-5]' ] && printf 'n4\\nn5\\n'\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    env = {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": str(task), "SLURM_CPUS_PER_TASK": "3"}
    done = subprocess.run(
        [shutil.which("bash"), "-c", script],
        capture_output=True,
        env=env | {"SLURM_JOB_NODELIST": "n[4-5]"},
        cwd=folder,
    )
    return done.returncode, done.stdout.decode().split("\0")[:-1], done.stderr.decode()


def test_a_hostile_line_reaches_the_run_word_for_word(tmp_path):
    folder = tmp_path / 'it\'s a "sweep", 100%'
    folder.mkdir()
    lines = [["seed=0", "run_dir=x"], [*HOSTILE, "run_dir=y"]]
    (folder / MANIFEST).write_text(manifest_text(lines))
    cluster = read_cluster(FOLDERS, "slurm", ['cluster.container="apptainer exec --nv"', "cluster.python=python3"])
    script = render(Sweep(folder, lines, ONE), cluster, Path("/my code/run.py"), tmp_path, "unused")
    flags = ["--kill-on-bad-exit=1", "--cpus-per-task=3", "apptainer", "exec", "--nv", "python3", "/my code/run.py"]
    for task, line in enumerate(lines):
        code, words, err = executed(tmp_path, script, task)
        assert (code, words, err) == (5, [*flags, *line, "MASTER_ADDR=n4"], "")  # srun's exit code is the script's
    assert lines[0] != lines[1] and not (tmp_path / "x").exists()
    code, words, err = executed(tmp_path, script, 2)
    assert (code, words) == (2, []) and "the manifest has no line for task 2" in err


def test_a_setup_line_that_fails_ends_the_task(tmp_path):
    (tmp_path / MANIFEST).write_text("seed=0\n")
    sweep = Sweep(tmp_path, [["seed=0"]], ONE)
    for line, wanted in (("true", 5), ("false", 1)):
        cluster = read_cluster(FOLDERS, "slurm") | {"setup": [line]}
        assert executed(tmp_path, render(sweep, cluster, Path("run.py"), tmp_path, "python"), 0)[0] == wanted


def test_hydra_reads_a_line_as_it_was_meant(tmp_path):
    """The whole way: command line, manifest, bash, Hydra's parser."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    word = HOSTILE[0].replace("${w}", "")
    sweep = expand(CONF, ["+exp=fcd_mask_a", word, f"hydra.sweep.dir='{tmp_path}/a b'"])
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / MANIFEST).write_text(manifest_text(sweep.lines))
    script = render(sweep, read_cluster(FOLDERS, "local"), Path("run.py"), tmp_path, "python")
    words = executed(tmp_path, script, 0)[1]
    values = {w.key_or_group: w.value() for w in OverridesParser.create().parse_overrides(words[4:-1])}
    assert values["paper"] == OverridesParser.create().parse_override(word).value()
    assert values["paper"].startswith('it\'s 100% a, "b"')
    assert values["run_dir"] == f"{tmp_path}/a b/0_fcd_mask_a_canny_seed0" and values["hydra.mode"] == "RUN"
