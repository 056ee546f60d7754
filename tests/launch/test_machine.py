"""What a machine lacks is said before torch is imported; what it may have is not refused."""

import pytest

from unigen.config.values import ConfigError
from unigen.launch import machine
from unigen.launch.machine import able, no_gpu


def config(accelerator: str = "auto", strategy: str = "callbacks.strategies.single") -> dict:
    return {"trainer": {"accelerator": accelerator}, "strategy": {"_target_": strategy}}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty machine with Linux."""
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


@pytest.mark.parametrize("node", ["dev/nvidia0", "dev/nvidiactl", "dev/dxg", "dev/kfd", "dev/nvmap"])
def test_any_driver_counts(root, node):
    assert "no GPU" in no_gpu(mps=True, root=root)
    (root / node).parent.mkdir()
    (root / node).touch()
    assert no_gpu(mps=True, root=root) is None


@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles"])
def test_devices_may_be_hidden(root, monkeypatch, hidden):
    (root / "dev").mkdir()
    (root / "dev" / "nvidia0").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert "CUDA_VISIBLE_DEVICES" in no_gpu(mps=True, root=root)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert no_gpu(mps=True, root=root) is None


def test_a_mac_has_one_gpu_but_no_cuda(monkeypatch):
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    able(config("gpu"))
    able(config("mps"))
    with pytest.raises(ConfigError, match="Mac"):
        able(config("cuda"))


def test_where_only_torch_can_tell_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(machine.sys, "platform", "win32")
    able(config("cuda"))


@pytest.mark.parametrize(
    ("said", "culprit"),
    [
        (config("gpu"), "trainer.accelerator is gpu, but no GPU is here"),
        (config("mps"), "trainer.accelerator is mps, which is Apple's alone"),
        (config(strategy=machine.ZERO), r"strategy=deepspeed_\* (needs DeepSpeed|divides a run among GPUs)"),
    ],
)
def test_what_is_not_here_is_one_sentence(root, monkeypatch, said, culprit):
    monkeypatch.setattr(machine, "no_gpu", lambda mps: no_gpu(mps, root))
    able(config())
    with pytest.raises(ConfigError, match=culprit) as caught:
        able(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_more_processes_than_cores_are_refused_before_they_take_the_memory(accelerator, monkeypatch):
    monkeypatch.setattr(machine, "no_gpu", lambda mps: "there is none")
    cores = machine.cores_here()
    config = {"trainer": {"accelerator": accelerator, "devices": cores}, "strategy": {}}
    machine.able(config)
    config["trainer"]["devices"] = cores + 1
    with pytest.raises(ConfigError, match=f"trainer.devices is {cores + 1}, but this machine has {cores} cores"):
        machine.able(config)
    if accelerator == "auto":
        monkeypatch.setattr(machine, "no_gpu", lambda mps: None)
        machine.able(config)
