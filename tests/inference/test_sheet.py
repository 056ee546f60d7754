"""A sheet of a run's own held-out samples: which tasks and items it shows, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import command, small, train

from unigen.config.values import ConfigError, read_config
from unigen.inference import sheet

GRAPH = ("+exp=visualcloze_dev", "backbone.config.axes_dims_rope=[4,6,6]", "data.rows=[0,1]", "trainer.max_steps=1")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run of a graph's tasks, whose test is of two of them."""
    folder = tmp_path_factory.mktemp("runs") / "graph"
    tested = 'data.test_tasks=["canny>target","grey>target"]'
    train(small(folder, *GRAPH, tested, "evaluation.items=8"))
    return folder


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "plain"
    train(small(folder, "+exp=fcd_mask_a", "trainer.max_steps=1"))
    return folder


def data_of(run_dir, **given):
    data = sheet.held_out({"run": str(run_dir), **given}, read_config(run_dir)["data"])
    data.prepare_data()
    data.setup("test")
    return data


def test_every_task_of_the_test_is_drawn_on_other_items(run_dir):
    found = list(sheet.batches(data_of(run_dir, items="2")))
    assert [set(batch.tasks) for batch in found] == [{"canny>target"}, {"grey>target"}]
    first, second = (set(batch.keys) for batch in found)
    assert len(first) == len(second) == 2 and not first & second


def test_tasks_and_examples_are_those_that_are_asked_for(run_dir):
    [batch] = sheet.batches(data_of(run_dir, items="1", tasks="[mask>target]", examples="1"))
    assert batch.tasks == ["mask>target"] and sum(slot.role == "example" for slot in batch.slots) == 2
    [bare] = sheet.batches(data_of(run_dir, items="1", tasks="[mask>target]", examples="0"))
    assert not any(slot.role == "example" for slot in bare.slots), "negative control"


def test_the_sheet_shows_each_truth_beside_its_output(run_dir, tmp_path, capfd):
    out = tmp_path / "made" / "sheet.png"
    words = ("sheet=true", "items=2", "steps=1", f"out={out}")
    assert command("sample.py", f"run={run_dir}", *words) == 0
    assert capfd.readouterr().out.strip() == f"sheet: {out}"
    page = np.asarray(Image.open(out))
    batch = next(sheet.batches(data_of(run_dir, items="2")))
    big = np.asarray(sheet._image(batch.images["target"][0]))
    places = [
        x
        for x in range(page.shape[1] - big.shape[1])
        if np.array_equal(page[26 : 26 + len(big), x : x + len(big)], big)
    ]
    assert len(places) == 1, "the first truth is there once"
    left = places[0] - big.shape[1] - sheet.GAP
    assert not np.array_equal(page[26 : 26 + len(big), left : left + len(big)], big), "beside it is the output"


def test_a_clip_and_several_targets_have_room():
    shown = [(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), 128), (torch.zeros(3, 3, 32, 32, dtype=torch.uint8), 384)]
    images = [sheet._image(x) for x, _ in shown]
    assert [image.width for image in images] == [wide for _, wide in shown]
    page = sheet.drawn([sheet.Band("a>b", ["a", "output"], [(images, "a prompt " * 40)])])
    assert page.width >= sheet.LABEL + 128 + 384 and page.height > 128 + sheet.HEADING + 3 * sheet.LINE


def test_without_a_test_of_its_own_a_run_draws_its_first_tasks_and_says_so(tmp_path, capfd):
    train(small(tmp_path / "run", *GRAPH))
    found = data_of(tmp_path / "run", items="1")
    assert len(found.test_tasks) == sheet.TASKS and "the first 10 of" in capfd.readouterr().err


def test_a_run_of_one_task_draws_it(plain_run, tmp_path):
    out = tmp_path / "sheet.png"
    assert command("sample.py", f"run={plain_run}", "sheet=true", "items=1", "steps=1", f"out={out}") == 0
    assert Image.open(out).height < 250


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sheet=yes",), "sheet=yes is not true"),
        (("sheet=true", "condition=a.png"), "only one of"),
        (("sheet=true", "items=0"), "items=0 is not a whole number of at least 1"),
        (("sheet=true", "out=sheet.jpg"), "out=sheet.jpg is no .png"),
        (("sheet=true", "tasks=[nothing]"), "nothing"),
        (("items=2", "condition=a.png"), "items= goes with sheet="),
    ],
)
def test_what_cannot_be_is_one_sentence(words, said, run_dir, capfd):
    assert command("sample.py", f"run={run_dir}", *words) == 1
    error = capfd.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(("word", "key"), [("tasks", "test_tasks"), ("examples", "test_rows")])
def test_data_of_one_task_have_no_choice(word, key):
    with pytest.raises(ConfigError, match=f"run=r has data without {key}; leave {word}= out"):
        sheet.held_out({"run": "r", word: "1"}, {"_target_": "mine.Data"})
