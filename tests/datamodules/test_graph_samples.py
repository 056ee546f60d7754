"""GraphDataset: which tasks and glyphs are drawn how often, and where their images go; nothing here is drawn."""

import itertools
from collections import Counter

import pytest
import yaml
from tiny import CONF

from datamodules.emoji.cache import glyphs
from datamodules.emoji.data import EmojiGraphData
from datamodules.emoji.names import base_of
from datamodules.emoji.samples import GraphDataset, forms_of, glyphs_of
from datamodules.emoji.splits import split_of
from datamodules.graph.graph import AnnotationGraph
from datamodules.graph.keyed import FormBatchSampler, KeyedBatchSampler
from unigen.core.types import CONDITION, EXAMPLE, TARGET

DRAWS = 20_000


def graph(**changes) -> AnnotationGraph:
    config = yaml.safe_load((CONF / "graph" / "emoji.yaml").read_text())
    return AnnotationGraph(**{key: value for key, value in {**config, **changes}.items() if key != "_target_"})


@pytest.fixture(scope="module")
def whole() -> EmojiGraphData:
    """All glyphs and tasks, one sample a batch; for what needs no images."""
    return EmojiGraphData(graph=graph(), batch_size=1)


@pytest.fixture(scope="module")
def drawn(whole):
    """(task, rows) of many training batches."""
    return draws(whole, DRAWS)


def sampler(data: EmojiGraphData, dataset: GraphDataset) -> FormBatchSampler:
    return FormBatchSampler(data.keyed_batches(len(dataset)), data.forms)


def draws(data: EmojiGraphData, n: int) -> list:
    dataset = data.dataset("train", data.forms)
    return [dataset.plan(item) for batch in itertools.islice(sampler(data, dataset), n) for item in batch]


def chi_square(counts: Counter, shares: dict[str, float]) -> float:
    """Over its mean, the number of shares less one; its deviation is then sqrt(2 / that)."""
    n = sum(counts.values())
    return sum((counts[name] - n * p) ** 2 / (n * p) for name, p in shares.items()) / (len(shares) - 1)


# --- how often ------------------------------------------------------------------------------------------------------


def test_tasks_are_drawn_as_the_graph_says(whole, drawn):
    shares = graph().training.probabilities()
    counts = Counter(task.name for task, _ in drawn)
    assert set(counts) == set(shares) == set(whole.tasks) and len(shares) == 131
    bound = 1 + 5 * (2 / len(shares)) ** 0.5
    assert chi_square(counts, shares) < bound
    assert chi_square(counts, dict.fromkeys(shares, 1 / len(shares))) > 10 * bound, "negative control"


def test_every_number_of_examples_is_equally_likely_with_every_length(drawn):
    lengths = Counter(len(task.images) for task, _ in drawn)
    counts = Counter((len(rows) - 1, len(task.images)) for task, rows in drawn)
    shares = {(rows, length): n / DRAWS / 3 for rows in range(3) for length, n in lengths.items()}
    assert set(counts) == set(shares) and set(lengths) == {2, 3, 4}
    assert chi_square(counts, shares) < 1 + 5 * (2 / len(shares)) ** 0.5


def test_held_out_and_unseen_tasks_are_never_drawn(drawn):
    made = graph()
    barred = {task.name for task in (*made.held_out_tasks, *made.unseen_tasks)}
    assert len(barred) == 13 and not barred & {task.name for task, _ in drawn}
    open_graph = EmojiGraphData(graph=graph(held_out=[]), batch_size=1)
    assert len(barred & {task.name for task, _ in draws(open_graph, 4000)}) > 3, "negative control: else they are drawn"


def test_chosen_tasks_keep_their_proportions():
    data = EmojiGraphData(graph=graph(), tasks=["line>openmoji", "editing"], batch_size=1)
    shares = graph().training.probabilities()
    assert len(data.tasks) == 5
    total = sum(shares[name] for name in data.tasks)
    counts = Counter(task.name for task, _ in draws(data, 2000))
    assert chi_square(counts, {name: shares[name] / total for name in data.tasks}) < 5


def test_an_epoch_has_every_glyph_once_where_none_is_replaced():
    data = EmojiGraphData(graph=graph(), batch_size=1, tasks=["canny>target"])
    n = len(data.emoji.indices["train"])
    assert sorted(rows[-1].glyph for _, rows in draws(data, n)) == sorted(data.emoji.indices["train"])


# --- which glyphs ---------------------------------------------------------------------------------------------------


def test_rows_and_references_show_other_glyphs_of_the_split_that_have_the_images(whole, drawn):
    names, records, replaced = glyphs(), whole.records, 0
    for task, rows in drawn[:6000]:
        assert all(records.has(row.glyph, name) for row in rows for name in task.images)
        styled = any(name.endswith("_ref") for name in task.images)
        shown = [row.glyph for row in rows] + [row.other for row in rows if styled]
        bases = [base_of(names[index]) for index in shown]
        assert len(set(bases)) == len(bases) and {split_of(base) for base in bases} == {"train"}
        told = [records.shown(name, row) for row in rows for name in task.images]
        assert {split_of(base_of(names[index])) for index in told} == {"train"}
        replaced += "gender" in task.images
    assert replaced > 100


@pytest.mark.parametrize("split", ["val", "test"])
def test_held_out_samples_show_held_out_glyphs_alone(whole, split):
    dataset = whole.dataset(split, whole.forms)
    items = [(name, i % len(dataset), 1000 + i) for i in range(300) for name in whole.forms]
    shown = {row.glyph for item in items for row in dataset.plan(item)[1]}
    assert len(dataset) == 64 < len(shown), "examples may be glyphs that are no queries"
    assert {split_of(base_of(glyphs()[index])) for index in shown} == {split}


# --- form and order -------------------------------------------------------------------------------------------------


def test_the_128_test_glyphs_are_73_drawings(whole):
    """What docs/report.md says of them; one item of each is in front, so fewer items are fewer clusters."""
    names, indices = glyphs(), whole.emoji.indices["test"]
    assert len({base_of(names[index]) for index in indices[:128]}) == 73 < 128 <= len(indices)
    assert len({base_of(names[index]) for index in indices[:64]}) == 64


def test_slots_are_row_by_row_and_say_their_roles():
    made = graph()
    forms = forms_of({made.task("canny>target+mask"): 1.0, made.task("reference+jpeg>target"): 1.0}, range(2))
    named = {name: [(s.name, s.role, s.row) for s in form.slots(16)] for name, form in forms.items()}
    assert list(named) == ["1 rows of 1>2", "1 rows of 2>1", "0 rows of 1>2", "0 rows of 2>1"]
    assert named["1 rows of 1>2"] == [
        *[(f"example0_{name}", EXAMPLE, 0) for name in ("condition", "target0", "target1")],
        *[("condition", CONDITION, 1), ("target0", TARGET, 1), ("target1", TARGET, 1)],
    ]
    assert named["0 rows of 2>1"] == [("condition0", CONDITION, 0), ("condition1", CONDITION, 0), ("target", TARGET, 0)]


def test_ranks_part_a_global_batch_of_one_form(whole):
    dataset = whole.dataset("train", whole.forms)

    def batches(batch_size: int, ranks: int, rank: int) -> list:
        keyed = KeyedBatchSampler(len(dataset), batch_size, seed=0, ranks=ranks, rank=rank)
        return list(itertools.islice(FormBatchSampler(keyed, whole.forms), 30))

    parts, together = zip(batches(4, 2, 0), batches(4, 2, 1), strict=True), batches(8, 1, 0)
    assert [a + b for a, b in parts] == together
    assert all(len({form for form, _, _ in batch}) == 1 for batch in together)
    assert len({batch[0][0] for batch in together}) > 4
    indices = [index for batch in together for _, index, _ in batch]
    assert len(set(indices)) == len(indices)
    assert batches(4, 2, 0) != batches(4, 2, 1)


def test_another_example_seed_changes_the_examples_alone(whole):
    """The query, its style reference and what is said of it stay; the examples keep to the rules of a sample."""
    tasks = ("gaussian_blur>target", "target+openmoji_ref>openmoji", "skin_tone>target")
    shares = {task: 1.0 for task in whole.training if task.name in tasks}
    assert len(shares) == len(tasks)
    names, examples = whole.emoji.images.names, Counter()
    made = {seed: EmojiGraphData(graph=graph(), test_example_seed=seed) for seed in range(3)}
    forms = forms_of(shares, [2])
    sets = {seed: data.dataset("test", forms) for seed, data in made.items()}
    items = [(name, i, 1000 + i) for name in forms for i in range(30)]
    for item in items:
        plans = {seed: dataset.plan(item) for seed, dataset in sets.items()}
        assert len({(task, rows[-1]) for task, rows in plans.values()}) == 1, "one query"
        assert len({dataset.said(item) for dataset in sets.values()}) == 1
        for task, rows in plans.values():
            shown = [*(row.glyph for row in rows), *(row.other for row in rows if "_ref" in task.name)]
            assert len({base_of(names[glyph]) for glyph in shown}) == len(shown) == glyphs_of(task, 2)
        examples[len({tuple(row.glyph for row in rows[:-1]) for _, rows in plans.values()})] += 1
    assert examples == {3: len(items)}, "every seed has examples of its own"
    assert [s.plan(items[0]) for s in sets.values()] == [
        EmojiGraphData(graph=graph(), test_example_seed=seed).dataset("test", forms).plan(items[0]) for seed in sets
    ]
    assert made[1].dataset("val", forms).plan(items[0]) == made[0].dataset("val", forms).plan(items[0]), "of the test"


def test_what_is_said_of_a_sample_is_what_the_sample_says(tmp_path):
    data = EmojiGraphData(graph=graph(), size=16, limit=120, cache=tmp_path, batch_size=4, rows=[0, 1])
    data.prepare_data()
    loader = data.train_dataloader()
    for batch in itertools.islice(loader.batch_sampler, 4):
        for item in batch:
            sample = loader.dataset[item]
            assert loader.dataset.said(item) == (sample.prompt, sample.subjects)
