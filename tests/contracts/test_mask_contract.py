"""Whose input reaches whose output is what the mask's table says, for every backbone × formatter × mask."""

from itertools import product
from unittest.mock import patch

import pytest
import torch
from tiny import (
    apart,
    backbone_for,
    blocks,
    choices,
    every_model,
    is_mini,
    mask,
    models,
    placing,
    plan_for,
    spread,
    stacks,
    tiny,
    tokens_for,
)

from unigen.core import masks
from unigen.core.layout import Layout
from unigen.core.types import TEXT
from unigen.pipeline.build import build


def reach(backbone, layout: Layout, table) -> dict[str, list[bool]]:
    """Output segment -> whether its gradient to each input segment is not exactly zero.

    The last block's text output is discarded by the head, so it is read where every block runs. Where text attends to
    nothing that is the embedded text.
    """
    tokens = tokens_for(layout, backbone)
    for x in tokens.features.values():
        x.requires_grad_()
    t_B, last, run = torch.tensor([0.5]), [], backbone._run
    with patch.object(backbone, "_run", lambda *given: last.append(run(*given)) or last[-1]):
        outputs = backbone(tokens, dict.fromkeys(layout.names, t_B), table) | {TEXT: last[-1][1]}
    assert len(last) == len(blocks(backbone)) and last[-1][1].shape[1] == layout[TEXT].tokens
    found = {}
    for name in layout.names:
        probe = torch.randn(outputs[name].shape, generator=torch.Generator().manual_seed(3))
        inputs = [tokens.features[n] for n in layout.names]
        grads = torch.autograd.grad((outputs[name] * probe).sum(), inputs, retain_graph=True, allow_unused=True)
        found[name] = [g is not None and bool((g != 0).any()) for g in grads]
    return found


@pytest.fixture(scope="module")
def backbone(request):
    name, sizes = request.param
    model = backbone_for(tiny(f"backbone={name}", **sizes))
    return model, len(blocks(model))


BACKBONES = [(name, sizes) for name in models() for sizes in stacks(name)]
PLACES = list(product(apart(), [1, 2]))  # (formatter, number of conditions)


@pytest.mark.parametrize(
    ("backbone", "place", "name"),
    spread(BACKBONES, PLACES, choices("mask"), lambda of: is_mini(of[0])),
    indirect=["backbone"],
)
def test_gradients_vanish_exactly_where_the_closure_says(backbone, place, name):
    (model, depth), (formatter, conditions) = backbone, place
    if unknown := [role for role in placing(formatter).roles if role not in dict(mask(name).rows)]:
        pytest.skip(f"mask {name} knows no role {', '.join(unknown)}")
    layout = plan_for(placing(formatter), model, conditions).layout
    found = reach(model, layout, mask(name))
    followed = model.effective_mask(mask(name))
    expected = dict(zip(layout.names, masks.closure(layout, followed, depth).tolist(), strict=True))
    assert found == expected


@pytest.mark.parametrize(
    "backbone",
    [of if is_mini(of[0]) else pytest.param(of, marks=pytest.mark.slow) for of in BACKBONES],
    indirect=True,
)
def test_the_closure_of_another_mask_disagrees(backbone):
    """Negative control: the pattern found under one mask is not that of a mask with another closure."""
    model, depth = backbone
    layout = plan_for(build(tiny()["formatter"]), model, 2).layout
    followed = {name: model.effective_mask(mask(name)) for name in choices("mask")}
    patterns = {name: masks.closure(layout, table, depth).tolist() for name, table in followed.items()}
    found = list(reach(model, layout, mask("fcd_a")).values())
    assert found == patterns["fcd_a"]
    assert found != patterns["fcd_b"] and found != patterns["fcd_b_literal"]
    assert (found != patterns["fcd_d"]) == (depth == 1), "under A text reaches the condition at depth 2"


@pytest.mark.parametrize("lowering", ["dense", "grouped"])
@pytest.mark.parametrize("name", every_model())
def test_every_lowering_blocks_the_same_gradients(name, lowering):
    config = tiny(f"backbone={name}", **stacks(name)[-1])
    config["backbone"]["lowering"]["_target_"] = f"unigen.core.attention.{lowering}"
    model = backbone_for(config)
    layout = plan_for(build(config["formatter"]), model, 2).layout
    for name in choices("mask"):
        followed = model.effective_mask(mask(name))
        assert list(reach(model, layout, mask(name)).values()) == masks.closure(layout, followed, 2).tolist()
