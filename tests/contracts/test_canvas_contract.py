"""paste(cut(z)) == z for every formatter: what the codec saw as one image is put together again, bit for bit."""

import pytest
import torch
from tiny import choices, every_model, placing, plan_for, slots, tiny

from unigen.core import canvas
from unigen.pipeline.build import build


@pytest.fixture(scope="module", params=every_model())
def backbone(request):
    return build(tiny(f"backbone={request.param}")["backbone"])


@pytest.mark.parametrize("conditions", [1, 2])
@pytest.mark.parametrize("formatter", choices("formatter"))
def test_paste_undoes_cut(backbone, formatter, conditions):
    placed = placing(formatter)
    plan, where = plan_for(placed, backbone, conditions), slots(conditions, placed.roles)
    pixels = {s.name: torch.randn(2, s.frames, 3, s.height, s.width) for s in where}
    latents = [page[..., ::8, ::8].clone() for page in canvas.stitch(pixels, plan)]
    boxes = canvas.cut(latents, plan)
    assert {n: b.shape[-2:] for n, b in boxes.items()} == {s.name: (s.height // 8, s.width // 8) for s in plan.slots}
    pasted = canvas.paste(boxes, plan)
    assert len(pasted) == len(latents)
    assert all(torch.equal(a, b) for a, b in zip(pasted, latents, strict=True))
    boxes["target"] = boxes["target"] + 1
    pasted = canvas.paste(boxes, plan)
    assert not all(torch.equal(a, b) for a, b in zip(pasted, latents, strict=True)), "negative control"


@pytest.mark.parametrize("formatter", choices("formatter"))
def test_a_segment_holds_its_slots_tokens(backbone, formatter):
    """The tokens cut from a slot's latent fill exactly the grid that the formatter gave to its segment."""
    placed = placing(formatter)
    plan, where = plan_for(placed, backbone, 2), slots(2, placed.roles)
    for s in where:
        z = torch.randn(1, s.frames, 16, s.height // 8, s.width // 8)
        tokens = canvas.tokens({s.name: z}, plan)[s.name]
        assert tokens.shape[1] == plan.layout[s.name].tokens
