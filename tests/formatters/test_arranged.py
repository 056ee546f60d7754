"""Several formatters as one: the sample says which places it."""

import pytest
from tiny import composed

from datamodules.graph.columns import arrangement_shares, grid_slots
from unigen.core.layout import Geometry
from unigen.core.types import Signature
from unigen.formatters.arranged import Arranged
from unigen.formatters.grid import Grid
from unigen.pipeline.build import build

GEOMETRY = Geometry(8, (1, 1, 1), ("t", "h", "w"), (11, 150, 150))


def places(arrangement: str) -> list[tuple]:
    made = build(composed("formatter=arranged")["formatter"])
    slots = grid_slots(1, 1, 1, 64, arrangement)
    return [s.origin for s in made(Signature(slots, 3), GEOMETRY).layout.visual]


def test_the_sample_says_how_it_is_placed():
    one, other = (build(composed(f"formatter={name}")["formatter"]) for name in ("frames", "grid_clean"))
    slots = grid_slots(1, 1, 1, 64)
    for arrangement, alone in (("", one), ("frames", one), ("grid", other)):
        assert places(arrangement) == [s.origin for s in alone(Signature(slots, 3), GEOMETRY).layout.visual]
    assert places("frames") == [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0)] != places("grid"), "negative control"


def test_what_no_way_knows_is_refused():
    with pytest.raises(ValueError, match=r"a sample wants the arrangement 'row'; formatter\.ways knows frames, grid"):
        places("row")
    ways = {"grid": Grid({"condition": 1, "target": 1}), "other": Grid({"example": 1, "condition": 1, "target": 1})}
    with pytest.raises(ValueError, match=r"formatter\.ways\.other has the roles text, example, condition, target"):
        Arranged(ways, "grid")
    with pytest.raises(ValueError, match=r"formatter\.usual is 'row'; legal are grid, other"):
        Arranged(ways, "row")


def test_shares_of_arrangements():
    assert arrangement_shares(None, None) == {split: {"": 1.0} for split in ("train", "val", "test")}
    found, mixed = arrangement_shares({"frames": 3, "grid": 1}, {"grid": 1}), {"frames": 0.75, "grid": 0.25}
    assert found == {"train": mixed, "val": mixed, "test": {"grid": 1}}
    for wrong in ({}, {"frames": 0}, {"frames": True}, ["frames"]):
        with pytest.raises(ValueError, match="must be null or shares above 0"):
            arrangement_shares(wrong, None)


def test_batches_have_one_arrangement_each_by_their_shares(tmp_path):
    node = composed("data.tasks=['canny>target']", "task=graph", "conditioning/embedding=none")["data"]
    node |= {"arrangements": {"frames": 1, "grid": 3}, "test_arrangements": {"grid": 1}, "rows": [0, 0]}
    data = build(node)
    assert {name: form.share for name, form in data.forms.items()} == {
        "0 rows of 1>1 as frames": pytest.approx(0.25 * sum(f.share for f in data.forms.values())),
        "0 rows of 1>1 as grid": pytest.approx(0.75 * sum(f.share for f in data.forms.values())),
    }
    assert {slot.arrangement for slot in data.slots} <= {"frames", "grid"}
