"""Two gloo processes under every strategy: the same run as on one device, saved in shards, resumed, put together."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import LORA, command, kept_images, log, small, train
from tiny import ROOT, composed

from unigen.config.values import ConfigError, read_config
from unigen.nn import shards
from unigen.pipeline.build import build, build_learner
from unigen.training import consolidation

HERE = Path(__file__).parent
needs_deepspeed = pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="DeepSpeed is not installed")
ZERO = "strategy._target_=cpu.CPUZeRO"
RUNS = {
    "ddp": ("4", "strategy=ddp"),
    "zero2": ("2,4", "strategy=deepspeed_2", ZERO),
    "zero3": ("3,4", "strategy=deepspeed_3", ZERO, "backbone.gradient_checkpointing=true"),
    "fsdp2": ("3,4", "strategy=fsdp2", "backbone.gradient_checkpointing=true"),
}
ZEROS = [pytest.param(name, marks=[needs_deepspeed, pytest.mark.slow]) for name in ("zero2", "zero3")]  # it compiles
SHARDED = [*ZEROS, "fsdp2"]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "DS_ACCELERATOR": "cpu",
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # ninja, with which DeepSpeed compiles
}
COMMON = (
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "optimizer.warmup=0",
    "optimizer.cooldown=0",  # else a run of 2 steps has another rate than the first 2 of 4
    "validation.every=2",
    "callback.ema.decay=0.9",
    "data.batch_size=2",
    "trainer.accumulate_grad_batches=2",
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of a run of RUNS, made when it is first asked for."""
    made = {}

    def run(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            stops, *words = RUNS[name]
            launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", HERE / "worker.py"]
            done = subprocess.run(
                [sys.executable, *launch, made[name], stops, "trainer.devices=2", kept_images(), *COMMON, *words],
                env=os.environ | ENVIRONMENT,
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=400,
            )
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
        return made[name]

    return run


def weights(run: Path, folder: str = "export") -> dict[str, torch.Tensor]:
    found = [load_file(run / folder / f"{name}.safetensors") for name in ("pytorch_lora_weights", "unigen_modules")]
    return found[0] | found[1]


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert set(a) == set(b)
    return max((a[name] - b[name]).abs().max().item() for name in a)


def losses(run: Path) -> dict[int, float]:
    return {line["step"]: line["val/loss"] for line in log(run) if "val/loss" in line}


def alone(folder: Path, *words: str) -> Path:
    train(small(folder, *LORA, *COMMON, "trainer.max_steps=4", *words))
    return folder


@pytest.mark.slow
def test_two_devices_under_ddp_are_one_that_accumulates(ran, tmp_path):
    """The same images and the same noise in each update, so the same weights; a batch of 4 draws other noise."""
    ddp, one = ran("ddp"), alone(tmp_path / "one", "trainer.accumulate_grad_batches=4")
    assert distance(weights(ddp), weights(one)) < 1e-5
    assert losses(ddp).keys() == losses(one).keys() == {2, 4}
    assert all(losses(ddp)[k] == pytest.approx(losses(one)[k], abs=1e-5) for k in losses(ddp))
    other = alone(tmp_path / "other", "data.batch_size=4")  # negative control: as many samples an update
    assert distance(weights(ddp), weights(other)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARDED)
def test_every_strategy_trains_the_same_weights_also_after_a_stop(ran, name):
    """Resumed once, at a step (3) where the validation after the end comes on top in the runs that divide weights."""
    run, ddp = ran(name), ran("ddp")
    assert distance(weights(run), weights(ddp)) < 1e-5
    assert all(losses(run)[k] == pytest.approx(losses(ddp)[k], abs=1e-5) for k in losses(ddp))
    assert (run / "samples" / "step_000004.png").read_bytes() == (ddp / "samples" / "step_000004.png").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", *SHARDED])
def test_a_checkpoint_holds_what_is_trained_alone(ran, name):
    run = ran(name)
    trained = dict(shards.trained(build_learner(read_config(run))))
    state, found = consolidation.read(run / "checkpoints" / "last.ckpt")
    names = {n for n in found if n in trained}
    assert names == set(trained) and all(found[n].shape == trained[n].shape for n in names)
    assert set(found) - names <= {"parts.text.model.encoder.embed_tokens.weight"}, "a second name of a shared one"
    assert state["callbacks"]["EMA"]["average"].keys() == trained.keys() and state["global_step"] == 4
    assert not [n for n in found if "base_layer" in n]
    assert any("base_layer" in n for n, _ in build_learner(read_config(run)).named_parameters())  # what is left out


@pytest.mark.parametrize("name", ZEROS)
def test_deepspeeds_own_files_hold_no_frozen_weights(ran, name):
    folder = ran(name) / "checkpoints" / "last.ckpt" / consolidation.TAG
    for file in folder.glob("*model_states.pt"):
        state = torch.load(file, map_location="cpu", weights_only=False)
        assert not [n for n in state["module"] if "base_layer" in n] and not state["frozen_param_shapes"]
        assert [n for shapes in state["param_shapes"] for n in shapes if "lora_A" in n]
    assert len(list(folder.glob("*optim_states.pt"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", *SHARDED])
def test_the_command_exports_a_checkpoint_as_the_end_of_the_run_did(ran, name, tmp_path, capsys):
    run = ran(name)
    assert command("export.py", f"run={run}", f"out={tmp_path / 'made'}") == 0
    assert f"export: {tmp_path / 'made'}" in capsys.readouterr().out
    assert distance(weights(tmp_path, "made"), weights(run)) < 1e-6
    assert (tmp_path / "made" / "unigen.json").read_text() == (run / "export" / "unigen.json").read_text()
    assert command("export.py", f"run={run}") == 1
    assert "export holds something already; give another folder: out=<folder>" in capsys.readouterr().err
    assert command("export.py", f"run={run}", "checkpoint=best", f"out={tmp_path / 'best'}") == 1
    assert "best.ckpt is not there; the checkpoints of this run: last" in capsys.readouterr().err


def test_a_checkpoint_of_another_configuration_is_refused(ran):
    config = read_config(ran("ddp"))
    config["conditioning"]["modulation"]["branches"] |= dict.fromkeys(
        ("condition", "example", "buffer"), "target"
    )  # one fewer
    with pytest.raises(
        ConfigError, match=r"last\.ckpt does not fit its configuration: \d+ weights differ, e\.g\. parts"
    ):
        consolidation.restored(config, ran("ddp") / "checkpoints" / "last.ckpt")
    config = read_config(ran("ddp"))
    config["conditioning"]["adapter"]["rank"] = 2
    with pytest.raises(ConfigError, match=r"weights differ, e\.g\. parts.*lora_A"):
        consolidation.restored(config, ran("ddp") / "checkpoints" / "last.ckpt")


def test_averages_stand_for_the_weights(ran):
    """What is read is the EMA, which the last weights are not."""
    path = ran("ddp") / "checkpoints" / "last.ckpt"
    stored = torch.load(path, weights_only=True)
    assert distance(consolidation.read(path)[1], stored["callbacks"]["EMA"]["average"]) == 0
    assert distance(stored["state_dict"], stored["callbacks"]["EMA"]["average"]) > 1e-4


# --- without processes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [p.stem for p in sorted((ROOT / "experiments/conf/strategy").glob("*.yaml"))])
def test_every_strategy_builds(name):
    if name.startswith("deepspeed") and not importlib.util.find_spec("deepspeed"):
        pytest.skip("DeepSpeed is not installed")
    node = composed(f"strategy={name}")["strategy"]
    made = build(node)
    if name == "single":
        assert made == "auto"
    if name.startswith("deepspeed"):
        zero = made.config["zero_optimization"]
        assert zero["stage"] == int(name[10]) and ("offload_optimizer" in zero) == name.endswith("offload")
        assert ("offload_param" in zero) == (name == "deepspeed_3_offload") and made.exclude_frozen_parameters
        assert made.divides_weights == (zero["stage"] == 3)


def test_the_default_is_a_single_device():
    assert composed()["strategy"] == composed("strategy=single")["strategy"] != composed("strategy=ddp")["strategy"]


@needs_deepspeed
def test_mixed_precision_under_deepspeed_is_autocast_on_fp32_weights_and_whole_batches():
    from lightning.pytorch.plugins.precision import DeepSpeedPrecision

    strategy = build(composed("strategy=deepspeed_2")["strategy"])
    strategy.precision_plugin = DeepSpeedPrecision("bf16-mixed")
    assert strategy.config["bf16"] == {"enabled": False}
    many = torch.tensor([1023.0])
    assert strategy.precision_plugin.convert_input(many).item() == 1023
    assert DeepSpeedPrecision("bf16-mixed").convert_input(many).item() == 1024  # negative control: Lightning's own
    linear = torch.nn.Linear(2, 2)
    with strategy.precision_plugin.forward_context():
        made = (
            linear.cpu()(torch.ones(1, 2)) if not torch.cuda.is_available() else linear.cuda()(torch.ones(1, 2).cuda())
        )
    assert made.dtype == torch.bfloat16 and linear.weight.dtype == torch.float32
    with pytest.raises(
        ConfigError, match=r"trainer\.precision=16-mixed does not go with DeepSpeed here; legal are 32-true"
    ):
        strategy.precision_plugin = DeepSpeedPrecision("16-mixed")


@needs_deepspeed
@pytest.mark.parametrize("words", [("strategy.stage=4",), ("strategy.offload_parameters=true",)])
def test_a_stage_that_there_is_not_is_refused(words):
    with pytest.raises(ConfigError, match="legal are 1, 2, 3, and only 3 has parameters to offload"):
        build(composed("strategy=deepspeed_2", *words)["strategy"])
