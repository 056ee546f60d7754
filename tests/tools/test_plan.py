"""A plan is calibrated: its FLOPs, weights, states and activations are those of a real training step."""

from copy import deepcopy

import pytest
import torch
from small_runs import command, line
from tiny import CONF, choices, composed, tiny
from torch import nn

from unigen.config.values import ConfigError
from unigen.nn.shards import gathered
from unigen.pipeline.build import build, build_learner, build_on_meta
from unigen.tools.bench.turns import flop_counter
from unigen.tools.plan import trace
from unigen.tools.plan.estimate import fitting, plan
from unigen.tools.plan.memory import GIB, precision, sharding, strategy_name
from unigen.tools.plan.profile import read_profile
from unigen.tools.plan.terminal import verdict
from unigen.tools.plan.trace import inputs, trace_step

H100 = read_profile(CONF / "profile", "h100")
GROUPED = "backbone.lowering._target_=unigen.core.attention.grouped"
MINI = ("+exp=fcd_mask_a", "data.batch_size=4", "data.limit=200", "backbone.pretrained=null")
CHECKPOINTS = "backbone.gradient_checkpointing=true"


def meta_trace(*words, size=4, low=None):
    config = composed(*MINI, *words)
    return trace_step(build_on_meta(config), build(config["data"]).slots, size, low)


class RealStep:
    """A forward and backward of the backbone on the CPU: FLOPs by torch's counter, bytes by its saved-tensor hooks."""

    def __init__(self, *words, size=4, low=None):
        config = composed(*MINI, *words)
        learner = build_learner(config)
        pipeline, self.saved = learner.pipeline, {}
        tokens = inputs(pipeline, build(config["data"]).slots, size)
        features = {n: torch.randn(x.shape).requires_grad_(x.requires_grad) for n, x in tokens.features.items()}
        pooled, context = tokens.pooled, tokens.context
        tokens = tokens.updated(features)
        assert pooled is None and context is None
        self.known = {x.untyped_storage()._cdata for x in (*pipeline.backbone.parameters(), *features.values())}
        times = pipeline.times(tokens.layout, torch.rand(size))
        autocast = torch.autocast("cpu", dtype=low or torch.bfloat16, enabled=low is not None)
        with flop_counter() as counter:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda x: x):
                with autocast:
                    outputs = pipeline.backbone.train()(tokens, times, pipeline.mask)
            sum(x.float().square().mean() for x in outputs.values()).backward()
        self.flops, self.bytes = counter.get_total_flops(), sum(self.saved.values())

    def _pack(self, x):
        storage = x.untyped_storage()
        if storage._cdata not in self.known:
            self.saved[storage._cdata] = storage.nbytes()
        return x


def near(a, b, share):
    return abs(a - b) <= share * b


# --- calibration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), (GROUPED,), (CHECKPOINTS,), ("conditioning/adapter=full",)])
def test_flops_and_activations_are_those_of_a_real_step(words):
    """FLOPs within 2 %, bytes kept for the backward within 10 %."""
    planned, real = meta_trace(*words), RealStep(*words)
    assert near(planned.flops, real.flops, 0.02), planned.flops / real.flops
    assert near(planned.kept, real.bytes, 0.10), planned.kept / real.bytes
    assert planned.peak >= planned.kept


def test_activations_under_autocast_are_those_of_a_real_step(monkeypatch):
    """On a CPU, whose autocast leaves norms and softmax in bf16; CUDA's does not, so a plan has more (here 15 %)."""
    cuda = meta_trace(low=torch.bfloat16)
    monkeypatch.setattr(trace, "FULL", set())
    planned, real = meta_trace(low=torch.bfloat16), RealStep(low=torch.bfloat16)
    assert near(planned.flops, real.flops, 0.02)
    assert near(planned.kept, real.bytes, 0.10), planned.kept / real.bytes
    assert near(cuda.flops, real.flops, 0.02) and not near(cuda.kept, real.bytes, 0.10)  # negative control


@pytest.mark.slow
def test_other_steps_are_not_mistaken_for_this_one():
    """Negative control: what the tolerances tell apart."""
    real, checkpointed, larger = RealStep(), meta_trace(CHECKPOINTS), meta_trace(size=5)
    assert not near(checkpointed.flops, real.flops, 0.02) and not near(checkpointed.kept, real.bytes, 0.10)
    assert not near(larger.flops, real.flops, 0.02) and not near(larger.kept, real.bytes, 0.10)
    assert not near(meta_trace(low=torch.bfloat16).kept, real.bytes, 0.10)
    assert not near(meta_trace("mask=fcd_d", GROUPED).flops, meta_trace(GROUPED).flops, 0.001)


@pytest.mark.parametrize("exp", ["fcd_mask_a", "visualcloze_fill"])
def test_the_formula_for_model_flops_agrees_at_published_widths(exp):
    """3 × linear; attention 3.5 × where its backward makes the scores again, as fused kernels do."""
    config = composed(
        f"+exp={exp}", "scale=paper", "conditioning/adapter=full", "backbone.gradient_checkpointing=false"
    )
    layers = {"num_layers", "num_single_layers"} & set(config["backbone"]["config"])
    config["backbone"]["config"] |= dict.fromkeys(layers, 2)
    config["encoder"]["text"]["config"]["num_layers"] = 1
    pipeline, slots = build_on_meta(config), build(config["data"]).slots
    flops = pipeline.backbone.flops(pipeline.plan(slots).layout, pipeline.mask)
    executed = trace_step(pipeline, slots, 2, torch.bfloat16).flops / 2
    assert near(executed, 3 * flops["linear"] + 3.5 * flops["attention"], 0.02)
    assert not near(executed, 2 * flops["linear"] + 3.5 * flops["attention"], 0.02)  # negative control


def test_the_formula_for_adapters_agrees_at_published_widths():
    """LoRA on every linear of FLUX.1-Fill: frozen linears 2 ×, adapters 3 ×; both ends are a small share."""
    config = composed("+exp=visualcloze_fill", "scale=paper", "backbone.gradient_checkpointing=false")
    config["backbone"]["config"] |= {"num_layers": 2, "num_single_layers": 2}
    pipeline, slots = build_on_meta(config), build(config["data"]).slots
    layout = pipeline.plan(slots).layout
    flops, adapters = (
        pipeline.backbone.flops(layout, pipeline.mask),
        pipeline.backbone.adapter_flops(layout, pipeline.mask),
    )
    executed = trace_step(pipeline, slots, 2, torch.bfloat16).flops / 2
    assert near(executed, 2 * flops["linear"] + 3.5 * flops["attention"] + 3 * adapters, 0.02)
    assert not near(executed, 2 * flops["linear"] + 3.5 * flops["attention"], 0.10)  # negative control


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 2, 4])
def test_a_plan_recomputes_the_blocks_that_a_step_recomputes(every):
    words = (CHECKPOINTS, f"backbone.checkpoint_every={every}")
    planned, real = meta_trace(*words), RealStep(*words)
    assert near(planned.flops, real.flops, 0.02) and near(planned.kept, real.bytes, 0.10)
    assert every == 1 or not near(planned.kept, meta_trace(CHECKPOINTS).kept, 0.10)  # negative control


@pytest.mark.parametrize(("adapter", "kind"), [("lora", "adamw"), ("full", "adamw"), ("full", "muon")])
def test_held_bytes_are_those_after_a_real_optimizer_step(adapter, kind):
    words = (f"conditioning/adapter={adapter}", f"optimizer={kind}", "trainer.precision=32-true")
    config = tiny("+exp=fcd_mask_a", *words)
    made, learner = plan(config, H100), build_learner(config)
    optimizer = learner.configure_optimizers()["optimizer"]
    trained = [p for p in learner.parameters() if p.requires_grad]
    for p in trained:
        p.grad = torch.ones_like(p)
    optimizer.step()
    states = [x for p in trained for name, x in optimizer.state[p].items() if name != "step"]
    assert made.held.weights == sum(p.nbytes for p in learner.parts.parameters())
    assert made.held.gradients == sum(p.grad.nbytes for p in trained)
    assert made.held.optimizer == sum(x.nbytes for x in states)
    for other in ("lora", "full"):  # negative control
        held = plan(tiny("+exp=fcd_mask_a", f"conditioning/adapter={other}"), H100).held
        assert (held.optimizer == made.held.optimizer) == (other == adapter and kind == "adamw")


# --- strategies, profiles, advice ------------------------------------------------------------------------------------


def planned(strategy="single", **trainer):
    config = tiny("+exp=fcd_mask_a", f"strategy={strategy}", "trainer.precision=32-true")
    config["trainer"] |= trainer
    return plan(config, H100)


def test_a_strategy_divides_what_it_says():
    alone, ddp = planned(), planned(devices=4, strategy="ddp")
    assert ddp.held[:3] == alone.held[:3] and ddp.held.communication == alone.held.gradients > 0
    assert alone.held.communication == 0 and ddp.seconds > alone.seconds
    one, two, three = (planned(devices=4, strategy=f"deepspeed_{i}").held for i in (1, 2, 3))
    masters = 12 / 8  # ZeRO keeps fp32 masters, of fp32 weights too
    assert one.optimizer == two.optimizer == three.optimizer == masters * alone.held.optimizer / 4
    assert one.gradients == alone.held.gradients and two.gradients == three.gradients == one.gradients / 4
    assert one.weights == two.weights == alone.held.weights and three.weights == one.weights / 4
    fsdp2 = planned(devices=4, strategy="fsdp2").held
    assert fsdp2.weights == three.weights and fsdp2.optimizer == alone.held.optimizer / 4
    mixed = planned(devices=4, strategy="deepspeed_2", precision="bf16-mixed").held
    assert mixed == two, "mixed precision is autocast on fp32 weights, as on one device"
    halved = planned(devices=4, strategy="deepspeed_2", precision="bf16-true").held
    assert halved.weights == two.weights / 2 and halved.optimizer == two.optimizer
    offload = planned(devices=4, strategy="deepspeed_3_offload").held
    assert offload.weights == offload.optimizer == 0 and offload.gradients == three.gradients
    assert planned(devices=4, num_nodes=2).world == 8


def test_fsdp2_gathers_two_blocks_at_a_time_and_what_is_outside_of_them():
    model = nn.Module()
    model.blocks = nn.ModuleList([nn.Linear(width, 1, bias=False) for width in (3, 50, 40)])
    model.head = nn.ModuleDict({"inner": nn.Linear(7, 1, bias=False)})
    model.tied = model.blocks[0]  # inside a block, so not gathered with the rest
    assert gathered(model) == 7 + 50 + 40


@pytest.mark.parametrize("name", choices("strategy"))
def test_every_strategy_is_planned_under_its_own_name(name):
    assert strategy_name(composed(f"strategy={name}")["strategy"]) == name
    assert planned(strategy=name, devices=2).world == 2


def test_another_strategy_is_refused():
    with pytest.raises(
        ConfigError, match=r"strategy\._target_ ends in Horovod.*legal are single, DDPStrategy, FSDP2, ZeRO"
    ):
        sharding({"_target_": "somewhere.Horovod"}, 2)


def test_a_batch_that_is_not_the_published_one_is_warned_of():
    def warned(*words):
        return plan(tiny("+exp=fcd_mask_a", "optimizer.batch=12", *words), H100).warning

    assert warned("data.batch_size=12") is None and warned("data.batch_size=3", "trainer.devices=4") is None
    said = warned("data.batch_size=12", "trainer.devices=4")
    assert said.startswith(
        "an update sees 48 samples, published are 12 (optimizer.batch); as published: data.batch_size=3"
    )
    assert "the next fewer that can are 4" in warned("trainer.devices=5")


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ({"precision": "64-true"}, "trainer.precision is '64-true'.*legal are auto, 32-true"),
        ({"devices": "auto"}, "trainer.devices is 'auto'; a plan needs a number"),
    ],
)
def test_what_cannot_be_planned_is_refused(trainer, said):
    with pytest.raises(ConfigError, match=said):
        planned(**trainer)


def test_profiles_are_read_and_others_refused(tmp_path):
    names = sorted(path.stem for path in (CONF / "profile").glob("*.yaml"))
    assert {"h100", "a100"} <= set(names)
    for profile in (read_profile(CONF / "profile", name) for name in names):
        assert 0 < profile.efficiency < 1 and set(profile.flops) == {"bf16", "tf32", "fp32"}
        assert 1e12 < profile.flops["fp32"] <= profile.flops["tf32"] < profile.flops["bf16"] < 1e16
    with pytest.raises(ConfigError, match="profile=h1000 is unknown; legal are a100, h100"):
        read_profile(CONF / "profile", "h1000")
    (tmp_path / "odd.yaml").write_text("memory_gib: 80\n")
    with pytest.raises(ConfigError, match="must have exactly the keys bandwidth"):
        read_profile(CONF / "profile", str(tmp_path / "odd.yaml"))


@pytest.mark.slow
def test_what_does_not_fit_is_said_with_the_switch_that_helps():
    config = composed(*MINI, "trainer.precision=32-true")
    made = plan(config, H100)
    assert verdict(made, ()) == [f"fits: {made.peak / GIB:.2f} of 79.1 GiB"]
    eased = deepcopy(config)
    eased["backbone"] |= {"gradient_checkpointing": True, "checkpoint_every": 2}
    between = (plan(eased, H100).peak + made.peak) / 2 / GIB
    small = H100._replace(memory_gib=between)
    tight = plan(config, small)
    lines = verdict(tight, fitting(config, small))
    assert lines[0].startswith("does not fit") and len(lines) == 2
    assert lines[1].startswith(f"  {CHECKPOINTS} backbone.checkpoint_every=2: ") and ", fits;" in lines[1]
    eased["backbone"]["checkpoint_every"] = 1
    smaller = H100._replace(memory_gib=(plan(eased, H100).peak + 1) / GIB)
    *_, less, all_blocks = verdict(plan(config, smaller), fitting(config, smaller))
    assert "too many" in less and all_blocks.startswith(f"  {CHECKPOINTS}: ") and ", fits;" in all_blocks
    assert verdict(tight, [tight])[-1].startswith("none of these switches")


def test_the_batch_that_fits_keeps_the_optimizer_step():
    config = composed(*MINI, "trainer.precision=32-true", CHECKPOINTS, "data.batch_size=12")
    small = H100._replace(memory_gib=(plan(config, H100).peak - 1) / GIB)
    [found] = fitting(config, small)
    assert found.over <= 0 and found.batch < 12 and found.batch * found.accumulate == 12


def test_words_mean_what_lightning_means():
    assert precision("bf16-mixed") == (torch.float32, torch.bfloat16) and precision("32-true") == (torch.float32, None)


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_plans_a_run_and_a_whole_sweep(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("plan.py", "+exp=fcd_mask_a", *line("profile=a100")) in (0, None)
    said = capsys.readouterr().out
    assert "fcd_mask_a on 1 × a100" in said and "fits: " in said and "the whole sweep" not in said
    assert command("plan.py", "+table=realgeneral_masks", "seed=0,1", *line()) in (0, None)
    said = capsys.readouterr().out
    sweep = said[said.index("the whole sweep") :]
    assert all(f"fcd_mask_{x}" in sweep for x in "abcd") and said.count("nothing was allocated") == 4
    jobs = [row.split("│")[2].strip() for row in sweep.splitlines() if row.startswith("│")]
    assert jobs == ["2", "2", "2", "2", "8"]
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("+exp=fcd_mask_a", "profile=h1000"), "profile=h1000 is unknown"),
        (("+exp=mini/codec",), "learner CodecLearner has no resource estimate"),
        (("+exp=fcd_mask_a", "trainer.devces=8"), "did you mean 'trainer.devices'"),
    ],
)
def test_bad_input_ends_in_one_sentence(words, said, capsys):
    assert command("plan.py", *words) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
