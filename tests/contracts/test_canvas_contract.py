"""paste(cut(z)) == z for every formatter: what the codec saw as one picture is put together again, bit for bit."""

import pytest
import torch
from tiny import choices, plan_for, slots, tiny

from unigen import canvas
from unigen.build import build


@pytest.fixture(scope="module", params=choices("backbone"))
def backbone(request):
    return build(tiny(f"backbone={request.param}")["backbone"])


@pytest.mark.parametrize("conditions", [1, 2])
@pytest.mark.parametrize("formatter", choices("formatter"))
def test_paste_undoes_cut(backbone, formatter, conditions):
    placing = build(tiny(f"formatter={formatter}")["formatter"])
    plan, where = plan_for(placing, backbone, conditions), slots(conditions, placing.roles)
    pixels = {s.name: torch.randn(2, s.frames, 3, s.height, s.width) for s in where}
    latents = [page[..., ::8, ::8].clone() for page in canvas.stitch(pixels, plan, where)]
    boxes = canvas.cut(latents, plan, where, stride=8)
    assert {n: b.shape[-2:] for n, b in boxes.items()} == {s.name: (s.height // 8, s.width // 8) for s in where}
    pasted = canvas.paste(boxes, plan, where, stride=8)
    assert len(pasted) == len(latents)
    assert all(torch.equal(a, b) for a, b in zip(pasted, latents, strict=True))
    boxes["target"] = boxes["target"] + 1
    pasted = canvas.paste(boxes, plan, where, stride=8)
    assert not all(torch.equal(a, b) for a, b in zip(pasted, latents, strict=True)), "negative control"


@pytest.mark.parametrize("formatter", choices("formatter"))
def test_a_segment_holds_its_slots_tokens(backbone, formatter):
    """The tokens cut from a slot's latent fill exactly the grid that the formatter gave to its segment."""
    placing = build(tiny(f"formatter={formatter}")["formatter"])
    plan, where = plan_for(placing, backbone, 2), slots(2, placing.roles)
    for s in where:
        z = torch.randn(1, s.frames, 16, s.height // 8, s.width // 8)
        tokens = canvas.to_tokens(canvas.fill_patch(z, backbone.patch[0], plan.fill), backbone.patch)
        assert tokens.shape[1] == plan.layout[s.name].tokens
