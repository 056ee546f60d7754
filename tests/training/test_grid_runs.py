"""The grid on CogVideoX by configuration alone: whole small runs, with one row and with in-context rows."""

import pytest
import torch
from PIL import Image
from small_runs import small, summary, train
from tiny import CONF, composed, tiny

from unigen.config.preflight import preflight
from unigen.core.canvas import from_tokens
from unigen.core.noise import generator
from unigen.core.types import Batch, ImageSlot
from unigen.pipeline.build import build_pipeline

GRAPH = ("data.rows=[1,2]", "data.test_items=4")


def grid_slots(examples: int) -> tuple[ImageSlot, ...]:
    """canny>target with so many example rows, at 32 pixels: 4 tokens an image."""
    names = [(f"example{row}_{i}", "example", row) for row in range(examples) for i in range(2)]
    query = [("condition", "condition", examples), ("target", "target", examples)]
    return tuple(ImageSlot(name, role, 32, 32, row=row) for name, role, row in [*names, *query])


@pytest.mark.parametrize("formatter", ["grid", "grid_clean"])
def test_the_grid_takes_the_place_of_frames(formatter, tmp_path):
    pipeline = train(small(tmp_path, "+exp=fcd_mask_a", f"formatter={formatter}"))
    first = summary(tmp_path)
    assert (first["name"], first["steps"]) == ("fcd_mask_a", 2) and first["metrics"]
    origin = pipeline.plan(grid_slots(0)).layout["target"].origin
    assert origin == (1, 0, 2), "beside the condition, not after it"


@pytest.mark.parametrize("formatter", ["grid", "grid_clean"])
def test_in_context_rows_of_the_graph(formatter, tmp_path):
    pipeline = train(small(tmp_path, "+exp=fcd_mask_a", f"formatter={formatter}", *GRAPH))
    assert summary(tmp_path)["steps"] == 2
    assert [pipeline.plan(grid_slots(rows)).layout.image_tokens for rows in (0, 1, 2)] == [8, 16, 24]
    with Image.open(sorted(tmp_path.glob("samples/*.png"))[0]) as page:
        assert page.width > 2 * 7 * 96, "two samples beside each other: four examples, condition, output, truth"


@pytest.mark.parametrize("fill", ["replicate", "zero"])
def test_in_context_rows_as_frames(fill, tmp_path):
    """The rows one after another in time, examples first; a whole run, its samples and its metrics."""
    words = ("+exp=cross_frames_examples", "data.tasks=['canny>target']", *GRAPH, f"formatter.temporal_padding={fill}")
    pipeline = train(small(tmp_path, *words))
    assert summary(tmp_path)["steps"] == 2 and summary(tmp_path)["metrics"]["ssim"]["value"] is not None
    for rows in (1, 2):
        frames = pipeline.plan(grid_slots(rows)).layout.visual
        assert [s.origin[0] for s in frames] == list(range(2 * rows + 2)) and frames[-1].role == "target"
        assert [s.cap for s in frames] == [0.0] * (2 * rows + 1) + [1.0]
    with Image.open(sorted(tmp_path.glob("samples/*.png"))[0]) as page:
        assert page.width > 2 * 5 * 96, "the examples are shown beside the condition"


def test_an_example_as_a_frame_is_replicated_like_a_condition():
    """A still fills its temporal patch: with copies of its latents, or with zeros behind them."""
    made = {}
    for fill in ("replicate", "zero"):
        pipeline = build_pipeline(tiny("+exp=cross_frames_examples", f"formatter.temporal_padding={fill}"))
        slots = grid_slots(1)
        pixels = torch.randint(0, 256, (1, 1, 3, 32, 32), generator=generator("pixels"), dtype=torch.uint8)
        batch = Batch(slots, {slot.name: pixels for slot in slots}, ["a cat"], [("cat",)], ["canny>target"])
        made[fill] = pipeline.encode(batch, {}).features
        assert torch.equal(made[fill]["example0_0"], made[fill]["condition"]), fill
    grid = pipeline.plan(slots).layout["example0_1"].grid
    for fill, same in (("replicate", True), ("zero", False)):
        first, second = from_tokens(made[fill]["example0_1"], grid, pipeline.backbone.patch).unbind(1)
        assert torch.equal(first, second) == same and bool(second.any()) == same, fill


def test_frames_without_the_role_have_no_place_for_in_context_rows(tmp_path):
    """Negative control: it is the formatter's table that makes the difference."""
    with pytest.raises(ValueError, match="formatter 'frames' has no place for role 'example'"):
        train(small(tmp_path, "+exp=fcd_mask_a", *GRAPH, "~formatter.caps.example"))


def test_too_many_frames_name_the_keys(tmp_path):
    words = ("+exp=cross_frames_examples", "data.tasks=[style_transfer_with_condition]", *GRAPH)
    with pytest.raises(ValueError, match=r"12 images take 12 temporal positions.*data\.rows.*data\.tasks"):
        train(small(tmp_path, *words))


def test_the_words_of_a_grid_pass_the_preflight():
    for words in (["formatter=grid"], ["fill=code", "loss=flow_all", "process=rectified_flow_shifted", "solver=euler"]):
        preflight(CONF, ["+exp=fcd_mask_a", *words])
    assert composed("fill=code")["fill"]["rule"] == "code" and composed().get("fill") is None
