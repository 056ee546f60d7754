"""A sheet of runs and other methods: its columns, what is missing, and what is refused."""

import numpy as np
import pytest
import torch
from made_runs import make_run
from PIL import Image
from small_runs import command

from unigen.evaluation.comparison import GAP, HEADING, SIDE, write_comparison
from unigen.evaluation.gallery import Gallery

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def plain(colour: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, 64, 64)


def evaluated(root, name: str, colour, keys=("a", "b")) -> None:
    """A run whose outputs have one colour."""
    run = make_run(root / name, name, config={"name": name, "table": None})
    gallery = Gallery(run / "evaluation" / "edges")
    gallery.begin({"asked": {}, "protocol": {}, "protocol_hash": "x", "weights": None, "images": len(keys)})
    for item, key in enumerate(keys):
        said = {"item": item, "image": 0, "seed": 0, "key": key, "task": "t", "prompt": f"prompt {key}", "subjects": []}
        shown = {
            "output": plain(colour),
            "truth": plain(BLUE),
            "through_codec": plain(BLUE),
            "condition": plain((9, 9, 9)),
        }
        gallery.add(said, shown)


@pytest.fixture
def made(tmp_path):
    evaluated(tmp_path / "runs", "ours", RED)
    evaluated(tmp_path / "runs", "theirs", (200, 0, 0))
    (tmp_path / "others" / "OmniGen").mkdir(parents=True)
    Image.new("RGB", (512, 512), GREEN).save(tmp_path / "others" / "OmniGen" / "000001_0_output.jpg", quality=100)
    return tmp_path


def at(sheet: np.ndarray, line: int, column: int) -> list[int]:
    """The colour in the middle of an image; prompts take one line here."""
    return sheet[HEADING + line * (SIDE + GAP + 14) + SIDE // 2, GAP + column * (SIDE + GAP) + SIDE // 2].tolist()


def test_every_column_is_where_its_name_is_and_what_is_missing_is_grey_and_named(made, capsys):
    words = ("bench=edges", f"others={made / 'others'}", f"out={made / 'sheet.png'}")
    assert command("compare.py", f"runs={made / 'runs'}", *words) == 0
    sheet = np.asarray(Image.open(made / "sheet.png"))
    assert [at(sheet, 0, k) for k in range(5)] == [[9, 9, 9], [*RED], [200, 0, 0], [0xDD] * 3, [*BLUE]]
    assert at(sheet, 1, 3)[1] > 250 > at(sheet, 1, 3)[0] and at(sheet, 1, 1) == [*RED]
    assert capsys.readouterr().out == f"missing: OmniGen, item 0 (000000_0_output.png)\nsheet: {made / 'sheet.png'}\n"


def test_items_are_chosen(made):
    given = {"runs": str(made / "runs"), "bench": "edges", "others": str(made / "others"), "items": "1"}
    out, missing = write_comparison(given | {"out": str(made / "one.webp")})
    assert missing == [] and Image.open(out).height < 2 * SIDE


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bench": "depth"}, "was evaluated on depth: python experiments/evaluate.py run="),
        ({"items": "0,7"}, "'7' is no item of the benchmark, which has 0 to 1"),
        ({"others": "/nowhere"}, "others=/nowhere is no folder"),
        ({"out": "sheet.txt"}, "out=sheet.txt is no name of an image"),
    ],
)
def test_what_is_refused(made, given, said):
    whole = {"runs": str(made / "runs"), "bench": "edges", "out": str(made / "s.png")} | given
    with pytest.raises(ValueError, match=said):
        write_comparison(whole)


def test_runs_of_other_items_are_refused(made):
    evaluated(made / "runs", "others_items", GREEN, keys=("b", "a"))
    with pytest.raises(ValueError, match=r"item 0 is a in .*ours.* and b in .*others_items"):
        write_comparison({"runs": str(made / "runs"), "bench": "edges", "out": str(made / "s.png")})
