"""How the examples of a test query are chosen: near it, far from it, fixed; the query and what is said of it stay."""

from collections import Counter

import numpy as np
import pytest
import torch
import yaml
from tiny import CONF

from datamodules.emoji.data import EmojiGraphData
from datamodules.emoji.names import base_of
from datamodules.emoji.samples import forms_of, glyphs_of
from datamodules.graph.choosing import CHOICES, alike, shipped_judge
from datamodules.graph.graph import AnnotationGraph
from datamodules.scenes.data import SceneGraphData

TASKS = {
    "scenes": ("canny>target", "target+night_ref>night"),
    "emoji": ("canny>target", "target+openmoji_ref>openmoji"),
}


@pytest.fixture(scope="module", params=TASKS)
def sets(request, tmp_path_factory):
    """Test data sets by choice, and the items of their one form."""
    kind = {"scenes": SceneGraphData, "emoji": EmojiGraphData}[request.param]
    config = yaml.safe_load((CONF / "graph" / f"{request.param}.yaml").read_text())
    graph = AnnotationGraph(**{key: value for key, value in config.items() if key != "_target_"})
    folder = tmp_path_factory.mktemp("chosen")
    made = {
        choice: kind(graph=graph, size=32, limit=400, cache=folder, test_examples=choice, tasks=TASKS[request.param])
        for choice in CHOICES
    }
    made["random"].prepare_data()
    forms = forms_of(dict.fromkeys(made["random"].training, 1.0), [2])
    found = {choice: data.dataset("test", forms) for choice, data in made.items()}
    return found, [(name, i, 1000 + i) for name in forms for i in range(6)], made, forms


def test_the_query_stays_and_rows_keep_to_the_rules(sets):
    found, items, made, _ = sets
    names, different = made["random"].emoji.images.names, 0
    for item in items:
        plans = {choice: dataset.plan(item) for choice, dataset in found.items()}
        assert len({(task, rows[-1]) for task, rows in plans.values()}) == 1, "one query"
        assert len({dataset.said(item) for dataset in found.values()}) == 1
        for task, rows in plans.values():
            glyphs = [getattr(row, key) for row in rows for key in ("glyph", "other")[: glyphs_of(task, 0)]]
            bases = [base_of(names[glyph] if isinstance(glyph, int) else glyph) for glyph in glyphs]
            assert len(set(bases)) == len(bases) and len(rows) == 3
        different += len({tuple(rows[:-1]) for _, rows in plans.values()})
    assert different > 3 * len(items)


def test_near_ones_are_nearer_than_random_ones_and_far_ones_are_farther(sets):
    found, items, _, _ = sets
    closeness = {choice: [] for choice in CHOICES}
    for item in items:
        for choice, dataset in found.items():
            task, rows = dataset.plan(item)
            shown = [[dataset.records.image(name, row) for name in task.conditions] for row in rows]
            closeness[choice] += alike(shown[-1], shown[:-1], shipped_judge())
    near, far, chance = (np.array(closeness[choice]) for choice in ("nearest", "farthest", "random"))
    assert near.mean() > chance.mean() + 0.05 and chance.mean() > far.mean() + 0.05
    assert (near > far).mean() > 0.9


def test_fixed_examples_are_those_of_every_query_of_a_task(sets):
    found, items, made, forms = sets
    names, by_task = made["random"].emoji.images.names, {}
    plans = [found["fixed"].plan(item) for item in items]
    for task, rows in plans:
        by_task.setdefault(task, []).append(rows)

    def bases(*rows):
        return {base_of(g if isinstance(g, str) else names[g]) for row in rows for g in (row.glyph, row.other)}

    for plans_of in by_task.values():
        usual = Counter(rows[:-1] for rows in plans_of).most_common(1)[0][0]
        for rows in plans_of:
            assert rows[:-1] == usual or bases(rows[-1]) & bases(*usual), "another where the query has its base"
    others = [found["random"].plan(item) for item in items]
    assert len({rows[:-1] for _, rows in others}) == len(items), "negative control"
    again = made["fixed"].dataset("test", forms).plan(items[0])
    assert again == plans[0]
    assert made["fixed"].dataset("val", forms).plan(items[0]) == made["random"].dataset("val", forms).plan(items[0])


def test_alike_is_the_mean_cosine_over_conditions():
    def judge(images):
        flat = images.float().flatten(1)
        return flat / flat.norm(dim=1, keepdim=True)

    a, b = np.full((3, 2, 2), 9, np.uint8), np.zeros((3, 2, 2), np.uint8)
    b[0, 0, 0] = 1
    scores = alike([a, a], [[a, a], [a, b]], judge)
    assert scores == pytest.approx([1.0, (1 + 1 / 12**0.5) / 2], abs=1e-6)
    assert torch.is_tensor(judge(torch.from_numpy(np.stack([a]))))


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="test_examples is 'best'; legal are random, nearest, farthest, fixed"):
        EmojiGraphData(graph=None, test_examples="best")
