"""Surviving bad records: others in their place, a share that ends the run, a report."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.reading.images import BadImage
from datamodules.reading.records import NAMED, TRIES, Refusals, fitted, present, summary


def reader(bad: set[int]):
    """Items of (index, seed); the bad indices are refused."""

    def get(index: int, seed: int) -> tuple[int, int]:
        if index in bad:
            raise BadImage.of(f"file {index}.png", f"it has {index} x 1 pixels", "it must be larger")
        return index, seed

    return get


# --- replacing -----------------------------------------------------------------------------------------------------


def test_a_good_record_is_itself():
    refusals = Refusals("set")
    assert [refusals.read(reader({3}), (i, 7), 5) for i in (0, 4, 1)] == [(0, 7), (4, 7), (1, 7)]
    assert (refusals.seen, refusals.bad, refusals.first) == (3, 0, [])


def test_a_bad_record_is_replaced_by_the_same_one_everywhere():
    bad = set(range(0, 1000, 5))

    def run(order: list[int], seed: int = 3) -> dict[int, tuple[int, int]]:
        refusals = Refusals("set", share=1.0)
        return {i: refusals.read(reader(bad), (i, seed), 1000) for i in order}

    one, other = run(list(range(1000))), run(list(range(999, -1, -1)))  # a rank that saw all else in another order
    assert one == other
    for i, (index, seed) in one.items():
        assert seed == 3 and index not in bad and (i in bad or index == i)
    replaced = [one[i][0] for i in bad]
    assert len(set(replaced)) > 150, "neighbours or one favourite would be shown too often"
    assert [run(sorted(bad), seed=4)[i][0] for i in bad] != replaced


def test_a_small_set_is_searched_to_its_end():
    for seed in range(20):
        assert Refusals("set", share=1.0).read(reader({0, 1, 3, 4}), (0, seed), 5) == (2, seed)


def test_when_all_are_bad_the_tries_are_bounded():
    refusals = Refusals("tiles")
    with pytest.raises(ValueError, match=f"{TRIES + 1} records of 'tiles' in a row cannot be used") as caught:
        refusals.read(reader(set(range(1000))), (12, 0), 1000)
    assert refusals.seen == TRIES + 1 and "'file 12.png': it has 12 x 1 pixels" in str(caught.value)
    assert not isinstance(caught.value, BadImage)  # else the next one out would go on
    with pytest.raises(ValueError, match="1 records of 'one' in a row"):
        Refusals("one").read(reader({0}), (0, 0), 1)


def test_a_bug_is_no_bad_record():
    with pytest.raises(KeyError):
        Refusals("set").read(lambda index, seed: {}[index], (0, 0), 5)


# --- the share -----------------------------------------------------------------------------------------------------


def reads_until_the_end(refusals: Refusals, bad_share: float, most: int, seed: int = 0) -> int:
    """How many records of a random set are read before the run ends; `most` if it does not."""
    rng = random.Random(seed)

    def get(index: int, seed: int) -> int:
        if rng.random() < bad_share:
            raise BadImage.of(f"{rng.random()}", "bad", "good")
        return index

    try:
        while refusals.seen < most:
            refusals.read(get, (0, 0), 1000)
    except ValueError as error:
        assert "cannot be used" in str(error)
        return refusals.seen
    return most


@pytest.mark.parametrize(("share", "bad_share"), [(0.01, 0.5), (0.01, 0.1), (0.05, 0.2), (0.0, 0.1)])
def test_too_many_bad_records_end_the_run_but_not_before_the_minimum(share, bad_share):
    ends = [reads_until_the_end(Refusals("set", share=share, minimum=200), bad_share, 3000, seed) for seed in range(20)]
    assert max(ends) < 3000 and (min(ends) >= 200) is (share > 0)


def test_half_of_the_share_ends_no_run_of_many_processes():
    """By chance some of 64 processes see more than the share for a while, which a bare comparison would punish."""
    over = 0
    for seed in range(64):
        refusals = Refusals("set", share=0.01)
        assert reads_until_the_end(refusals, 0.005, 2000, seed) == 2000
        rng, bad = random.Random(seed), 0
        for seen in range(1, 2001):
            bad += rng.random() < 0.005
            if seen >= 100 and bad > 0.01 * seen:
                over += 1
                break
    assert over > 5


def test_the_error_names_the_first_files_and_the_key():
    refusals = Refusals("tiles", share=0.1, minimum=50, key="data.folder.bad_share")
    bad = set(range(0, 1000, 3))
    with pytest.raises(
        ValueError, match=r"of the first 5\d records of 'tiles' .* data\.folder\.bad_share=0\.1"
    ) as caught:
        for i in range(1000):
            refusals.read(reader(bad), (i, 0), 1000)
    message = str(caught.value)
    assert message.count(".png'") == NAMED and "'file 0.png': it has 0 x 1 pixels; 'file 3.png'" in message
    assert message.endswith("repair or remove them, or raise data.folder.bad_share")


@pytest.mark.parametrize(("options", "words"), [({"share": 1.5}, "my.key=1.5"), ({"minimum": 0}, "minimum=0")])
def test_numbers_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Refusals("set", key="my.key", **options)


# --- the report ----------------------------------------------------------------------------------------------------


class Items(Dataset):
    """Every seventh record is bad."""

    def __init__(self, report: Path, share: float) -> None:
        self.refusals = Refusals("tiles", share=share, report=report)

    def __len__(self) -> int:
        return 400

    def __getitem__(self, item: tuple[int, int]) -> torch.Tensor:
        return torch.tensor(self.refusals.read(reader(set(range(0, 400, 7))), item, len(self)))


def loaded(dataset: Items, workers: int) -> torch.Tensor:
    batches = [[(i, 11 * i) for i in range(k, k + 20)] for k in range(0, 400, 20)] * 2
    return torch.cat(list(DataLoader(dataset, batch_sampler=batches, num_workers=workers)))


def test_workers_give_the_same_items_and_share_one_report(tmp_path):
    alone, together = loaded(Items(tmp_path / "a", 1.0), 0), loaded(Items(tmp_path / "b", 1.0), 2)
    assert torch.equal(alone, together) and not (alone[:, 0] % 7 == 0).any()
    assert not torch.equal(alone[:, 0], torch.arange(400).repeat(2))
    (file,) = (tmp_path / "b").iterdir()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["record"] for line in lines} == {f"file {i}.png" for i in range(0, 400, 7)}
    assert all(line["data"] == "tiles" and "x 1 pixels" in line["reason"] for line in lines)
    assert summary(tmp_path / "a") == summary(tmp_path / "b")
    assert summary(tmp_path / "a").startswith("58 records were refused, 58 as 'file 0.png': it has # x # pixels")


def test_a_record_that_is_read_again_is_reported_once(tmp_path):
    refusals = Refusals("set", share=1.0, report=tmp_path)
    for _ in range(5):
        refusals.read(reader({0}), (0, 0), 2)
    (file,) = tmp_path.iterdir()
    assert refusals.bad == 5 and len(file.read_text().splitlines()) == 1


def test_the_summary_counts_records_and_names_the_commonest_reasons(tmp_path):
    def line(data, record, reason):
        return json.dumps({"data": data, "record": record, "reason": reason}) + "\n"

    assert summary(tmp_path) == summary(tmp_path / "nowhere") == "no record was refused"
    empty, small = "the file is empty", "it has 3 x 1 pixels"
    first = line("a", "one", empty) + line("a", "two", small) + line("a", "three", "it has 30 x 1.5 pixels")
    (tmp_path / "refused-x.jsonl").write_text(first + '{"data": "a", "rec')
    (tmp_path / "refused-y.jsonl").write_text(line("a", "one", empty) + "[]\nnull\n" + line("b", "one", "odd"))
    (tmp_path / "notes.txt").write_text("no report")
    assert summary(tmp_path, top=2) == (
        "4 records were refused, 2 as 'three': it has # x # pixels; 1 as 'one': odd; ..."
    )
    assert summary(tmp_path, top=3).endswith("; 1 as 'one': the file is empty")


def test_a_report_that_cannot_be_written_ends_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    refusals = Refusals("set", share=1.0, report=tmp_path / "file" / "folder")
    assert refusals.read(reader({0}), (0, 0), 2) == (1, 0) and refusals.bad == 1


def test_odd_names_are_reported_in_small_lines(tmp_path):
    def get(index, seed):
        if index == 0:
            raise BadImage.of("\U0001f600" * 9000 + "\udc80\n.png", "\n" * 9000, "legal")
        return index

    Refusals("set", share=1.0, report=tmp_path).read(get, (0, 0), 2)
    (file,) = tmp_path.iterdir()
    (line,) = file.read_bytes().splitlines()
    assert len(line) < 4096 and json.loads(line)["record"].endswith("\udc80\n.png")
    assert summary(tmp_path).encode("utf-8")


# --- annotations ---------------------------------------------------------------------------------------------------


def test_a_record_without_its_annotation_is_refused_by_name():
    record = {"target": b"1", "depth": None, "canny": b""}
    assert present(record, "canny", "parquet row 17") == b""
    for column in ("depth", "hed"):
        with pytest.raises(BadImage, match=f"'parquet row 17, {column}': there is no {column}; .* target, canny"):
            present(record, column, "parquet row 17")


def test_an_annotation_of_the_same_shape_is_resized():
    halves = np.zeros((3, 40, 60), np.uint8)
    halves[:, :, 30:] = 200
    assert fitted(halves, 40, 60, "x") is halves
    for height, width in ((20, 30), (80, 120), (400, 603)):
        out = fitted(halves, height, width, "x")
        assert out.shape == (3, height, width) and out.dtype == np.uint8 and out.flags.c_contiguous
        assert out[:, :, : width // 2 - 10].max(initial=0) == 0 and out[:, :, width // 2 + 10 :].min(initial=200) == 200
        assert np.array_equal(fitted(halves[0], height, width, "x"), out[0])
    stripes = np.tile(np.array([[0, 255]], np.uint8), (8, 8))
    assert set(np.unique(fitted(stripes, 4, 8, "x"))) <= {127, 128}  # shrunk by means, nothing is dropped


@pytest.mark.parametrize(("height", "width"), [(40, 40), (60, 40), (1000, 1520), (40, 62)])
def test_an_annotation_of_another_shape_is_refused(height, width):
    with pytest.raises(BadImage, match=f"'a.canny.png': it has 6000 x 4000 pixels, its image {width} x {height}"):
        fitted(np.zeros((4000, 6000), np.uint8), height, width, "a.canny.png")


def test_rounding_to_whole_pixels_is_no_other_shape():
    for width in range(10, 200):  # as if someone had shrunk 6000 x 4000, to a height rounded up or down
        for height in (math.floor(width / 1.5), math.ceil(width / 1.5)):
            assert fitted(np.zeros((height, width), np.uint8), 400, 600, "x").shape == (400, 600)
