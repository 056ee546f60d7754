"""Rows of files as a sample: slots by place, roles by what is missing, sizes by the rule of rows."""

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.graph.instructions import ShortInstructions
from datamodules.graph.rows import fit_rows
from datamodules.graph.visual_prompt import instructed, prompt_slots, visual_prompt
from unigen.core.types import ImageSlot


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    rng = np.random.default_rng(0)
    paths = {}
    for name, size in {"a": (40, 40), "b": (60, 30), "c": (30, 60)}.items():
        paths[name] = str(tmp_path / f"{name}.png")
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(paths[name])
    return paths


def read(path: str) -> np.ndarray:
    return np.asarray(Image.open(path)).transpose(2, 0, 1)


def test_a_sample_has_the_images_as_the_rule_sizes_them(files):
    a, b, c = files["a"], files["b"], files["c"]
    sample = visual_prompt([[b, a], [c, None]], 64, "a cat", ("cat",), "canny>target")
    assert [slot.name for slot in sample.slots] == ["example0_condition", "example0_target", "condition", "target"]
    (first, second), (third, _) = fit_rows([[read(b), read(a)], [read(c), None]], 64)
    for name, image in {"example0_condition": first, "example0_target": second, "condition": third}.items():
        assert torch.equal(sample.images[name], torch.from_numpy(image)[None])
    assert sample.images["target"].shape == sample.images["condition"].shape and not sample.images["target"].any()
    assert first.shape != third.shape, "rows keep their own shape"
    for slot in sample.slots:
        assert sample.images[slot.name].shape == (1, 3, slot.height, slot.width)
    assert (sample.prompt, sample.subjects, sample.task, sample.key) == ("a cat", ("cat",), "canny>target", "user")


def test_an_animation_in_the_rows_is_said(files, tmp_path):
    frames = [Image.open(files["a"]), Image.open(files["a"]).rotate(90)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match=r"moving\.webp' is an animation, of which the first frame alone is used"):
        visual_prompt([[str(tmp_path / "moving.webp"), None]], 64, "a cat", ("cat",), "canny>target")


def test_slots_are_the_graphs_for_a_task_of_that_form(files):
    """Negative control below: what is wanted decides, and not the place."""
    from datamodules.emoji.samples import forms_of
    from datamodules.graph.sampling import Task

    def names(slots: tuple[ImageSlot, ...]) -> list[tuple]:
        return [(slot.name, slot.role, slot.row) for slot in slots]

    for parts in (("canny",), ("target",)), (("canny", "grey"), ("target",)), (("target",), ("canny", "mask")):
        (form,) = forms_of({Task(*parts, "maps", "maps"): 1.0}, [2]).values()
        generated = [False] * len(parts[0]) + [True] * len(parts[1])
        assert names(prompt_slots(generated, [(16, 16)] * 3)) == names(form.slots(16))
    reverse = prompt_slots([True, False], [(16, 16)] * 3)
    assert names(reverse)[-2:] == [("target", "target", 2), ("condition", "condition", 2)]


def test_several_wanted_images_are_numbered_in_order():
    slots = prompt_slots([True, False, True], [(32, 16), (16, 48)])
    assert [slot.name for slot in slots[3:]] == ["target0", "condition", "target1"]
    assert slots[0] == ImageSlot("example0_target0", "example", 16, 32, 1, 0)
    assert slots[-1] == ImageSlot("target1", "target", 48, 16, 1, 1)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([["gone"], ["a", None]], "row 0 has 1 images"),
        ([["gone", "gone"], ["gone", "gone"]], "the last row, 1, has all of its 2 images"),
        ([["a", None], ["a", None]], "image 1 of row 0 is missing"),
        ([["a", "gone"], ["a", None]], "cannot read image 'gone': there is no such file"),
    ],
)
def test_what_is_wrong_with_the_rows_is_said_before_a_file_is_missed(files, rows, said):
    with pytest.raises(ValueError, match=said):
        visual_prompt([[files.get(name, name) for name in row] for row in rows], 64, "", (), "")


@pytest.mark.parametrize(
    ("query", "columns", "said"),
    [
        ("c.", "canny target", "2x2: edges > picture. a red cat"),
        (".c", "canny target", "2x2: edges > picture. a red cat"),
        ("a..", "target canny grey", "2x3: picture > edges, grey."),
        ("a.c", "target canny grey", "2x3: picture, edges > grey."),
        ("..", "target canny", "2x2: picture > edges."),
    ],
)
def test_a_visual_prompt_is_instructed_as_in_training(query, columns, said):
    """A condition that is left out does not change the text; several images at the end are several targets."""
    rows = [["x"] * len(query), [None if cell == "." else cell for cell in query]]
    assert instructed(rows, columns.split(), "a red cat", "cat", ShortInstructions()) == said


def test_every_column_is_named():
    with pytest.raises(ValueError, match=r"columns=\['canny'\] names 1 images, but a row has 2"):
        instructed([["a", None]], ["canny"], "", "", ShortInstructions())
