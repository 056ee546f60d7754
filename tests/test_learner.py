"""The learning rate over a run, and what a learner keeps."""

import pytest
import torch
from tiny import composed
from torch import nn

from unigen.learner import Learner, parameters


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
