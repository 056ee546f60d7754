"""The order of a sample's columns, its prompt, and the numbers of example rows, in both readers of a graph's tasks."""

import itertools
import pickle
from collections import Counter

import pytest
import yaml
from PIL import Image
from tiny import CONF

from datamodules.emoji.data import EmojiGraphData
from datamodules.emoji.names import caption
from datamodules.graph.columns import Columns, row_shares_of
from datamodules.graph.graph import AnnotationGraph
from datamodules.graph.instructions import Instructions, ShortInstructions
from datamodules.graph.keyed import FormBatchSampler
from datamodules.graph.sampling import Task
from unigen.core.types import Sample
from unigen.tools.preview.gathering import columns_of

STYLED = Task(("reference", "canny", "line_ref"), ("line",), "group", "meta")


def emoji(**options) -> EmojiGraphData:
    config = yaml.safe_load((CONF / "graph" / "emoji.yaml").read_text())
    graph = AnnotationGraph(**{key: value for key, value in config.items() if key != "_target_"})
    return EmojiGraphData(**{"graph": graph, "batch_size": 1, "size": 16} | options)


# --- columns --------------------------------------------------------------------------------------------------------


def test_conditions_stand_in_every_order_equally_often_and_targets_last():
    columns = Columns(shuffle=True)
    found = Counter(columns.order(STYLED, seed).images for seed in range(3000))
    assert len(found) == 6 and all(abs(count - 500) < 100 for count in found.values())
    assert {order[-1] for order in found} == {"line"}
    first = Counter(order[0] for order in found.elements())
    assert min(first.values()) > 900, "a style reference is a condition like the others"
    assert {Columns().order(STYLED, seed) for seed in range(50)} == {STYLED}, "negative control"


def test_nothing_is_shuffled_in_evaluation():
    assert {Columns(shuffle=True, training=False).order(STYLED, seed) for seed in range(50)} == {STYLED}


def test_all_rows_of_a_sample_have_the_order_that_its_key_and_its_prompt_say(folder):
    options = {"tasks": ["reference+canny+line_ref>line"], "rows": [2, 2], "limit": 240, "cache": folder}
    data = emoji(shuffle_columns=True, instruction=ShortInstructions(0.0, 0.0), **options)
    data.prepare_data()
    dataset, seen = data.dataset("train", data.forms), set()
    words = {"reference": "subject", "canny": "edges", "line_ref": "line style"}
    for i in range(24):
        item = ("2 rows of 3>1", i, 70 + i)
        sample, (task, rows) = dataset[item], dataset.plan(item)
        order = sample.key.split("/")[1].split(">")[0].split("+")
        shown = [data.records.image(name, row) for row in rows for name in [*order, "line"]]
        for slot, image in zip(sample.slots, shown, strict=True):
            assert (sample.images[slot.name][0].numpy() == image).all()
        assert sample.prompt == f"3x4: {', '.join(words[name] for name in order)} > line art."
        assert sample.task == task.name == "reference+canny+line_ref>line", "the task is its own whatever the order"
        seen.add(tuple(order))
    assert len(seen) > 3
    still = emoji(**options).dataset("train", data.forms)
    assert {still[("2 rows of 3>1", i, 70 + i)].key.split("/")[1] for i in range(8)} == {task.name}
    assert dataset.plan(item)[1] == still.plan(item)[1], "the shuffle changes nothing else"
    assert pickle.loads(pickle.dumps(dataset))[item].key == sample.key


# --- prompts --------------------------------------------------------------------------------------------------------


def test_prompts_of_a_split(folder):
    """Training leaves parts out, the test says them all; without instructions prompts are captions."""
    options = {"tasks": ["canny>target"], "rows": [0, 1], "limit": 240, "cache": folder, "test_items": 20}
    data = emoji(instruction=Instructions(), **options)
    data.prepare_data()
    trained = [batch.prompts[0] for batch in itertools.islice(data.train_dataloader(), 40)]
    again = [batch.prompts[0] for batch in itertools.islice(data.train_dataloader(), 40)]
    assert trained == again and 10 < sum("[IMAGE1]" in prompt for prompt in trained) < 40
    assert len(set(trained)) > 35
    tested = [(batch.prompts[0], batch.keys[0].split("/")[0]) for batch in data.test_dataloader()]
    assert all("[IMAGE2]" in prompt and prompt.endswith(caption(glyph)) for prompt, glyph in tested)
    assert [prompt for prompt, _ in tested] == [batch.prompts[0] for batch in data.test_dataloader()]
    bare = emoji(**options)
    assert [batch.prompts[0] for batch in bare.test_dataloader()] == [caption(glyph) for _, glyph in tested]


def test_an_instruction_describes_the_last_image():
    edit = Task(("target",), ("canny", "skin_tone"), "group", "meta")
    assert Columns(Instructions()).told(edit) == "skin_tone" and Columns().told(edit) == "canny"


def test_an_image_of_ones_own_is_asked_for_as_in_training(tmp_path):
    Image.new("RGB", (16, 16), "red").save(path := tmp_path / "red.png")
    said = [
        emoji(tasks=["canny>target"], instruction=form).user_sample(str(path), "red apple", ("apple",), task, False)
        for form in (ShortInstructions(), None)
        for task in ("canny>target", "target>canny")
    ]
    assert [sample.prompt for sample in said[:2]] == ["1x2: edges > picture. red apple", "1x2: picture > edges."]
    assert {sample.prompt for sample in said[2:]} == {"red apple"}


# --- example rows ---------------------------------------------------------------------------------------------------


def counted(data: EmojiGraphData, n: int) -> Counter:
    batches = FormBatchSampler(data.keyed_batches(len(data.emoji.indices["train"])), data.forms)
    return Counter(int(batch[0][0][0]) for batch in itertools.islice(batches, n))


def test_example_rows_are_drawn_by_their_shares():
    counts = counted(emoji(row_shares=[0.3, 0.4, 0.3]), 6000)
    assert all(abs(counts[rows] / 6000 - share) < 0.025 for rows, share in enumerate((0.3, 0.4, 0.3)))
    equal = counted(emoji(), 6000)
    assert all(abs(equal[rows] / 6000 - 1 / 3) < 0.025 for rows in range(3)), "negative control"


def test_the_test_may_have_other_rows_on_the_same_queries(folder):
    options = {"limit": 240, "cache": folder, "test_items": 12, "batch_size": 4, "tasks": ["canny>target"]}
    keys, queries = [], []
    for test_rows in ([0, 0], [2, 2], None):
        data = emoji(test_rows=test_rows, **options)
        data.prepare_data()
        batches = list(data.test_dataloader())
        rows = {batch.slots[-1].row for batch in batches}
        assert rows == (set(range(3)) if test_rows is None else {test_rows[0]})
        keys.append([key for batch in batches for key in batch.keys])
        queries.append([batch.images["target"].sum().item() for batch in batches])
        assert {form.rows for form in data.forms.values()} == {0, 1, 2}, "training is as ever"
    assert keys[0] == keys[1] and queries[0] == queries[1]
    named = emoji(test_rows=[1, 1], test_tasks=["canny>target"], **options)
    assert {batch.slots[-1].row for batch in named.test_dataloader()} == {1}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"row_shares": [0.5, 0.5]}, "row_shares=.* must be 3 numbers above 0, .* from 0 to 2"),
        ({"row_shares": [0.5, 0.5, 0]}, "numbers above 0"),
        ({"row_shares": "abc"}, "row_shares='abc'"),
        ({"test_rows": [2, 1]}, r"test_rows=\[2, 1\] must be \[least, most\]"),
        ({"test_rows": 2}, "test_rows=2"),
    ],
)
def test_wrong_rows_are_refused(options, words):
    assert row_shares_of([0, 2], [1, 1, 2], [4, 4]) == {
        "train": {0: 0.25, 1: 0.25, 2: 0.5},
        "val": {0: 0.25, 1: 0.25, 2: 0.5},
        "test": {4: 1.0},
    }
    with pytest.raises(ValueError, match=words):
        emoji(**options)


def test_the_preview_names_images_in_the_order_in_which_they_stand():
    sample = Sample((), {}, "", (), "reference+canny>target", "1f34e/canny+reference>target")
    assert columns_of(sample) == "canny+reference>target"
    assert columns_of(sample._replace(key="user")) == "reference+canny>target", "a key that does not say it"
