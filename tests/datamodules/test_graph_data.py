"""EmojiGraphData: what its batches hold, exact resumption, the fixed batches, and what it refuses."""

import itertools
import pickle
from collections import Counter

import pytest
import torch
import yaml
from small_graphs import by_task
from tiny import CONF, composed

from datamodules.emoji.data import EmojiGraphData, apportioned
from datamodules.emoji.names import base_of, caption, subject
from datamodules.emoji.samples import GraphDataset
from datamodules.emoji.splits import split_of
from datamodules.graph.graph import AnnotationGraph
from datamodules.graph.keyed import FormBatchSampler
from unigen.core.types import TARGET, Batch
from unigen.pipeline.build import build


def graph(**changes) -> AnnotationGraph:
    config = yaml.safe_load((CONF / "graph" / "emoji.yaml").read_text())
    return AnnotationGraph(**{key: value for key, value in {**config, **changes}.items() if key != "_target_"})


@pytest.fixture(scope="module")
def whole() -> EmojiGraphData:
    """All glyphs and tasks, one sample a batch; for what needs no images."""
    return EmojiGraphData(graph=graph(), batch_size=1)


@pytest.fixture
def make(folder):
    def build_data(**options) -> EmojiGraphData:
        few = {"size": 16, "limit": 240, "cache": folder, "batch_size": 8, "val_items": 12, "test_items": 6}
        data = EmojiGraphData(**{"graph": graph(), **few, **options})
        data.prepare_data()
        return data

    return build_data


def sampler(data: EmojiGraphData, dataset: GraphDataset) -> FormBatchSampler:
    return FormBatchSampler(data.keyed_batches(len(dataset)), data.forms)


def first(loader, n: int) -> list[Batch]:
    return list(itertools.islice(loader, n))


def same(a: list[Batch], b: list[Batch]) -> bool:
    """Whether two runs of batches are equal in slots, words and pixels."""
    words = [[(x.slots, x.keys, x.prompts, x.tasks) for x in run] for run in (a, b)]
    return words[0] == words[1] and all(
        torch.equal(x.images[name], y.images[name]) for x, y in zip(a, b, strict=True) for name in x.images
    )


# --- what a batch holds ---------------------------------------------------------------------------------------------


def test_a_batch_holds_the_images_of_its_rows(make):
    data = make(rows=[1, 2])
    dataset = data.dataset("train", data.forms)
    names, forms = data.records.images.names, set()
    for items, batch in zip(sampler(data, dataset), first(data.train_dataloader(), 12), strict=False):
        (form,) = {name for name, _, _ in items}
        forms.add(form)
        assert batch.slots == data.forms[form].slots(16) and len(batch) == 8
        for i, item in enumerate(items):
            task, rows = dataset.plan(item)
            images = [data.records.image(name, row) for row in rows for name in task.images]
            for slot, image in zip(batch.slots, images, strict=True):
                assert torch.equal(batch.images[slot.name][i, 0], torch.tensor(image))
            query = rows[-1].glyph
            assert batch.tasks[i] == task.name and batch.keys[i] == f"{names[query]}/{task.name}"
            assert batch.subjects[i][0] in batch.prompts[i]
    assert len(forms) > 3


def test_a_batch_has_several_tasks(make):
    batches = first(make().train_dataloader(), 20)
    assert max(len(set(batch.tasks)) for batch in batches) > 3


# task overlay -> which drawings its samples show, of `emoji_cache.KINDS`: condition and target
OVERLAYS = {
    "canny": {("canny", "twemoji")},
    "line": {("line", "openmoji")},
    "colour": {("grey", "twemoji")},
    "subject": {("openmoji", "twemoji"), ("twemoji", "openmoji")},
}


@pytest.mark.parametrize("name", list(OVERLAYS))
def test_a_task_overlay_shows_pairs_of_drawings(folder, name):
    few = {"size": 16, "limit": 240, "cache": str(folder), "batch_size": 8}
    data = build({**composed(f"task={name}")["data"], **few})
    data.prepare_data()
    images, found = data.emoji.images, Counter()
    for batch in first(data.train_dataloader(), 10):
        assert batch.slots == data.slots and [slot.name for slot in batch.slots] == ["condition", "target"]
        for i, key in enumerate(batch.keys):
            glyph, task = key.split("/")
            shown = tuple({"target": "twemoji"}.get(side, side) for side in task.split(">"))
            assert batch.tasks[i] == task in data.tasks and split_of(base_of(glyph)) == "train"
            assert batch.prompts[i] == caption(glyph) and batch.subjects[i] == (subject(glyph),)
            for slot, kind, other in (("condition", *shown), ("target", *shown[::-1])):
                drawn = [torch.tensor(images.image(k, images.names.index(glyph))) for k in (kind, other)]
                assert torch.equal(batch.images[slot][i, 0], drawn[0])
                assert not torch.equal(batch.images[slot][i, 0], drawn[1]), "negative control"
            found[shown] += 1
    assert set(found) == OVERLAYS[name] and min(found.values()) > 20


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ({"tasks": ["canny>target", "jpeg>target"]}, 1),
        ({"tasks": ["mask>target"]}, 2),
        ({"tasks": ["sobel>target"]}, 2),
        ({"tasks": ["canny+colour_layer_ref>colour_layer"]}, 2),
        ({"tasks": ["canny>target"], "test_tasks": ["mask>target"]}, 2),
    ],
)
def test_the_layers_are_drawn_where_a_task_needs_them(tmp_path, options, files):
    EmojiGraphData(graph=graph(), size=16, limit=60, rows=[0, 0], cache=tmp_path, **options).prepare_data()
    assert len(list(tmp_path.glob("*.npy"))) == files


def test_the_prompt_of_an_edit_tells_what_it_leads_to():
    data = EmojiGraphData(graph=graph(), tasks=["target>skin_tone", "skin_tone>target"], rows=[1, 1], size=256)
    dataset, names, told = data.dataset("train", data.forms), data.emoji.images.names, Counter()
    for i in range(12):
        item = ("1 rows of 1>1", i, 50 + i)
        task, rows = dataset.plan(item)
        sample = dataset[item]
        result = names[data.records.shown(task.targets[0], rows[-1])]
        assert sample.prompt == caption(result) and sample.subjects == (subject(result),)
        told[task.name, sample.prompt == caption(names[rows[-1].glyph])] += 1
    assert set(told) == {("target>skin_tone", False), ("skin_tone>target", True)}


# --- keyed ----------------------------------------------------------------------------------------------------------


def test_training_batches_depend_on_seed_and_number_alone(make):
    run = first(make().train_dataloader(), 6)
    again = make()
    again.start_batch = 2
    assert same(run[2:], first(again.train_dataloader(), 4))
    assert not same(run[:4], first(again.train_dataloader(), 4))
    assert not same(run, first(make(seed=1).train_dataloader(), 6))


def test_a_worker_process_draws_the_same(make):
    data = make()
    dataset = data.dataset("train", data.forms)
    items = next(iter(sampler(data, dataset)))
    sent = pickle.loads(pickle.dumps(dataset))
    a, b = dataset[items[0]], sent[items[0]]
    assert a.key == b.key and all(torch.equal(a.images[name], b.images[name]) for name in a.images)
    assert dataset[items[1]].key != a.key


# --- fixed ----------------------------------------------------------------------------------------------------------


def test_validation_is_fixed_and_has_the_forms_shares(make):
    runs = [list(make(seed=seed, val_items=12).val_dataloader()) for seed in (0, 1)]
    assert same(*runs)
    n = len(make().emoji.indices["val"][:12])
    assert sum(map(len, runs[0])) == n and len({batch.slots for batch in runs[0]}) > 4
    assert not same(runs[0], list(make(rows=[0, 1]).val_dataloader()))


def test_validation_and_test_show_other_glyphs_and_an_empty_split_is_refused(make):
    data = make(tasks=["canny>target"], rows=[0, 0])
    shown = [
        {key.split("/")[0] for batch in loader for key in batch.keys}
        for loader in (data.val_dataloader(), data.test_dataloader())
    ]
    assert all(shown) and not shown[0] & shown[1]
    with pytest.raises(ValueError, match="val split of 2 glyphs has too few for rows=0 of canny>target"):
        make(tasks=["canny>target"], rows=[0, 0], limit=2).val_dataloader()


def test_apportioned_shares_are_rounded_and_add_up(whole):
    cut = apportioned(whole.forms, 64)
    assert [i for items in cut.values() for i in items] == list(range(64))
    total = sum(form.share for form in whole.forms.values())
    assert all(abs(len(cut[name]) - 64 * form.share / total) <= 1 for name, form in whole.forms.items())
    assert whole.forms[next(iter(cut))].rows == 2, "grids are drawn from the first batch, so it has examples"


def test_test_tasks_may_be_unseen_and_have_the_same_glyphs(make):
    data = make(test_tasks=["unseen", "mask+openmoji_ref>openmoji", "jpeg>target"], batch_size=2)
    found = by_task(data.test_dataloader())
    assert {"canny>target+mask", "mask+openmoji_ref>openmoji"} < set(found) and len(found) >= 8
    assert set(data.tasks) & set(found) == {"jpeg>target"}
    keys = {name: [key.split("/")[0] for batch in batches for key in batch.keys] for name, batches in found.items()}
    assert len(keys["jpeg>target"]) == 6 and keys["jpeg>target"] == keys["canny>target+mask"]
    rows = [batch.slots[-1].row for batch in found["jpeg>target"]]
    assert rows == [2, 1, 0], "the numbers of examples take turns"
    assert same(list(data.test_dataloader()), [batch for batches in found.values() for batch in batches]), "in turn"
    assert {task for batch in make().test_dataloader() for task in batch.tasks} <= set(data.tasks)
    targets = [slot.name for slot in found["target>canny+mask+bbox"][0].slots if slot.role == TARGET]
    assert targets == ["target0", "target1", "target2"]


def test_tasks_that_a_limit_leaves_too_few_glyphs_are_left_out(make, whole):
    few = make(limit=60)
    assert "skin_tone>target" in whole.tasks and "skin_tone>target" not in few.tasks and "jpeg>target" in few.tasks
    with pytest.raises(ValueError, match=r"train split of 60 glyphs has too few for rows=2 of skin_tone>target"):
        make(limit=60, tasks=["skin_tone>target"])


def test_the_split_of_every_task_is_large_enough_for_two_examples(whole):
    for split in ("val", "test"):
        dataset = whole.dataset(split, whole.forms)
        assert all(len(pool.bases) >= 5 for pool in dataset._pools.values())
    unseen = EmojiGraphData(graph=graph(), test_tasks=["unseen", "*>*"])
    assert len(unseen.test_tasks) == 137 + 7 and unseen.test_dataloader()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"tasks": ["cany>target"]}, "tasks: 'cany>target' matches.*did you mean 'canny>target'"),
        ({"tasks": ["mask+openmoji_ref>openmoji"]}, "held out or unseen in this graph; only test_tasks may name it"),
        ({"tasks": ["jpeg>target", "unseen"]}, "'unseen' is held out or unseen"),
        ({"tasks": []}, "tasks is empty"),
        ({"test_tasks": []}, "test_tasks is empty"),
        ({"test_tasks": ["restoring"]}, "test_tasks: 'restoring' matches.*did you mean 'restoration'"),
        ({"rows": [2, 1]}, r"rows=\[2, 1\] must be \[least, most\]"),
        ({"rows": [-1, 1]}, r"rows=\[-1, 1\]"),
        ({"rows": 2}, "rows=2 must be"),
        ({"rows": [0, 70]}, "train split of 3979 glyphs has too few for rows=70 of gender>target, target>gender"),
        ({"rows": [0, 6]}, "val split of 3979 glyphs has too few for rows=6 of gender>target"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_options_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        EmojiGraphData(graph=graph(), **wrong)


def test_a_graph_of_other_images_is_refused_but_for_the_tasks_that_fit():
    other = AnnotationGraph(nodes={"condition": ["canny", "depth"]}, groups={"all": {"all": ["canny|depth > target"]}})
    with pytest.raises(ValueError, match="tasks: the emoji have no image 'depth', which task depth>target needs"):
        EmojiGraphData(graph=other)
    assert EmojiGraphData(graph=other, tasks=["canny>target"]).tasks == ("canny>target",)


def test_the_config_builds_it():
    config = composed("task=graph", "conditioning/embedding=none")["data"]
    data = build(config)
    assert isinstance(data, EmojiGraphData) and len(data.tasks) == 131
    assert max(len(form.slots(64)) for form in data.forms.values()) == len(data.slots) == 12
    config["graph"]["held_out"] = []
    assert len(build(config).tasks) == 137


def test_a_task_from_text_alone_has_one_slot_and_is_no_task_of_the_graph(make):
    data = make(tasks=[">target"], rows=(0, 0))
    batch = next(iter(data.test_dataloader()))
    assert [slot.role for slot in batch.slots] == [TARGET] and set(batch.tasks) == {">target"} and all(batch.prompts)
    assert not any(not task.conditions for task in (*data.graph.tasks, *data.graph.unseen_tasks))
    sample = data.user_sample([], "a red car", ("car",), ">target", prepared=False)
    assert list(sample.images) == [TARGET] and sample.images[TARGET].shape == (1, 3, 16, 16)
    with pytest.raises(ValueError, match="'canny>' is no task; write conditions>targets"):
        data.graph.task("canny>")
