"""A folder belongs to one process at a time: who is refused, what a dead owner leaves, what two of one name get."""

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.rank_zero import _get_rank
from omegaconf import OmegaConf
from small_runs import command, files, line, log
from tiny import ROOT

from callbacks.sweep_folder import SweepFolder
from unigen.config.values import ConfigError
from unigen.launch import claims
from unigen.launch.claims import OWNER, InUse, claimed, claimed_new, first_rank
from unigen.launch.run_folder import run_folder

HOLD = (
    "import sys; from pathlib import Path; from unigen.launch.claims import claimed\n"
    "with claimed(Path(sys.argv[1]), 'go elsewhere'): print('held', flush=True); sys.stdin.read()"
)


@contextmanager
def holder(folder, **environment):
    """Another process that holds the folder; killed with -9 at the end."""
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert other.stdout.readline() == b"held\n"
        yield other
    finally:
        other.kill()
        other.communicate()


def test_a_living_owner_is_named_and_a_dead_one_holds_nothing(tmp_path):
    folder = tmp_path / "run"
    with holder(folder) as other:
        with pytest.raises(InUse) as refused, claimed(folder, "use run_dir=<another folder>"):
            pass
        assert re.fullmatch(
            rf"{folder} is in use by process {other.pid} on {socket.gethostname()} since [-\d]+ [:\d]+; "
            "wait until it ends, or use run_dir=<another folder>",
            str(refused.value),
        )
        with claimed(tmp_path / "elsewhere", ""):
            pass
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        assert (folder / OWNER).is_file(), "it could not clean up"
        with claimed(folder, ""):
            assert json.loads((tmp_path / "run" / OWNER).read_text())["process"] == os.getpid()
    assert not (folder / OWNER).exists()


def test_threads_are_kept_apart_too_and_a_block_that_fails_gives_the_folder_back(tmp_path):
    said = []

    def second():
        try:
            with claimed(tmp_path, "x"):
                said.append("both")
        except InUse as error:
            said.append(str(error))

    with pytest.raises(ZeroDivisionError), claimed(tmp_path, "x"):
        other = threading.Thread(target=second)
        other.start()
        other.join()
        raise ZeroDivisionError
    assert said == [f"{tmp_path} is in use by this process; x"]
    second()
    assert said[1:] == ["both"], "negative control"


def test_a_fork_does_not_inherit_the_claim(tmp_path):
    """A worker that outlives a killed run for some seconds does not keep its folder."""
    with claimed(tmp_path, "x"):
        if not (child := os.fork()):
            try:
                with claimed(tmp_path, "x"):
                    os._exit(1)
            except InUse:
                os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        with pytest.raises(InUse), claimed(tmp_path, "x"):
            pass


def test_a_generated_name_in_use_or_used_gets_a_suffix(tmp_path):
    wanted, used = tmp_path / "12-00-00_a", tmp_path / "12-00-00_a_2"
    used.mkdir()
    (used / "config.yaml").touch()
    with holder(wanted), claimed_new(wanted) as own:
        assert own == tmp_path / "12-00-00_a_3" and own.is_dir()
    with claimed_new(wanted) as own:
        assert own == wanted, "its owner is dead and wrote nothing"


def test_what_fails_inside_a_new_folder_is_not_taken_for_a_folder_in_use(tmp_path):
    with pytest.raises(InUse, match="inner"), claimed_new(tmp_path / "a"):
        raise InUse("inner")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_requeued_job_waits_for_its_former_self(tmp_path, monkeypatch):
    with holder(tmp_path, SLURM_JOB_ID="12") as other:
        monkeypatch.setenv("SLURM_JOB_ID", "13")
        with pytest.raises(InUse, match=r"\(SLURM job 12\)"), claimed(tmp_path, "x"):
            pass
        monkeypatch.setenv("SLURM_JOB_ID", "12")
        end = threading.Timer(0.5, other.kill)
        end.start()
        with claimed(tmp_path, "x"):
            assert other.wait(5) == -signal.SIGKILL
        end.join()
    with holder(tmp_path, SLURM_JOB_ID="12"), monkeypatch.context() as patch:
        patch.setattr(claims, "PATIENCE", 0.3)
        with pytest.raises(InUse), claimed(tmp_path, "x"):
            pass


@pytest.fixture
def lockless(monkeypatch):
    """A file system that cannot lock, as Lustre is where it is mounted without flock."""

    def refuse(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "lockf", refuse)


def test_without_locks_the_file_is_the_claim(tmp_path, lockless):
    with holder(tmp_path) as other:
        with pytest.raises(InUse, match=f"process {other.pid}"), claimed(tmp_path, "x"):
            pass
        other.kill()
        other.wait()
        with claimed(tmp_path, "x"):
            assert json.loads((tmp_path / OWNER).read_text())["process"] == os.getpid()
    number_used_again = {"host": socket.gethostname(), "process": os.getpid(), "born": "1", "began": "then"}
    (tmp_path / OWNER).write_text(json.dumps(number_used_again))
    with claimed(tmp_path, "x"):
        pass
    (tmp_path / OWNER).write_text(json.dumps(number_used_again | {"host": "elsewhere"}))
    with pytest.raises(ConfigError, match=rf"on elsewhere since then.*no locks.*rm {tmp_path / OWNER}"):
        claimed(tmp_path, "x").__enter__()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/run cannot be written \(Not a directory\); use another") as error:
        claimed(tmp_path / "file" / "run", "use another").__enter__()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "environment", [{}, {"RANK": "0"}, {"LOCAL_RANK": "1"}, {"SLURM_PROCID": "3", "LOCAL_RANK": "0"}, {"RANK": "2"}]
)
def test_the_first_rank_is_lightnings(environment, monkeypatch):
    for key in claims.RANKS:
        monkeypatch.delenv(key, raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert first_rank() == ((_get_rank() or 0) == 0)


# --- runs ------------------------------------------------------------------------------------------------------


def test_a_run_whose_folder_is_in_use_is_refused_before_anything_is_written(tmp_path, capsys):
    run_dir = tmp_path / "run"
    with holder(run_dir) as other:
        part = run_dir / ".last.ckpt.1.part"
        part.write_text("of the living writer")
        before = files(run_dir)
        assert command("run.py", *line("logger=[jsonl]", f"run_dir={run_dir}")) == 1
        assert f"error: {run_dir} is in use by process {other.pid}" in capsys.readouterr().err
        assert files(run_dir) == before


def test_a_generated_folder_is_new_and_a_named_one_is_gone_on_with(tmp_path, monkeypatch):
    """The generated name is one for both here, as for two runs of the same second."""
    folder = tmp_path / "12-00-00_a"
    words, named = line("logger=[jsonl]", "metric=[rmse]"), f"run_dir={folder}"
    for _ in range(2):
        assert command("run.py", *words, named) == 0
    assert len(log(folder)) == 3 and not (folder / OWNER).exists()
    config = OmegaConf.create({"dry_run": False, "run_dir": "?", "trainer": {"max_steps": 2}})
    hydra = {"mode": RunMode.RUN, "runtime": {"output_dir": str(folder)}, "run": {}}
    hydra |= {"overrides": {"task": [], "hydra": []}}
    monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": hydra}))
    with run_folder(config) as (found, own):
        assert own == tmp_path / "12-00-00_a_2" and found["run_dir"] == str(own)
        assert HydraConfig.instance().cfg.hydra.run.dir == str(own), "what Lightning tells the other ranks"
    assert len(log(folder)) == 3


@pytest.mark.parametrize("named", [True, False])
def test_two_sweeps_do_not_share_a_folder(named, tmp_path):
    """What Hydra makes of its jobs follows from the overrides, so the name with a suffix stands there."""
    folder = tmp_path / "sweep"
    words = [f"hydra.sweep.dir={folder}"] if named else []
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}, "overrides": {"hydra": words}}})
    with holder(folder) as other:
        sweep = SweepFolder()
        if named:
            with pytest.raises(
                SystemExit, match=f"error: {folder} is in use by process {other.pid} .*hydra.sweep.dir="
            ):
                sweep.on_multirun_start(config)
            return
        sweep.on_multirun_start(config)
        assert config.hydra.sweep.dir == f"{folder}_2"
        assert config.hydra.overrides.hydra == [f"hydra.sweep.dir='{folder}_2'"]
        sweep.on_multirun_end(config)
        assert not (tmp_path / "sweep_2" / OWNER).exists()


def test_a_run_is_not_written_into_its_own_data(tmp_path, capsys):
    """Its samples would be images of the data when it goes on."""
    words = ["data=own_folder", "task=canny", f"data.train.root={tmp_path}/./", "logger=[jsonl]"]
    assert command("run.py", *words, f"run_dir={tmp_path}") == 1
    assert f"{tmp_path} is the folder of data.train.root too" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_run_folder_that_is_a_file_names_the_key(kind, tmp_path, capsys):
    path = tmp_path / "run"
    path.touch() if kind == "file" else path.symlink_to(tmp_path / "nowhere")
    assert command("run.py", *line(f"run_dir={path}")) == 1
    assert capsys.readouterr().err.endswith(f"File exists: {path}; use run_dir=<another folder>\n")
