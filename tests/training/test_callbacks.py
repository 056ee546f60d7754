"""The thin Lightning adapters, each against a computation by hand."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from small_runs import log, small, train
from tiny import batch, slots, tiny, tokens_for
from torch import nn

from callbacks import sample_grid, throughput
from callbacks.atomic_checkpoint import AtomicCheckpointIO
from callbacks.ema import EMA
from callbacks.jsonl_logger import JsonlLogger
from callbacks.sample_grid import SampleGrid
from callbacks.tensorboard import TensorBoard
from callbacks.throughput import Throughput
from unigen.config.values import ConfigError
from unigen.learners.denoising import Denoising
from unigen.pipeline.build import build_pipeline
from unigen.tools.bench.turns import flop_counter

# --- EMA -------------------------------------------------------------------------------------------------------


class One(L.LightningModule):
    """One trained number and one frozen one."""

    def __init__(self, value: float = 0.0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value], dtype=dtype))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)


def follow(ema: EMA, module: One, steps: dict[int, float]) -> None:
    """Let the weight take these values at these steps, after a start from the first one's predecessor."""
    trainer = SimpleNamespace(global_step=0)  # not restored yet
    ema.on_fit_start(trainer, module)
    trainer.global_step = min(steps) - 1
    ema.on_train_start(trainer, module)
    for trainer.global_step, value in steps.items():
        module.weight.data.fill_(value)
        ema.on_train_batch_end(trainer, module, None, None, 0)
        ema.on_train_batch_end(trainer, module, None, None, 0)  # gradients accumulate: no step, no average


def averaged(start: float, values: dict[int, float], decay: float) -> float:
    for step, value in values.items():
        d = min(decay, (1 + step) / (10 + step))
        start = d * start + (1 - d) * value
    return start


@pytest.mark.parametrize("decay", [0.999, 0.15])
def test_ema_is_the_average_by_hand_also_after_a_stop(decay):
    values = {1: 3.0, 2: -1.0, 3: 7.0, 4: 0.5}
    whole, ema = EMA(decay), EMA(decay)
    follow(whole, One(2.0), values)
    assert whole.average["weight"].item() == pytest.approx(averaged(2.0, values, decay), rel=1e-6)
    assert set(whole.average) == {"weight"}

    follow(ema, One(2.0), {1: 3.0, 2: -1.0})
    resumed = EMA(decay)
    resumed.load_state_dict(ema.state_dict())
    follow(resumed, One(-1.0), {3: 7.0, 4: 0.5})
    assert torch.equal(resumed.average["weight"], whole.average["weight"])


def test_a_decay_of_0_keeps_nothing_and_changes_nothing():
    module, ema = One(2.0), EMA(0.0)
    follow(ema, module, {1: 3.0, 2: 4.0})
    assert ema.average == {} == ema.state_dict()["average"]
    ema.load_state_dict({"average": {"weight": torch.tensor([9.0])}})  # of a run that kept some
    for swap in (ema.on_validation_start, ema.on_validation_end, ema.on_fit_end):
        swap(None, module)
        assert module.weight.item() == 4.0


def test_ema_is_in_place_for_validation_and_after_training_only():
    ema, module = EMA(0.9), One(2.0, torch.bfloat16)
    follow(ema, module, {1: 3.015625, 2: 4.0})
    live = module.weight.detach().clone()
    ema.on_validation_start(None, module)
    assert torch.equal(module.weight, ema.average["weight"].bfloat16()) and not torch.equal(module.weight, live)
    ema.on_validation_end(None, module)
    assert torch.equal(module.weight, live), "the live weights come back bit for bit"
    assert ema.average["weight"].dtype == torch.float32 and module.frozen == 1
    ema.on_fit_end(None, module)
    assert torch.equal(module.weight, ema.average["weight"].bfloat16())


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_ema_refuses_a_decay_that_averages_nothing(decay):
    with pytest.raises(ValueError, match=f"callback.ema.decay is {decay}"):
        EMA(decay)


# --- throughput ------------------------------------------------------------------------------------------------

# Tiny CogVideoX: width 32, 2 blocks, 4 text tokens of 32, 12 image tokens of 16 x 2 x 2 x 2; mask A.
LINEAR = 2 * (2 * 12 * 32 * 32 * 16 + 12 * 2 * 128 * 32 + 4 * 32 * 32)
ATTENTION = 2 * 4 * 32 * (16 * 16 - 2 * 4 * 6)
# LoRA of rank 4: in each block four linears on 16 tokens, and in each of its norms three branches once a sample
ADAPTERS = 2 * 2 * 4 * (4 * 16 * (32 + 32) + 2 * 3 * (32 + 3 * 32))


@pytest.mark.parametrize("mask", ["fcd_a", "fcd_d"])
def test_flops_are_what_torch_counts(mask):
    """Attention to the last FLOP; the linears but for what modulates, computed once a sample and not once a token."""
    pipeline = build_pipeline(tiny(f"mask={mask}", "backbone.lowering._target_=unigen.core.attention.grouped"))
    model, layout = pipeline.backbone.model, pipeline.plan(slots()).layout
    if mask == "fcd_a":
        assert pipeline.backbone.flops(layout, pipeline.mask) == {"linear": LINEAR, "attention": ATTENTION}
    with flop_counter() as counter, torch.no_grad():
        pipeline.backbone(
            tokens_for(layout, pipeline.backbone), pipeline.times(layout, torch.tensor([0.5])), pipeline.mask
        )
    counted = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    attention = sum(count for op, count in counted.items() if "attention" in op)
    branches = [b for x in model.transformer_blocks for norm in (x.norm1, x.norm2) for b in norm.branches.values()]
    per_sample = [*branches, model.time_embedding.linear_1, model.time_embedding.linear_2, model.norm_out.linear]
    modulation = sum(2 * linear.weight.numel() for linear in per_sample)
    assert pipeline.backbone.flops(layout, pipeline.mask) == {
        "linear": sum(counted.values()) - attention - modulation,
        "attention": attention,
    }


@pytest.mark.parametrize(("adapter", "linears", "adapters"), [("full", 3, 0), ("lora", 2, ADAPTERS)])
def test_throughput_counts_by_hand(adapter, linears, adapters, monkeypatch):
    clock = iter([0.0, 2.0, 3.0, 13.0, 17.0])  # start; end; validation begins; next batch starts, ends
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(clock))
    logged = []
    module = Denoising(tiny(f"conditioning/adapter={adapter}"))
    module.log_dict = logged.append
    trainer = SimpleNamespace(world_size=2, global_step=1, log_every_n_steps=2)
    speed = Throughput()
    for trainer.global_step in (1, 2):
        speed.on_train_batch_start(trainer, module, batch(3), 0)
        speed.on_train_batch_end(trainer, module, None, batch(3), 0)
        if trainer.global_step == 1:
            speed.on_validation_start(trainer, module)
    samples, seconds = 2 * 3 * 2, 2 + 1 + 4
    assert speed.rates() == pytest.approx(
        {
            "seconds": seconds,
            "samples_per_s": samples / seconds,
            "tokens_per_s": samples * 16 / seconds,
            "model_tflops": samples * (linears * LINEAR + 3 * ATTENTION + 3 * adapters) / 1e12 / seconds,
        }
    )
    assert logged == [{f"speed/{k}": v for k, v in speed.rates().items() if k != "seconds"}]
    resumed = Throughput()
    resumed.load_state_dict(speed.state_dict())
    assert resumed.rates() == speed.rates()
    known = Throughput(peak_tflops=2.0)
    known.load_state_dict(speed.state_dict())
    known.on_fit_start(SimpleNamespace(world_size=2, strategy=SimpleNamespace(root_device=torch.device("cpu"))), module)
    assert known.rates() == speed.rates() | {"mfu": speed.rates()["model_tflops"] / 4.0}


def test_a_device_is_known_by_its_whole_name(monkeypatch):
    assert throughput.known_peak("NVIDIA H100 80GB HBM3", "bf16-mixed") == 989.0
    assert throughput.known_peak("NVIDIA H100 80GB HBM3", "32-true") == 67.0
    monkeypatch.setattr(throughput.torch, "get_float32_matmul_precision", lambda: "high")
    assert throughput.known_peak("NVIDIA H100 80GB HBM3", "32-true") == 494.0
    assert throughput.known_peak("NVIDIA H100 PCIe", "bf16-mixed") is None
    with pytest.raises(ValueError, match=r"callback.throughput.peak_tflops is 0"):
        Throughput(peak_tflops=0)


@pytest.mark.parametrize(
    "name", ["cogvideox_mini", "flux_mini", "flux2_mini", "wan_mini", "qwen_image_mini", "hunyuan_video_mini"]
)
def test_adapter_flops_are_what_torch_counts(name):
    """Of LoRA on every linear: the difference that it makes to a forward."""
    counts = []
    for adapter in ("full", "lora_visualcloze"):
        config = tiny(f"backbone={name}", f"conditioning/adapter={adapter}", "conditioning/embedding=none")
        pipeline = build_pipeline(config)
        layout = pipeline.plan(slots()).layout
        with flop_counter() as counter, torch.no_grad():
            times = pipeline.times(layout, torch.tensor([0.5]))
            pipeline.backbone(tokens_for(layout, pipeline.backbone), times, pipeline.mask)
        counts.append(counter.get_total_flops())
    assert pipeline.backbone.adapter_flops(layout, pipeline.mask) == counts[1] - counts[0] > 0


# --- files -----------------------------------------------------------------------------------------------------


def test_jsonl_goes_on_after_a_torn_line(tmp_path):
    path = tmp_path / "new" / "metrics.jsonl"
    JsonlLogger(str(path)).log_metrics({"a": 1, "epoch": 0}, 1)
    JsonlLogger(str(path)).log_metrics({"epoch": 0}, 2)  # nothing to say
    whole = path.read_text()
    assert {k: v for k, v in json.loads(whole).items() if k != "time"} == {"step": 1, "a": 1.0}
    path.write_text(whole + '{"step": 2, "a"')  # killed while writing
    JsonlLogger(str(path)).log_metrics({"a": torch.tensor(3)}, 2)
    lines = path.read_text().splitlines()
    assert lines[:2] == [whole.strip(), '{"step": 2, "a"']
    assert json.loads(lines[2])["a"] == 3.0


def test_jsonl_takes_back_what_came_after_a_checkpoint(tmp_path):
    path, logger = tmp_path / "metrics.jsonl", JsonlLogger(str(tmp_path / "metrics.jsonl"))
    logger.rewind(3, {"train/loss": 1.0})
    assert not path.exists()
    whole = [{"step": s, "time": 1.5, f"{kind}/loss": 0.5} for s, kind in enumerate(("train",) * 3 + ("val",), 1)]
    whole[3]["step"] = 3  # 1, 2, 3, and the validation of 3
    text = "".join(json.dumps(line) + "\n" for line in whole)

    def after(step, line, torn=""):
        path.write_text(text + torn)
        logger.rewind(step, line)
        return [json.loads(line) for line in path.read_text().splitlines()]

    assert after(4, {}) == whole, "negative control"
    assert after(3, {"train/loss": 9.0}, '{"step": 4, "tra') == whole[:3], (
        "its line is there, its validation comes again"
    )
    assert after(2, {}) == whole[:2]
    assert after(0, {}) == []
    found = after(5, {"train/loss": 9.0})
    assert found[:4] == whole and (found[4]["step"], found[4]["train/loss"]) == (5, 9.0)


def test_a_full_disk_keeps_the_checkpoint_of_before(tmp_path, full_disk):
    path = tmp_path / "last.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint({"step": 1}, str(path))
    with pytest.raises(OSError) as caught:
        io.save_checkpoint({"step": 2, "weights": torch.zeros(2**16)}, str(path))
    said = str(caught.value)
    assert said.startswith(f"checkpoint {path} could not be written (File too large), the one before it is unharmed;")
    assert "\n" not in said and said.count(str(path)) == 1
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_metrics_on_a_full_disk_name_the_file(tmp_path, full_disk):
    path = tmp_path / "metrics.jsonl"
    path.write_text("x" * (2**16 - 8) + "\n")
    with pytest.raises(OSError, match=r"metrics.jsonl could not be written: File too large"):
        JsonlLogger(str(path)).log_metrics({"a": 1}, 1)


# --- sample grids ----------------------------------------------------------------------------------------------


def test_a_grid_shows_condition_output_and_truth_of_the_same_samples_every_time(tmp_path):
    few = batch(3)
    outputs = {"target": 255 - few.images["target"]}
    page = sample_grid.draw_grid(sample_grid.first(few, 2), {"target": outputs["target"][:2]}, columns=2, scale=1)
    left, top, cell = 8 + 190 - 8, 22, 48 + 8
    for sample, column in itertools.product(range(2), range(3)):
        x = sample * (190 + 3 * cell + 8) + left + column * cell
        shown = (few.images["condition0"], outputs["target"], few.images["target"])[column][sample, 0]
        at = (x + 5, top + 7)
        assert page.getpixel(at) == tuple(shown[:, 7, 5].tolist())

    learner = SimpleNamespace(sample=lambda batch, seed: {"target": batch.images["target"] // (1 + seed)})
    other = replace(few, slots=tuple(slot._replace(frames=2) for slot in few.slots))
    trainer = SimpleNamespace(is_global_zero=True, global_step=7, loggers=[])
    for seed, name in enumerate("aab"):
        grid = SampleGrid(str(tmp_path / f"{seed}{name}"), items=2, seed=seed // 2)
        grid.on_validation_start(trainer, learner)
        grid.on_validation_batch_end(trainer, learner, None, few, 0)
        grid.on_validation_batch_end(trainer, learner, None, few, 1)  # one grid for each layout of a validation
        grid.on_validation_batch_end(trainer, learner, None, other, 2)
    assert len(list(tmp_path.rglob("step_000007_2.png"))) == 3
    pages = [path.read_bytes() for path in sorted(tmp_path.rglob("step_000007.png"))]
    assert len(pages) == 3 and pages[0] == pages[1] != pages[2]


def test_a_long_prompt_stays_beside_its_own_images():
    few, said = batch(2), {"target": batch(2).images["target"]}
    pages = {}
    for words in (3, 60):
        told = replace(few, prompts=[" ".join(["prompt"] * words)] * 2)
        pages[words] = np.asarray(sample_grid.draw_grid(told, said, columns=1, scale=3).convert("L"))
    high = 3 * few.slots[0].height + 8
    first, second = 22, 22 + high
    label = {words: page[:, :180] for words, page in pages.items()}
    assert (label[60][second - 2 : second + 3] == 255).all(), "above the second sample"
    dark = {words: int((page[first : first + high] < 128).any(1).sum()) for words, page in label.items()}
    assert dark[60] > 2 * dark[3], "negative control: more of it is shown where there is room"
    assert (label[60][first:second] == label[60][second : second + high]).all()


def test_samples_of_step_0_are_those_of_the_untrained_model_and_change_no_training(tmp_path, monkeypatch):
    words = ["trainer.max_steps=2", "validation.every=2", "callback.sample_grid.items=2"]
    train(small(tmp_path / "with", *words))
    samples = tmp_path / "with" / "samples"
    assert [path.name for path in sorted(samples.glob("*.png"))] == ["step_000000.png", "step_000002.png"]
    items = json.loads((samples / "items" / "items.json").read_text())
    assert len(items) == 2 and all(item["targets"] == ["target"] for item in items)
    for number, item in enumerate(items):
        assert {"key", "task", "prompt"} <= item.keys() and item["slots"].keys() >= {"target"}
        assert all((samples / "items" / file).is_file() for file in item["slots"].values())
        first, last = ((samples / "items" / f"{number:03d}_target_step_00000{n}.png").read_bytes() for n in (0, 2))
        assert first != last
    monkeypatch.setattr(SampleGrid, "on_train_start", L.Callback.on_train_start)
    train(small(tmp_path / "without", *words))
    assert not (tmp_path / "without" / "samples" / "step_000000.png").exists()
    runs = [log(tmp_path / name) for name in ("with", "without")]
    losses = [[{k: v for k, v in line.items() if "loss" in k} for line in lines] for lines in runs]
    assert losses[0] == losses[1] and losses[0]


def test_a_run_that_goes_on_does_not_draw_step_0_again(tmp_path):
    train(small(tmp_path, "trainer.max_steps=1"))
    first = tmp_path / "samples" / "step_000000.png"
    first.unlink()
    train(small(tmp_path, "trainer.max_steps=2"))
    assert not first.exists() and (tmp_path / "samples" / "step_000002.png").exists()


def test_tensorboard_has_the_numbers_and_the_grids_of_a_run_that_went_on(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps in (1, 2):
        train(small(tmp_path, f"trainer.max_steps={steps}", "logger=[jsonl,tensorboard]"))
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    told = {line["step"]: line["val/loss"] for line in log(tmp_path) if "val/loss" in line}
    assert {event.step: event.value for event in found.Scalars("val/loss")} == pytest.approx(told) and len(told) == 2
    assert {event.step for event in found.Images("samples")} == {0, 1, 2}


def test_without_tensorboard_one_sentence_says_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs tensorboard \(pip install 'unigen\[tensorboard\]'\)"):
        TensorBoard("x")
