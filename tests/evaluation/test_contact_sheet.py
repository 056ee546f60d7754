"""The sheet of a benchmark of several tasks: every task on an item of its own, with all its images."""

from types import SimpleNamespace

import numpy as np
from PIL import Image

from unigen.evaluation.contact_sheet import FILE, GAP, HEADING, SIDE, TITLE, write_sheet

TASKS = {
    "canny>target": ("condition",),
    "reference+canny>target": ("condition0", "condition1"),
    "target>line": ("condition",),
}
SHADE = {"condition": 40, "condition0": 60, "condition1": 80, "output": 100, "truth": 120}


def gallery(folder, tasks, items=2):
    """A gallery whose images are grey by their name, plus the number of their item."""
    records = []
    for task, conditions in tasks.items():
        for item in range(items):
            files = {name: f"{task}_{item}_{name}.png" for name in (*conditions, "output", "truth", "through_codec")}
            for name, file in files.items():
                Image.new("RGB", (64, 64), (SHADE.get(name, 0) + item,) * 3).save(folder / file)
            records.append({"task": task, "image": 0, "files": files})
    return SimpleNamespace(folder=folder, ordered=lambda: records)


def shades(folder, top, wide, high, block, count):
    """The grey values in the middle of the images, block by block."""
    page = np.asarray(Image.open(folder / FILE))[..., 0]
    middle = [[top + line * high + SIDE // 2, GAP + left * block] for line in range(3) for left in range(2)][:count]
    return [
        [int(page[y, x + k * wide + SIDE // 2]) for k in range(4) if x + k * wide + SIDE // 2 < page.shape[1]]
        for y, x in middle
    ]


def test_every_task_is_shown_in_turn_with_all_its_images(tmp_path):
    write_sheet(gallery(tmp_path, TASKS))
    wide, above = 128 + GAP, TITLE + HEADING  # images of 64 pixels are shown twice as large
    found = shades(tmp_path, above, wide, above + wide, 4 * wide + GAP, 6)
    assert found[0][:3] == [40, 100, 120] and found[1] == [61, 81, 101, 121] and found[2][:3] == [40, 100, 120]
    assert found[3][:3] == [41, 101, 121] and found[4] == [60, 80, 100, 120], "then the other items"


def test_one_task_has_one_heading(tmp_path):
    write_sheet(gallery(tmp_path, {"canny>target": ("condition",)}))
    page = Image.open(tmp_path / FILE)
    assert page.size == (2 * (3 * (128 + GAP) + GAP), HEADING + 128 + GAP)
    write_sheet(gallery(tmp_path, TASKS))
    assert Image.open(tmp_path / FILE).size != page.size, "negative control"
