"""VisualCloze's placement: rows in time, images across; the ids of the public pipeline, and what is no grid."""

from dataclasses import replace

import pytest
import torch
from diffusers.pipelines.visualcloze.pipeline_visualcloze_generation import VisualClozeGenerationPipeline

from unigen.core import canvas
from unigen.core.layout import Geometry, Placement, positions
from unigen.core.types import ImageSlot, Signature
from unigen.formatters.grid import Grid

FLUX = Geometry(8, (1, 2, 2), ("t", "h", "w"), (64, 256, 256))
COGVIDEOX = Geometry(8, (2, 2, 2), ("t", "h", "w"), (11, 150, 150))
FILL, CLEAN = {"example": 1.0, "condition": 1.0, "target": 1.0}, {"example": 0.0, "condition": 0.0, "target": 1.0}
SMALL = ((32, 48), (48, 32), (16, 64))  # (height, width) of each row's images


def slots(sizes=SMALL, images: int = 3, targets: int = 1) -> tuple[ImageSlot, ...]:
    """Rows of these sizes, the last one the query, whose last `targets` images are to be generated."""
    found = []
    for row, (height, width) in enumerate(sizes):
        for i in range(images):
            role = "example" if row < len(sizes) - 1 else "target" if i >= images - targets else "condition"
            found.append(ImageSlot(f"{role}{row}{i}", role, height, width, row=row))
    return tuple(found)


def plan(*where: ImageSlot, geometry: Geometry = FLUX, caps=FILL, **options):
    return Grid(caps, **options)(Signature(where, 8), geometry)


def by_token(where, caps=FILL, geometry: Geometry = FLUX, **options) -> torch.Tensor:
    """Positions of all image tokens, row by row in raster order: the order of the public pipeline."""
    layout = plan(*where, geometry=geometry, caps=caps, **options).layout
    at = positions(layout)[layout.slices["text"].stop :]
    boxes = dict(zip([s.name for s in layout.visual], at.split([s.tokens for s in layout.visual]), strict=True))
    lines = []
    for row in sorted({s.row for s in where}):
        here = [layout[s.name] for s in where if s.row == row]
        lines.append(torch.cat([boxes[s.name].reshape(*s.grid[1:], 3) for s in here], dim=1).reshape(-1, 3))
    return torch.cat(lines)


@pytest.mark.parametrize("sizes", [SMALL, SMALL[:1], ((32, 32), (32, 32))])
def test_ids_are_those_of_the_public_pipeline(sizes):
    """Also for rows of unequal size; tokens in raster order of each row's image, rows after each other."""
    where = slots(sizes)
    rows = [torch.zeros(1, 3, h, 3 * w) for h, w in sizes]
    theirs = VisualClozeGenerationPipeline._prepare_latent_image_ids(rows, 8, "cpu", torch.long)
    assert torch.equal(by_token(where), theirs)
    theirs[:, 0] -= 1
    assert not torch.equal(by_token(where), theirs), "negative control: rows counted from 0"
    swapped = where[1], where[0], *where[2:]
    assert plan(*swapped).layout[where[0].name] != plan(*where).layout[where[0].name], "slot order is the order across"


def test_on_one_canvas_rows_go_on_downwards():
    where = slots()
    at = by_token(where, ids="canvas")
    assert set(at[:, 0].tolist()) == {0}
    by_hand = [
        (0, y, x) for top, h, w in ((0, 2, 9), (2, 3, 6), (5, 1, 12)) for y in range(top, top + h) for x in range(w)
    ]
    assert at.tolist() == [list(p) for p in by_hand]
    assert not torch.equal(at, by_token(where)), "negative control"


def test_roles_have_the_caps_that_are_given():
    where = slots()
    assert {s.cap for s in plan(*where).layout.visual} == {1.0}
    clean = plan(*where, caps=CLEAN, encode="cell").layout
    assert {s.role: s.cap for s in clean.segments} == {"text": 0.0, **CLEAN}
    assert Grid(FILL).roles == ("text", "example", "condition", "target")


@pytest.mark.parametrize(
    ("encode", "canvases", "last"),
    [
        ("row", 3, Placement("target22", 2, 0, 64)),
        ("cell", 9, Placement("target22", 8, 0, 0)),
        ("canvas", 1, Placement("target22", 0, 64, 64)),
    ],
)
@pytest.mark.parametrize("ids", ["rows", "canvas"])
def test_what_the_codec_sees_as_one_image(encode, canvases, last, ids):
    """Whatever the ids; and cutting undoes stitching, pixel for pixel."""
    where = slots([(32, 32)] * 3)
    found = plan(*where, encode=encode, ids=ids)
    assert len({p.canvas for p in found.placements}) == canvases and found.placements[-1] == last
    g = torch.Generator().manual_seed(0)
    images = {s.name: torch.randint(0, 256, (1, 1, 3, 32, 32), generator=g, dtype=torch.uint8) for s in where}
    pages = canvas.stitch(images, found)
    boxes = canvas.cut(pages, replace(found, geometry=found.geometry._replace(stride=1)))
    assert all(torch.equal(boxes[n], images[n]) for n in images)
    if encode == "row":
        row = torch.cat([images[s.name] for s in where if s.row == 1], dim=-1)
        assert torch.equal(pages[1], row) and not torch.equal(pages[0], row), "rows are wide pictures, in row order"


def test_a_still_fills_its_temporal_patch_on_a_video_backbone():
    """Tokens and times are as on Flux: what the copies hold is the plan's `padding`."""
    where = slots()
    video, still = (plan(*where, geometry=g, temporal_padding="zero").layout for g in (COGVIDEOX, FLUX))
    assert video == still and {s.origin[0] for s in video.visual} == {1, 2, 3}
    assert plan(*where, temporal_padding="zero", copy_noise="independent").padding == "zero"


def test_several_targets_and_reverse_generation_are_only_roles():
    """Any images of the query may be targets; where they are does not change."""
    few, many = slots(targets=1), slots(targets=3)
    assert [s.role for s in plan(*many).layout.visual[-3:]] == ["target"] * 3
    for a, b in zip(plan(*few).layout.visual, plan(*many).layout.visual, strict=True):
        assert (a.grid, a.origin) == (b.grid, b.origin)


A, B = ImageSlot("a", "condition", 32, 32), ImageSlot("b", "target", 32, 32)
E = ImageSlot("e", "example", 32, 32)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (
            (E, A._replace(row=1), B._replace(row=1)),
            "row 0 has 1 (e) and row 1, the query, 2 (a, b); all rows must have equally many images",
        ),
        ((A,), "row 0, the query, has 1 (a) and no target"),
        (
            (A, B, A._replace(name="c", row=1), B._replace(name="d", row=1)),
            "'b' of row 0 is a target; only the last row, 1, may have any",
        ),
        ((A, B._replace(height=48)), "the images of row 0 must be equally high, but are 'a' 32×32, 'b' 48×32"),
        (
            (A._replace(height=40), B._replace(height=40)),
            "slot 'a' is 40×32 pixels (data.size); sides must be multiples",
        ),
        ((A, B._replace(frames=2)), "slot 'b' has 2 frames; formatter 'grid' places stills alone"),
        ((A._replace(role="painting"), B), "formatter 'grid' has no place for role 'painting' of slot 'a'"),
    ],
)
def test_what_is_no_grid_is_said(where, said):
    with pytest.raises(ValueError) as caught:
        plan(*where)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sizes", "images", "options", "said"),
    [
        ([(16, 16)] * 11, 1, {}, "11 rows of 1 images take 12 temporal positions; the backbone holds 11"),
        ([(16, 16)], 151, {}, "1 rows of 151 images take 151 positions wide; the backbone holds 150"),
        ([(800, 16)] * 4, 1, {"ids": "canvas"}, "4 rows of 1 images take 200 positions high; the backbone holds 150"),
    ],
)
def test_a_grid_beyond_the_backbones_positions_is_refused(sizes, images, options, said):
    with pytest.raises(ValueError, match=f"formatter 'grid': {said}"):
        plan(*slots(sizes, images), geometry=COGVIDEOX, **options)
    assert plan(*slots(sizes, images), geometry=FLUX, **options).layout.visual, "a larger reach holds it"


def test_wrong_words_and_unequal_rows_on_one_canvas_are_refused():
    for key, words in {"ids": "rows, canvas", "encode": "row, cell, canvas", "copy_noise": "same, independent"}.items():
        with pytest.raises(ValueError, match=f"formatter.{key} is 'x'; legal are {words}"):
            plan(A, B, **{key: "x"})
    with pytest.raises(ValueError, match=r"formatter\.encode is 'canvas', but rows are 96, 144, 192 pixels wide"):
        plan(*slots(), encode="canvas")


@pytest.mark.parametrize(
    ("caps", "encode", "culprit"),
    [
        (CLEAN, "row", "condition"),
        (CLEAN, "canvas", "example"),
        ({**CLEAN, "condition": 1.0}, "row", None),  # an example lies in no image with a target
        ({**CLEAN, "condition": 1.0}, "canvas", "example"),
        (CLEAN, "cell", None),
        (FILL, "canvas", None),
    ],
)
def test_nothing_clean_is_encoded_in_one_image_with_a_target(caps, encode, culprit):
    """A codec looks beyond an image's borders: the condition would show some of what is to be generated."""
    if culprit is None:
        assert Grid(caps, encode=encode).encode == encode
        return
    with pytest.raises(
        ValueError, match=f"one image with role '{culprit}', whose noise ceiling .* is 0: .*encode=cell"
    ):
        Grid(caps, encode=encode)
