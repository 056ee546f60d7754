"""The rotary table equals diffusers' own for CogVideoX1.5, axis by axis."""

import pytest
import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed

from unigen.core.layout import Layout, Segment, positions
from unigen.nn.rope import layout_rotary, rotary


@pytest.mark.parametrize(("width", "widths"), [(16, (4, 6, 6)), (32, (8, 12, 12)), (64, (16, 24, 24))])
@pytest.mark.parametrize("grid", [(1, 2, 3), (2, 32, 32), (5, 4, 7)])
def test_rotary_equals_the_stock_table(width, widths, grid):
    ids = positions(Layout((Segment("x", "target", "visual", grid),)))
    stock = get_3d_rotary_pos_embed(width, None, grid[1:], grid[0], grid_type="slice", max_size=(150, 150))
    for ours, theirs in zip(rotary(ids, widths), stock, strict=True):
        assert torch.equal(ours, theirs) and ours.dtype == torch.float32
    turned = rotary(ids[:, [0, 2, 1]], widths)
    assert not torch.equal(turned[0], stock[0]), "negative control: rows and columns exchanged"


def test_frames_after_each_other_are_one_clip():
    boxes = tuple(Segment(f"x{i}", "target", "visual", (1, 2, 3), origin=(i, 0, 0)) for i in range(3))
    clip = Layout((Segment("x", "target", "visual", (3, 2, 3)),))
    args = ((4, 6, 6), 10_000.0, torch.device("cpu"))
    cos, sin = layout_rotary(Layout(boxes), *args)
    assert torch.equal(cos, layout_rotary(clip, *args)[0]) and torch.equal(sin, layout_rotary(clip, *args)[1])
    assert not torch.equal(cos, layout_rotary(Layout(boxes[::-1]), *args)[0]), "negative control"


def test_the_kept_table_is_a_normal_tensor_on_the_cpu():
    """It outlives the call that came first, be that in inference mode or on the meta device."""
    layout = Layout((Segment("first seen here", "target", "visual", (1, 5, 5)),))
    with torch.inference_mode(), torch.device("meta"):
        cos, _ = layout_rotary(layout, (4, 6, 6), 10_000.0, torch.device("cpu"))
    assert not cos.is_inference() and not cos.is_meta and not positions(layout).is_inference()
