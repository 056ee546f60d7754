"""The W&B logger: offline unless the user is logged in, one id for a run, and no failure that ends a training."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from small_runs import small, summary, train
from wandb_server import serving

from callbacks import wandb_run
from unigen.launch.preemption import NOTICE

KEY = "0" * 40
NOBODY = "http://127.0.0.1:9"  # discard: nothing listens


class Given(dict):
    """In place of the logger: what it was made with."""

    latest = None


@pytest.fixture
def settled(tmp_path, monkeypatch):
    """No account, a home of its own, little patience; W&B is shut down afterwards."""
    import wandb

    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr(wandb_run, "PATIENCE", {"init_timeout": 2, "finish_timeout": 2})
    wandb.teardown()
    yield monkeypatch
    if wandb_run.OptionalWandb.latest is not None:
        wandb_run.OptionalWandb.latest.close()
    wandb.teardown()
    os.environ.pop("WANDB_SERVICE", None)


@pytest.fixture
def online(settled):
    """As a user who is logged in at a server: `online(url)`."""

    def point(url: str) -> None:
        settled.setenv("WANDB_API_KEY", KEY)
        settled.setenv("WANDB_BASE_URL", url)

    return point


def logged(folder: Path, values: dict | None = None) -> "wandb_run.OptionalWandb":
    """A logger that has logged as a training does."""
    logger = wandb_run.wandb_run("unigen", "a", "a", str(folder))
    logger.log_hyperparams({"seed": 0})
    logger.log_metrics(values or {"train/loss": 0.5}, 1)
    logger.log_image("samples", [Image.new("RGB", (4, 4))], step=1)
    logger.finalize("success")
    return logger


def warnings(capsys) -> tuple[str, list[str]]:
    """How to upload it, and the warnings."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    lines = said.splitlines(keepends=True)
    uploads = "".join(text for text in lines if text.startswith("to upload"))
    return uploads, [text for text in lines if text.startswith("warning: ")]


def only(lines: list[str]) -> str:
    (line,) = lines
    return line


def state(pid: int) -> str:
    stat = Path(f"/proc/{pid}/stat")
    return stat.read_text() if stat.exists() else ""


def end_service(number: int) -> None:
    """W&B's own process gets the signal, and is dead."""
    children = {int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}
    (pid,) = [pid for pid in children if state(pid).startswith(f"{pid} (wandb-core)") and ") Z" not in state(pid)]
    os.kill(pid, number)
    while state(pid) and ") Z" not in state(pid):
        time.sleep(0.01)
    time.sleep(0.1)  # until its end of the socket is closed


@pytest.mark.parametrize(
    ("env", "netrc", "mode"),
    [
        ({}, None, "offline"),
        ({}, "machine api.example.com login user password x", "offline"),
        ({}, "machine api.wandb.ai login user password x", None),
        ({"WANDB_BASE_URL": "https://ml.example.com/"}, "machine ml.example.com login user password x", None),
        ({"WANDB_API_KEY": "x"}, None, None),
        ({"WANDB_API_KEY": "x", "WANDB_MODE": "offline"}, None, None),  # W&B reads it
        ({"WANDB_MODE": "online"}, None, None),
        ({"WANDB_API_KEY": "x", "WANDB_MODE": "disabled"}, None, "disabled"),
        ({"WANDB_API_KEY": "x", "WANDB_DISABLED": "true"}, None, "disabled"),
    ],
)
def test_wandb_is_offline_unless_the_user_is_logged_in(env, netrc, mode, tmp_path, settled):
    settled.setenv("NETRC", str(tmp_path / "netrc"))
    for name, value in env.items():
        settled.setenv(name, value)
    if netrc:
        (tmp_path / "netrc").write_text(netrc)
    settled.setattr(wandb_run, "OptionalWandb", Given)
    given = wandb_run.wandb_run("unigen", "a_seed0", "a", str(tmp_path / "run"))
    assert given["mode"] == mode and (given["name"], given["group"]) == ("a_seed0", "a")
    assert (tmp_path / "run").is_dir() == (mode != "disabled")


@pytest.mark.parametrize("netrc", ["folder", "below_a_file"])
def test_a_netrc_that_cannot_be_read_counts_as_none(netrc, tmp_path, settled):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    settled.setenv("NETRC", str({"folder": tmp_path / "folder", "below_a_file": tmp_path / "file" / "x"}[netrc]))
    assert wandb_run._mode() == "offline"


def test_a_run_keeps_its_id_at_wandb_and_shares_it_with_no_other(tmp_path, settled):
    settled.setattr(wandb_run, "OptionalWandb", Given)
    ids = [wandb_run.wandb_run("unigen", "a", "a", str(tmp_path / folder))["id"] for folder in ("1", "1", "2")]
    assert ids[0] == ids[1] != ids[2] and ids[0]
    (tmp_path / "1" / "wandb" / "run_id").write_bytes(b"\xff/..\n")
    assert wandb_run.wandb_run("unigen", "a", "a", str(tmp_path / "1"))["id"].isalnum()


def test_a_run_of_wandb_ends_before_the_next_begins(tmp_path, settled):
    ended = []
    settled.setattr("wandb.run", SimpleNamespace(finish=lambda: ended.append(1)))
    wandb_run.wandb_run("unigen", "b", "b", str(tmp_path))
    assert ended == [1]


def test_a_run_online_is_sent_whole_and_says_nothing(tmp_path, online, capsys):
    with serving() as server:
        online(server.url)
        logged(tmp_path).close()
    out, warned = warnings(capsys)
    assert (out, warned) == ("", [])
    assert "train/loss" in server.received
    assert list(tmp_path.glob("wandb/run-*")) and not list(tmp_path.glob("wandb/offline-run-*"))


OTHER_FAULTS = [pytest.param(name, marks=pytest.mark.slow) for name in ("no such host", "a wrong key", "not a key")]


@pytest.mark.parametrize("fault", ["nobody listens", "hangs", *OTHER_FAULTS])
def test_without_a_server_a_run_logs_offline_after_one_warning(fault, tmp_path, online, settled, capsys):
    mode = {"a wrong key": 401, "hangs": "hangs"}.get(fault, "works")
    began = time.monotonic()
    with serving(mode) as server:
        online({"nobody listens": NOBODY, "no such host": "http://nobody.invalid"}.get(fault, server.url))
        if fault == "not a key":
            settled.setenv("WANDB_API_KEY", "x")
        logged(tmp_path).close()
    assert time.monotonic() - began < 25
    out, warned = warnings(capsys)
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert len(warned) == 1 and "no connection to W&B" in warned[0] and "offline" in warned[0]
    assert out == f"to upload it to W&B: wandb sync {os.path.relpath(folder)}\n"
    written = next(folder.glob("*.wandb")).read_bytes()
    assert b"train/loss" in written and list(folder.glob("files/media/images/*.png"))


@pytest.mark.slow
def test_a_whole_training_ends_well_without_a_server(tmp_path, online, capsys):
    online(NOBODY)
    config = small(tmp_path / "run", "logger=[jsonl,wandb]")
    train(config)
    wandb_run.OptionalWandb.latest.close()
    out, warned = warnings(capsys)
    assert summary(tmp_path / "run")["steps"] == 2
    assert len(warned) == 1 and out.splitlines()[-1].startswith("to upload it to W&B: wandb sync ")


def test_offline_by_wish_tells_how_to_upload_every_part_of_a_run_that_went_on(tmp_path, settled, capsys):
    settled.setenv("WANDB_MODE", "offline")
    logged(tmp_path).close()
    (first,) = tmp_path.glob("wandb/offline-run-*")
    earlier = first.rename(first.with_name(first.name.replace("-run-", "-run-0")))  # of another second
    logged(tmp_path).close()
    lines = warnings(capsys)[0].splitlines()
    assert len(lines) == 2 and lines[1].count("offline-run-") == 2 and earlier.name in lines[1]
    next(earlier.glob("*.wandb")).with_suffix(".wandb.synced").touch()
    logged(tmp_path).close()
    assert earlier.name not in warnings(capsys)[0]


@pytest.mark.parametrize("env", [{}, {"WANDB_MODE": "disabled"}, {"WANDB_DISABLED": "true", "WANDB_API_KEY": KEY}])
def test_who_did_not_ask_for_wandb_is_told_nothing(env, tmp_path, settled, capsys):
    for name, value in env.items():
        settled.setenv(name, value)
    logged(tmp_path).close()
    assert warnings(capsys) == ("", [])
    assert bool(list(tmp_path.glob("wandb/offline-run-*"))) == (not env)


def test_a_service_that_dies_is_replaced_by_one_offline(tmp_path, online, capsys):
    with serving() as server:
        online(server.url)
        logger = logged(tmp_path)
        end_service(signal.SIGKILL)
        logger.log_metrics({"train/later": 0.25}, 2)
        logger.log_metrics({"train/last": 0.125}, 3)
        logger.close()
    out, warned = warnings(capsys)
    (offline,) = tmp_path.glob("wandb/offline-run-*")
    (before,) = tmp_path.glob("wandb/run-*-*")
    assert len(warned) == 1 and "offline" in warned[0]
    assert before.name in out and offline.name in out
    written = next(offline.glob("*.wandb")).read_bytes()
    assert b"train/later" in written and b"train/last" in written


def test_an_offline_service_that_dies_is_left_out(tmp_path, settled, capsys):
    logger = logged(tmp_path)
    end_service(signal.SIGKILL)
    for step in (2, 3):
        logger.log_metrics({"train/loss": 0.25}, step)
    logger.close()
    assert wandb_run.LEFT_OUT in only(warnings(capsys)[1])


def test_a_service_that_slurm_ends_with_the_job_is_no_fault(tmp_path, settled, capsys):
    settled.setattr(NOTICE, "given", True)
    logger = logged(tmp_path)
    end_service(signal.SIGTERM)
    logger.log_metrics({"train/loss": 0.25}, 2)
    logger.close()
    assert warnings(capsys) == ("", [])


def test_a_network_that_goes_away_holds_the_end_up_for_a_moment_only(tmp_path, online, capsys):
    with serving() as server:
        online(server.url)
        logger = logged(tmp_path)
        server.mode = "hangs"
        logger.log_metrics({"train/later": 0.25}, 2)
        began = time.monotonic()
        logger.close()
    assert time.monotonic() - began < 20
    out, warned = warnings(capsys)
    (folder,) = tmp_path.glob("wandb/run-*-*")
    assert len(warned) == 1 and out == f"to upload it to W&B: wandb sync {os.path.relpath(folder)}\n"


def test_what_wandb_does_not_take_is_said_once(tmp_path, settled, capsys):
    logger = logged(tmp_path)
    settled.setattr(logger.experiment, "log", lambda *args: 1 / 0)
    for step in (2, 3):
        logger.log_metrics({"train/loss": 0.25}, step)
    assert len(warnings(capsys)[1]) == 1


def test_a_home_that_cannot_be_written_costs_no_word(tmp_path, settled, capfd):
    (tmp_path / "file").touch()
    settled.setenv("HOME", str(tmp_path / "file" / "home"))
    settled.setenv("WANDB_CACHE_DIR", "later")  # so that it is put back
    settled.delenv("WANDB_CACHE_DIR")
    logged(tmp_path).close()
    wandb_run._end_what_runs(service=True)
    assert capfd.readouterr().err == "" and list(tmp_path.glob("wandb/offline-run-*"))


@pytest.mark.parametrize("fault", ["not installed", "of another age", "folder", "no such mode"])
def test_wandb_that_cannot_be_had_is_left_out(fault, tmp_path, settled, capsys):
    if fault == "not installed":
        settled.setitem(sys.modules, "wandb", None)
    elif fault == "of another age":
        settled.setattr(wandb_run, "PATIENCE", {"no_such_setting": 1})
    elif fault == "folder":
        (tmp_path / "wandb").write_text("not a folder")
    else:
        settled.setenv("WANDB_MODE", "banana")
    logger = logged(tmp_path)
    getattr(logger, "close", print)()
    out, warned = warnings(capsys)
    assert out == "" and len(warned) == 1 and wandb_run.LEFT_OUT in warned[0]


# what a run tells about itself ----------------------------------------------------------------------------------------


def logged_steps(folder: Path, steps: range) -> None:
    """A start of a run that logs these steps, and ends."""
    logger = wandb_run.wandb_run("unigen", "a", "a", str(folder))
    for step in steps:
        logger.log_metrics({"train/loss": step / 10}, step)
        logger.log_metrics({"val/loss": step / 5}, step)
    logger.finalize("success")
    logger.close()


def uploaded(folder: Path, url: str) -> None:
    """`wandb sync` of all parts of a run, as its line on stderr says."""
    program = Path(sys.executable).parent / "wandb"
    parts = sorted(map(str, folder.glob("wandb/offline-run-*")))
    environment = os.environ | {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": url}
    subprocess.run([program, "sync", *parts], env=environment, capture_output=True, timeout=120, check=True)


def test_a_resumed_offline_run_is_one_history_after_the_upload(tmp_path, settled):
    """As metrics.jsonl: no part overwrites another, and W&B's own step is that of the training in all parts."""
    settled.setenv("WANDB_MODE", "offline")
    for steps in (range(1, 4), range(4, 6)):
        logged_steps(tmp_path, steps)
        time.sleep(1.1)  # the folder's name holds the second of its start
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 2
    with serving() as server:
        uploaded(tmp_path, server.url)
    [rows] = server.history.values()
    assert [row["_step"] for row in rows] == [row["trainer/global_step"] for row in rows] == [1, 2, 3, 4, 5]
    assert [(row["train/loss"], row["val/loss"]) for row in rows] == [(s / 10, s / 5) for s in range(1, 6)]


def test_by_lightnings_own_logger_the_parts_count_their_steps_anew(tmp_path, settled):
    """Negative control."""
    settled.setenv("WANDB_MODE", "offline")
    settled.setattr(wandb_run.OptionalWandb, "_log", WandbLogger.log_metrics)
    for steps in (range(1, 3), range(3, 5)):
        logged_steps(tmp_path, steps)
        time.sleep(1.1)
    with serving() as server:
        uploaded(tmp_path, server.url)
    [rows] = server.history.values()
    assert sorted(row["_step"] for row in rows) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_run_that_is_measured_again_loses_nothing(tmp_path, settled):
    """Its step is one that W&B has already gone past."""
    logger = wandb_run.wandb_run("unigen", "a", "a", str(tmp_path))
    for step in (5, 6, 5):
        logger.log_metrics({"test/ssim": step / 10}, step)
    run = logger.experiment
    assert run.step == 7, "the third was logged under a step of its own"
    logger.close()


def test_a_failed_training_sends_an_alert_and_counts_as_failed(tmp_path, online):
    with serving() as server:
        online(server.url)
        logger = wandb_run.wandb_run("unigen", "arm_seed0", "a", str(tmp_path))
        logger.log_metrics({"train/loss": 0.5}, 1)
        try:
            raise ValueError("train/loss is not finite at step 2")
        except ValueError:
            logger.finalize("failed")
        logger.close()
        alerts = [said for name, said in server.asked if "Alert" in name]
    assert "arm_seed0 failed" in str(alerts) and "not finite at step 2" in str(alerts)
    assert '"exitcode":1' in server.received.replace(" ", "")


def test_a_training_that_ends_well_or_is_asked_to_stop_sends_none(tmp_path, online, settled):
    """Negative control."""
    with serving() as server:
        online(server.url)
        for folder, status in (("a", "success"), ("b", "failed")):
            settled.setattr(NOTICE, "given", folder == "b")
            logger = wandb_run.wandb_run("unigen", "arm", "a", str(tmp_path / folder))
            logger.log_metrics({"train/loss": 0.5}, 1)
            logger.finalize(status)
            logger.close()
    assert not any("Alert" in name for name, _ in server.asked)
    assert '"exitcode":0' in server.received.replace(" ", "") and '"exitcode":1' not in server.received.replace(" ", "")


def test_samples_are_a_table_with_images(tmp_path, settled):
    settled.setenv("WANDB_MODE", "offline")
    logger = wandb_run.wandb_run("unigen", "a", "a", str(tmp_path))
    rows = [{"key": f"{i}", "task": "canny", "output": Image.new("RGB", (4, 4), (i, 0, 0))} for i in range(2)]
    logger.log_samples("items", rows, step=3)
    logger.close()
    [table] = tmp_path.glob("wandb/offline-run-*/files/media/table/items/*.table.json")
    said = json.loads(table.read_text())
    assert said["columns"] == ["key", "task", "output"] and [row[:2] for row in said["data"]] == [
        *(["0", "canny"], ["1", "canny"])
    ]
    waiting = [path.read_bytes() for path in tmp_path.glob("wandb/data/artifacts/staging/*")]
    assert sum(each.startswith(b"\x89PNG") for each in waiting) == 2, "in the run's folder, not in the home"


def test_the_runs_of_a_sweep_share_a_tag(tmp_path, settled):
    settled.setattr(wandb_run, "OptionalWandb", Given)
    (tmp_path / "masks" / "0").mkdir(parents=True)
    folder = str(tmp_path / "masks" / "0")
    alone = wandb_run.wandb_run("unigen", "a", "a", folder, tags=["canny"])
    (tmp_path / "masks" / "multirun.yaml").touch()
    swept = wandb_run.wandb_run("unigen", "a", "a", folder, tags=["canny"], table="t4")
    assert (
        alone["tags"] == ["canny"] and swept["tags"] == ["canny", "t4", "sweep masks"] and swept["job_type"] == "train"
    )
