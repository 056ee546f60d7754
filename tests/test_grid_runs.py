"""The grid on CogVideoX by configuration alone: whole small runs, with one row and with in-context rows."""

import pytest
from PIL import Image
from small_runs import small, summary, train
from tiny import CONF, composed

from unigen.preflight import preflight
from unigen.types import ImageSlot

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


def test_frames_have_no_place_for_in_context_rows(tmp_path):
    """Negative control: it is the formatter that makes the difference."""
    with pytest.raises(ValueError, match="formatter 'frames' has no place for role 'example'"):
        train(small(tmp_path, "+exp=fcd_mask_a", *GRAPH))


def test_the_words_of_a_grid_pass_the_preflight():
    for words in (["formatter=grid"], ["fill=code", "loss=flow_all", "process=rectified_flow_shifted", "solver=euler"]):
        preflight(CONF, ["+exp=fcd_mask_a", *words])
    assert composed("fill=code")["fill"]["rule"] == "code" and composed().get("fill") is None
