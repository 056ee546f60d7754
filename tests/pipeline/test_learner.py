"""The learning rate over a run, and what a learner keeps."""

from types import SimpleNamespace

import pytest
import torch
from bare_trainer import bare_trainer
from tiny import composed, tiny
from torch import nn

from unigen.config.values import ConfigError
from unigen.pipeline.build import build_learner
from unigen.pipeline.learner import Learner, parameters


def learner(warmup: int, cooldown: float, steps: int = 100) -> Learner:
    config = composed(f"optimizer.warmup={warmup}", f"optimizer.cooldown={cooldown}", f"trainer.max_steps={steps}")
    made = Learner(config)
    made.parts.update({"line": nn.Linear(2, 2)})
    return made


@pytest.mark.parametrize(
    ("warmup", "cooldown", "shares"),
    [
        (0, 0.0, {0: 1.0, 50: 1.0, 99: 1.0}),
        (10, 0.0, {0: 0.1, 4: 0.5, 9: 1.0, 99: 1.0}),
        (10, 0.2, {4: 0.5, 79: 1.0, 80: 1.0, 90: 0.5, 99: 0.05, 100: 0.0, 101: 0.0}),
    ],
)
def test_the_rate_warms_up_and_cools_down(warmup, cooldown, shares):
    made = learner(warmup, cooldown)
    assert {step: made._share_of_rate(step) for step in shares} == pytest.approx(shares)


def test_the_schedule_is_the_optimisers(tmp_path):
    made = learner(10, 0.2)
    found = made.configure_optimizers()
    (group,) = found["optimizer"].param_groups
    assert group["lr"] == pytest.approx(0.1 * composed()["optimizer"]["lr"])
    assert found["lr_scheduler"]["interval"] == "step"


@pytest.mark.parametrize("matrices", ["null", "muon"])
def test_a_part_may_learn_at_a_share_of_the_rate(matrices):
    made = build_learner(tiny("+optimizer.shares.text=0.25", f"optimizer.matrices={matrices}"))
    rate, text = made.options["lr"], {id(p) for p in made.parts["text"].parameters()}
    groups = made.configure_optimizers()["optimizer"].param_groups
    found = {id(p): group["initial_lr"] for group in groups for p in group["params"]}
    assert found.keys() == {id(p) for p in made.parameters() if p.requires_grad} and text < found.keys()
    assert {found[key] for key in text} == {0.25 * rate} and {found[key] for key in found.keys() - text} == {rate}
    plain = build_learner(tiny(f"optimizer.matrices={matrices}")).configure_optimizers()["optimizer"].param_groups
    assert {group["initial_lr"] for group in plain} == {rate}, "negative control"


def test_a_run_from_before_these_keys_has_the_same_optimizer():
    config = tiny()
    del config["optimizer"]["matrices"], config["optimizer"]["shares"]
    older, now = (build_learner(c).configure_optimizers()["optimizer"] for c in (config, tiny()))
    assert type(older) is type(now) is torch.optim.AdamW and len(older.param_groups) == len(now.param_groups) == 1


def test_a_share_of_an_unknown_part_is_refused():
    with pytest.raises(ConfigError, match=r"optimizer\.shares\.txt: this run trains backbone, embedding, text"):
        build_learner(tiny("+optimizer.shares.txt=0.1"))


def test_a_longer_run_is_the_same_until_the_shorter_one_cools_down():
    """So that a run may be given more steps as long as it has not begun to cool down."""
    short, long = learner(10, 0.5, steps=100), learner(10, 0.5, steps=200)
    assert [short._share_of_rate(k) for k in range(50)] == [long._share_of_rate(k) for k in range(50)]
    assert short._share_of_rate(60) != long._share_of_rate(60), "negative control"


def test_shared_parameters_count_once():
    line = nn.Linear(2, 3)
    frozen = nn.Linear(2, 2).requires_grad_(False)
    assert parameters(line, nn.Sequential(line), frozen) == {"trained": 9, "total": 15}


def test_a_checkpoint_keeps_what_is_trained():
    made = learner(0, 0.0)
    made.parts["line"].bias.requires_grad_(False)
    checkpoint = {"state_dict": {k: v.clone() for k, v in made.state_dict().items()}}
    made.on_save_checkpoint(checkpoint)
    assert set(checkpoint["state_dict"]) == {"parts.line.weight"}
    assert torch.equal(checkpoint["state_dict"]["parts.line.weight"], made.parts["line"].weight)


def test_what_is_trained_is_in_training_mode_whatever_it_was_loaded_in():
    made = learner(0, 0.0)
    made.parts["line"].eval()
    assert not made.parts["line"].training, "negative control"
    made.on_fit_start()
    assert made.parts["line"].training


class Regression(Learner):
    """Four weights that gradients of thousands would throw far off."""

    def __init__(self, fused: bool) -> None:
        super().__init__(composed("optimizer.warmup=0", f"optimizer.fused={str(fused).lower()}"))
        torch.manual_seed(0)
        self.parts["line"] = torch.nn.Linear(4, 1)

    def training_step(self, x, batch_idx):
        return 1e3 * (self.parts["line"](x) - 1).square().mean()


def fitted(fused: bool, clip: float | None, precision: str = "bf16-mixed", algorithm: str = "norm"):
    model = Regression(fused)
    rows = torch.randn(4, 2, 4, generator=torch.Generator().manual_seed(1))
    trainer = bare_trainer(4, precision=precision, gradient_clip_val=clip, gradient_clip_algorithm=algorithm)
    norms = []
    model.on_before_zero_grad = lambda _: norms.append(_norms(model))
    trainer.fit(model, torch.utils.data.DataLoader(rows, batch_size=None))
    return torch.cat([p.detach().flatten() for p in model.parameters()]), norms


def _norms(model):
    return [p.grad.norm().item() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("how", [("bf16-mixed", "norm"), ("bf16-mixed", "value"), ("32-true", "norm")])
def test_a_fused_optimizer_clips_and_steps_as_a_plain_one(how):
    """Lightning's own mixed precision refuses to clip for it."""
    fused, norms = fitted(True, 0.1, *how)
    plain, others = fitted(False, 0.1, *how)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)
    assert any(norms) and torch.tensor(norms[-1]) == pytest.approx(torch.tensor(others[-1]), rel=1e-3)
    _, unclipped = fitted(True, None, how[0])
    assert max(map(max, filter(None, norms))) < 0.3 < max(map(max, filter(None, unclipped))), "negative control"


def test_a_fused_optimizer_under_a_scaler_is_refused(monkeypatch):
    plugin = SimpleNamespace(scaler=object())
    trainer = SimpleNamespace(precision_plugin=plugin, precision="16-mixed", gradient_clip_val=1.0)
    monkeypatch.setattr(Regression, "trainer", trainer)
    with pytest.raises(ConfigError, match=r"optimizer.fused=true unscales .*16-mixed.*use bf16-mixed"):
        Regression(True).on_fit_start()
    Regression(False).on_fit_start()  # negative control
    trainer.gradient_clip_val = None
    Regression(True).on_fit_start()
