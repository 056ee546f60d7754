"""Muon and AdamW as one optimizer: what each updates, that a run goes on to the bit, and who is refused."""

import copy

import pytest
import torch
from tiny import composed, tiny
from torch import nn

from unigen.config.values import ConfigError
from unigen.nn.muon import MuonAdamW, block_matrices
from unigen.pipeline.build import build_learner
from unigen.pipeline.learner import Learner


def weights() -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    g = torch.Generator().manual_seed(0)
    return (
        [nn.Parameter(torch.randn(8, 4, generator=g)), nn.Parameter(torch.randn(4, 16, generator=g))],
        [nn.Parameter(torch.randn(3, generator=g)), nn.Parameter(torch.randn(6, 4, generator=g))],
    )


def steps(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], numbers: range) -> None:
    for number in numbers:
        for index, p in enumerate(parameters):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * number + index))
        optimizer.step()


def made(matrices: list[nn.Parameter], rest: list[nn.Parameter]) -> MuonAdamW:
    return MuonAdamW(matrices, rest, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)


def test_it_is_muon_on_matrices_and_adamw_on_the_rest():
    matrices, rest = weights()
    steps(made(matrices, rest), [*matrices, *rest], range(3))
    muons, adams = weights()
    apart = (
        torch.optim.Muon(muons, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(adams, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1),
    )
    for number in range(3):
        for index, p in enumerate([*muons, *adams]):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * number + index))
        for each in apart:
            each.step()
    assert all(torch.equal(a, b) for a, b in zip([*matrices, *rest], [*muons, *adams], strict=True))
    swapped, others = weights()
    steps(made([others[1]], [*swapped, others[0]]), [*swapped, *others], range(3))
    assert not torch.equal(swapped[0], muons[0]) and not torch.equal(others[1], adams[1]), "negative control"


def test_a_schedule_sets_the_rate_of_both():
    matrices, rest = weights()
    optimizer = made(matrices, rest)
    before = [p.clone() for p in (*matrices, *rest)]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step > 0))
    steps(optimizer, [*matrices, *rest], range(1))
    assert all(torch.equal(a, b) for a, b in zip(before, (*matrices, *rest), strict=True)), "at rate 0 nothing moves"
    schedule.step()
    steps(optimizer, [*matrices, *rest], range(1, 2))
    assert not any(torch.equal(a, b) for a, b in zip(before, (*matrices, *rest), strict=True)), "negative control"


@pytest.mark.parametrize("restored", [True, False], ids=["restored", "negative control"])
def test_a_restored_one_goes_on_to_the_bit(restored):
    matrices, rest = weights()
    optimizer = made(matrices, rest)
    steps(optimizer, [*matrices, *rest], range(2))
    kept = copy.deepcopy(optimizer.state_dict())
    copies = [nn.Parameter(p.detach().clone()) for p in (*matrices, *rest)]
    steps(optimizer, [*matrices, *rest], range(2, 4))
    again = made(copies[:2], copies[2:])
    if restored:
        again.load_state_dict(kept)
    steps(again, copies, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip((*matrices, *rest), copies, strict=True)) == restored


@pytest.mark.parametrize("family", ["cogvideox", "flux", "flux2_klein", "wan", "qwen_image"])
def test_the_matrices_are_attention_and_feed_forward_of_every_family(family):
    learner = build_learner(tiny(f"family={family}/scratch", "optimizer=muon"))
    backbone, found = learner.parts["backbone"], {id(p) for p in block_matrices(learner.parts["backbone"])}
    names = [name for name, p in backbone.named_parameters() if id(p) in found]
    assert names and not [name for name in names if "norm" in name or "_mod." in name or "bias" in name]
    for part in ("to_q", "mlp" if family == "qwen_image" else "ff"):
        assert [name for name in names if part in name], part
    others = [name for name, p in backbone.named_parameters() if id(p) not in found]
    assert [name for name in others if "norm" in name] and not [n for n in others if n.endswith("to_q.weight")]
    groups = learner.configure_optimizers()["optimizer"].param_groups
    told = [id(p) for group in groups for p in group["params"]]
    assert len(told) == len(set(told)) and set(told) == {id(p) for p in learner.parameters() if p.requires_grad}


def test_a_strategy_that_divides_matrices_is_refused():
    assert Learner(composed("optimizer=muon", "strategy=ddp"))
    for strategy in ("deepspeed_1", "deepspeed_3", "fsdp2"):
        with pytest.raises(ConfigError, match="strategy=ddp or optimizer=adamw"):
            Learner(composed("optimizer=muon", f"strategy={strategy}"))


def test_another_word_is_refused():
    with pytest.raises(ConfigError, match=r"optimizer\.matrices is 'lion'; legal are null and muon"):
        Learner(composed("optimizer.matrices=lion"))


def test_a_learner_without_blocks_is_refused():
    learner = Learner(composed("optimizer=muon"))
    learner.parts.update({"line": nn.Linear(2, 2)})
    with pytest.raises(ConfigError, match="no trained matrix inside blocks"):
        learner.check_options()
