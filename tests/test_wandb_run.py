"""The W&B logger: offline unless the user is logged in, one id for a run."""

from types import SimpleNamespace

import pytest

from callbacks import wandb_run


@pytest.mark.parametrize(
    ("env", "netrc", "offline"),
    [
        ({}, None, True),
        ({}, "machine api.example.com login user password x", True),
        ({}, "machine api.wandb.ai login user password x", False),
        ({"WANDB_API_KEY": "x"}, None, False),
        ({"WANDB_API_KEY": "x", "WANDB_MODE": "offline"}, None, True),
        ({"WANDB_MODE": "online"}, None, False),
    ],
)
def test_wandb_is_offline_unless_the_user_is_logged_in(env, netrc, offline, tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    if netrc:
        (tmp_path / "netrc").write_text(netrc)
    monkeypatch.setattr(wandb_run, "PreemptedLogger", lambda **given: given)
    given = wandb_run.wandb_run("unigen", "a_seed0", "a", str(tmp_path / "run"))
    assert given["offline"] is offline and (given["name"], given["group"]) == ("a_seed0", "a")
    assert (tmp_path / "run").is_dir()


def test_a_run_keeps_its_id_at_wandb_and_shares_it_with_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_run, "PreemptedLogger", lambda **given: given)
    ids = [wandb_run.wandb_run("unigen", "a", "a", str(tmp_path / folder))["id"] for folder in ("1", "1", "2")]
    assert ids[0] == ids[1] != ids[2] and ids[0]


def test_a_run_of_wandb_ends_before_the_next_begins(tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr("wandb.run", SimpleNamespace(finish=lambda: ended.append(1)))
    monkeypatch.setattr(wandb_run, "PreemptedLogger", lambda **given: given)
    wandb_run.wandb_run("unigen", "b", "b", str(tmp_path))
    assert ended == [1]
