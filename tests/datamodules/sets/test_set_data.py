"""Batches of a graph's tasks on a data set: legality, sharing, sizes, restarts, refusals."""

from collections import Counter
from functools import partial
from itertools import islice

import numpy as np
import pytest

from datamodules.graph.graph import AnnotationGraph
from datamodules.reading.images import BadImage
from datamodules.sets.base import LazyImage, SetRecord, captions_of
from datamodules.sets.data import SetGraphData
from datamodules.sets.samples import size_shares, sized_forms

SIZES = ((64, 64), (96, 64), (64, 64), (64, 96), (64, 64), (96, 64))


def colour(index: int, kind: int, size: tuple[int, int]) -> np.ndarray:
    """An image that tells its record and what it is, whatever its size becomes."""
    return np.broadcast_to(np.array([index, kind, 255], np.uint8)[:, None, None], (3, size[1], size[0])).copy()


class Coloured:
    """Records of one-coloured images; every third has no depth; `bad` cannot be read; pairs share an origin."""

    names = ("target", "depth", "reference")

    def __init__(self, n: int = 30, bad: frozenset[int] = frozenset(), sizes=SIZES[:1]) -> None:
        self.n, self.bad, self.sizes = n, bad, sizes

    def __len__(self) -> int:
        return self.n

    def record(self, index: int, seed: int = 0) -> SetRecord:
        size = self.sizes[index % len(self.sizes)]
        names = [name for name in self.names if name != "depth" or index % 3]
        images = {name: LazyImage(partial(self.read, index, name, size), lambda: size) for name in names}
        return SetRecord(str(index), images, captions_of({"target": [f"picture {index}"]}), ("it",), str(index // 2))

    def read(self, index: int, name: str, size: tuple[int, int]) -> np.ndarray:
        if index in self.bad:
            raise BadImage.of(str(index), "it is bad", "it must be good")
        return colour(index, self.names.index(name), size)


def graph(**options) -> AnnotationGraph:
    return AnnotationGraph(
        nodes={"condition": ["depth", "canny", "hed"], "reference": ["reference"], "degradation": ["blur", "gray"]},
        groups={
            "make": {"maps": ["depth|canny|hed > target"], "restore": ["blur|gray > target"]},
            "know": {"subject": ["reference > target"], "extract": ["target > reference"]},
        },
        **options,
    )


def data(source: Coloured | None = None, **options) -> SetGraphData:
    source = source or Coloured()
    settings = {"size": 64, "batch_size": 4, "val_items": 9, "test_items": 6} | options
    return SetGraphData(**{"graph": graph(), "train": source, "val": source, "test": source} | settings)


def batches(made: SetGraphData, count: int, start: int = 0) -> list:
    made.start_batch = start
    return list(islice(made.train_dataloader(), count))


def told(batch, name: str) -> list[tuple[int, int]]:
    """(record, kind) of a slot's images."""
    return [tuple(image[0, :2, 0, 0].tolist()) for image in batch.images[name]]


class Clustered(Coloured):
    def record(self, index: int, seed: int = 0) -> SetRecord:
        return super().record(index, seed)._replace(clusters={"subject": str(index % 2), "prompt": str(index // 2)})


class Alone(Coloured):
    def record(self, index: int, seed: int = 0) -> SetRecord:
        return super().record(index, seed)._replace(origin="")


def test_samples_have_the_clusters_of_the_query_or_else_its_origin():
    for source, expected in (
        (Coloured(), lambda i: {"origin": str(i // 2)}),
        (Clustered(), lambda i: {"subject": str(i % 2), "prompt": str(i // 2)}),
    ):
        for batch in data(source).test_dataloader():
            assert batch.clusters == [expected(int(key.partition("/")[0])) for key in batch.keys]
    for batch in data(Alone()).test_dataloader():
        assert batch.clusters == [{"key": key} for key in batch.keys], "each by itself"


def test_only_tasks_that_records_can_serve_are_trained_on():
    made = data()
    assert made.tasks == (
        "depth>target",
        "canny>target",
        "blur>target",
        "gray>target",
        "reference>target",
        "target>reference",
    )
    with pytest.raises(
        ValueError, match="tasks: no record has hed, which task hed>target needs; records may have target"
    ):
        data(tasks=["hed>target"])
    bare = Coloured()
    bare.names = ("reference",)
    with pytest.raises(ValueError, match="records have reference, with which none of its tasks can go"):
        data(bare)
    with pytest.raises(ValueError, match="val: no record has"):
        data(val=bare)
    with pytest.raises(ValueError, match="val_items=-1"):
        data(val_items=-1)
    with pytest.raises(ValueError, match="held out"):
        data(graph=graph(held_out=["subject"]), tasks=["reference>target"])


def test_rows_share_a_task_whose_images_all_of_them_have_and_no_origin():
    drawn = Counter()
    for batch in batches(data(tasks=["depth>target", "subject"]), 60):
        conditions = [slot.name for slot in batch.slots if slot.name.endswith("condition")]
        for i, task in enumerate(batch.tasks):
            kind = {"depth>target": 1, "reference>target": 2}[task]
            rows = [told(batch, name)[i] for name in conditions]
            targets = [told(batch, name.replace("condition", "target"))[i] for name in conditions]
            assert all(shown == kind for _, shown in rows) and all(shown == 0 for _, shown in targets)
            assert [record for record, _ in rows] == [record for record, _ in targets]
            records = [record for record, _ in rows]
            assert kind != 1 or all(record % 3 for record in records)
            assert len({record // 2 for record in records}) == len(records)
            assert batch.prompts[i] == f"picture {records[-1]}" and batch.keys[i] == f"{records[-1]}/{task}"
            drawn[task] += 1
    assert abs(drawn["depth>target"] - 60) < 25, (
        "of its group of 3 it is a third; a record's lack of depth must not make its task rarer"
    )


def test_a_task_is_known_before_a_record_is_read():
    made = data(Coloured(bad=frozenset({3, 8})), bad_share=1.0)
    made.start_batch = 0
    loader = made.train_dataloader()
    items = [item for batch in islice(loader.batch_sampler, 20) for item in batch]
    planned = [loader.dataset.plan(item)[0].name for item in items]
    assert planned == [loader.dataset[item].task for item in items] and len(set(planned)) > 3


def test_a_prompt_describes_the_last_target_and_is_empty_without_a_caption():
    (batch,) = batches(data(tasks=["extract"], rows=[0, 0]), 1)
    assert batch.prompts == [""] * 4 and batch.subjects == [("it",)] * 4


def test_a_run_goes_on_exactly_from_the_middle():
    first = batches(data(seed=5), 6)
    again = batches(data(seed=5), 3, start=3)
    for one, other in zip(first[3:], again, strict=True):
        assert one.keys == other.keys and one.slots == other.slots
        assert all(bool((one.images[name] == other.images[name]).all()) for name in one.images)
    assert [batch.keys for batch in batches(data(seed=6), 6)] != [batch.keys for batch in first]


def test_bad_records_are_replaced_until_they_are_too_many():
    few = data(Coloured(bad=frozenset({3, 8})), bad_share=1.0)
    shown = {record for batch in batches(few, 40) for slot in batch.slots for record, _ in told(batch, slot.name)}
    assert not shown & {3, 8} and len(shown) > 20
    with pytest.raises(ValueError, match=r"records of 'train \(Coloured\)'"):
        batches(data(Coloured(bad=frozenset(range(20))), bad_share=0.01), 40)


def test_the_records_that_could_not_be_used_are_reported(tmp_path):
    few = data(Coloured(bad=frozenset({3, 8})), bad_share=1.0, report=tmp_path / "refused")
    assert few.report() == "no record was refused" and data().report() is None
    batches(few, 40)
    assert few.report() == "2 records were refused, 2 as '3': it is bad"


def test_held_out_records_are_never_trained_on():
    source = Coloured(60)
    options = {"tasks": ["subject"], "size": 64, "batch_size": 4, "val_items": 12, "test_items": 12}
    made = SetGraphData(graph=graph(), train=source, held_out=5, **options)
    loaders = {"train": batches(made, 40), "val": made.val_dataloader(), "test": made.test_dataloader()}
    shown = {
        name: {record for batch in found for slot in batch.slots for record, _ in told(batch, slot.name)}
        for name, found in loaders.items()
    }
    homes = {"val": (0, 1), "test": (2, 3), "train": (4, 5, 6, 7, 8, 9)}
    assert all({record % 10 for record in records} == set(homes[name]) for name, records in shown.items())
    with pytest.raises(ValueError, match=r"records of 'val \(Coloured\)'"):
        all_bad = Coloured(60, bad=frozenset(range(60)))
        list(SetGraphData(graph=graph(), train=all_bad, held_out=5, **options).val_dataloader())


def test_images_to_fit_a_codec_on_are_targets_of_training():
    source = Coloured(40, bad=frozenset({8}), sizes=((96, 64),))
    made = SetGraphData(graph=graph(), train=source, held_out=5, size=64, bad_share=1.0)
    images = made.fit_images(20)
    assert images.shape == (20, 3, 64, 64) and (images[:, 1] == 0).all()
    records = images[:, 0, 0, 0].tolist()
    assert len(set(records)) > 15 and all(record % 10 > 3 for record in records) and 8 not in records


def test_a_batch_has_one_size_and_records_belong_to_the_nearest():
    source = Coloured(60, sizes=SIZES)
    made = data(source, ratios=["1:1", "3:2", "2:3", "1:9"], tasks=["gray>target", "canny>target", "subject"])
    found = Counter()
    for batch in batches(made, 60):
        slot = batch.slots[-1]
        assert {(other.width, other.height) for other in batch.slots} == {(slot.width, slot.height)}
        for record, _ in told(batch, "target"):
            size = SIZES[record % 6]
            assert (size[0] > size[1], size[0] < size[1]) == (slot.width > slot.height, slot.width < slot.height)
        found[slot.width, slot.height] += 1
    assert set(found) == {(64, 64), (64, 48), (48, 64)}
    assert found[64, 64] == max(found.values())


def test_shares_of_sizes_are_those_of_records_and_rare_ones_go():
    buckets = [(64, 64), (96, 64), (64, 96), (16, 256)]
    shares = size_shares(Coloured(60, sizes=SIZES), buckets)
    assert shares == pytest.approx({(64, 64): 3 / 6, (96, 64): 2 / 6, (64, 96): 1 / 6})
    assert size_shares(Coloured(60, sizes=(*SIZES[:1] * 29, (96, 64))), buckets) == {(64, 64): 1.0}
    assert sized_forms({}, shares) == {}


def test_fixed_batches_are_the_same_each_time_whatever_the_seed_is():
    one, other = data(seed=1), data(seed=2)
    for name in ("val_dataloader", "test_dataloader"):
        keys = [[batch.keys for batch in getattr(made, name)()] for made in (one, one, other)]
        assert keys[0] == keys[1] == keys[2] and sum(map(len, keys[0])) == {"v": 9, "t": 6}[name[0]]
    named = data(graph=graph(unseen=["depth + canny > target"]), test_tasks=["unseen", "gray>target"])
    tested = [task for batch in named.test_dataloader() for task in batch.tasks]
    assert tested == ["depth+canny>target"] * 6 + ["gray>target"] * 6
    assert len({task for batch in data().test_dataloader() for task in batch.tasks}) > 2


def test_too_few_records_for_the_rows_are_told():
    with pytest.raises(ValueError, match=r"train has 2 of .* \(2 train, 2 val, 2 test\), but data\.rows asks"):
        batches(data(Coloured(2)), 1)
    alike = data(Coloured(2), rows=[1, 1], tasks=["subject"])
    with pytest.raises(ValueError, match="256 records hold 1 that fit task reference>target"):
        batches(alike, 1)


def test_the_header_shows_the_largest_form():
    assert [slot.name for slot in data().slots] == [
        *("example0_condition", "example0_target", "example1_condition", "example1_target", "condition", "target")
    ]
    assert {(slot.width, slot.height, slot.row) for slot in data().slots} == {(64, 64, row) for row in range(3)}


def test_with_a_window_the_rows_of_a_sample_are_neighbours():
    def spread(**options) -> int:
        wide = 0
        for batch in batches(data(Coloured(200), tasks=["subject"], rows=[2, 2], **options), 30):
            names = [slot.name for slot in batch.slots if slot.name.endswith("target")]
            rows = zip(*(told(batch, name) for name in names), strict=True)
            wide = max(wide, *(max(row)[0] - min(row)[0] for row in rows))
        return wide

    assert spread(window=10) < 10 < spread()


def test_another_example_seed_changes_the_examples_alone():
    """Also where the record of an item lacks an image, and another one is the query."""
    made = {seed: data(tasks=["depth>target"], test_rows=[2, 2], test_example_seed=seed) for seed in range(3)}
    shown = {}
    for seed, module in made.items():
        found = list(module.test_dataloader())
        shown[seed] = [x for batch in found for x in told(batch, "example0_target")]
        queries = [x for batch in found for x in told(batch, "target")]
        said = [(key, prompt) for batch in found for key, prompt in zip(batch.keys, batch.prompts, strict=True)]
        if seed == 0:
            first = queries, said
        assert (queries, said) == first
    assert len(first[0]) == 6 and all(shown[a] != shown[b] for a, b in ((0, 1), (0, 2), (1, 2)))
    assert made[1].dataset("val", {}).example_seed == 0, "of the test alone"


def test_what_is_said_of_a_sample_is_what_the_sample_says_and_nothing_is_decoded(monkeypatch):
    source = Coloured(bad=frozenset({3}))
    made = data(source, bad_share=1.0)
    made.start_batch = 0
    loader = made.train_dataloader()
    items = [item for batch in islice(loader.batch_sampler, 6) for item in batch if item[1] != 3]
    samples = [loader.dataset[item] for item in items]
    read = Counter()
    monkeypatch.setattr(Coloured, "read", lambda *_: read.update(["decoded"]))
    said = [loader.dataset.said(item) for item in items]
    same = [of == (sample.prompt, sample.subjects) for of, sample in zip(said, samples, strict=True)]
    assert sum(same) >= len(same) - 4 and not read, "but where a bad record stood among the examples"
