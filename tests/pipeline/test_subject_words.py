"""In how many prompts UCE finds its word: counted with the encoder's own matching, misses named, nothing decoded."""

import pytest
from previews import made
from small_runs import small, train
from tiny import tiny
from torch.utils.data import DataLoader

from unigen.pipeline.build import build_pipeline
from unigen.pipeline.subject_words import COUNTED, counted, miss_line, uce_line
from unigen.tools.preview.html import page

WINDOW = 16  # of the tiny encoder


@pytest.fixture(scope="module")
def pipeline():
    return build_pipeline(tiny())


def test_misses_are_counted_and_named(pipeline):
    said = [("a cat", ("cat",)), ("two cats", ("cat",)), ("a pan", ("pot",)), ("a dog", ()), ("a category", ("cat",))]
    assert counted(pipeline.text, said) == (
        "the subject's word is in 2 of 4 prompts (the first 5 training samples; 1 name no subject); a miss gets the "
        "task's bias alone; first misses: 'pot' in 'a pan', 'cat' in 'a category'"
    )
    assert counted(pipeline.text, said[:2]) == (
        "the subject's word is in 2 of 2 prompts (the first 2 training samples)"
    )
    assert counted(pipeline.text, said[3:4]).startswith("none of the first 1 training samples names a subject")


def test_a_word_beyond_the_window_is_a_miss_of_its_own_kind(pipeline):
    prompt = "x" * WINDOW + " cat"
    assert "'cat' in 'xxxxxxxxxxxxxxxx cat' (beyond the text encoder's window)" in counted(
        pipeline.text, [(prompt, ("cat",))]
    )


def test_sample_says_a_miss_and_nothing_else(pipeline):
    assert miss_line(pipeline, "a cat", "cats") == ""
    assert miss_line(pipeline, "a cat", "pot").startswith("UCE does not find subject='pot' in 'a cat': a miss gets")
    without = build_pipeline(tiny("conditioning/embedding=none"))
    assert miss_line(without, "a cat", "pot") == "", "nobody asks for it"


class Told:
    """A dataset that says its prompts; the first item of three is a miss."""

    def __init__(self) -> None:
        self.asked = []

    def __getitem__(self, item):
        raise AssertionError("no image is decoded")

    def said(self, item: int) -> tuple[str, tuple[str, ...]]:
        self.asked.append(item)
        return ("a cat" if item % 3 else "a dog"), ("cat",)


def test_so_many_samples_are_looked_at_and_no_more(pipeline):
    dataset = Told()
    loader = DataLoader(dataset, batch_sampler=[list(range(i, i + 50)) for i in range(0, 500, 50)])
    line = uce_line(pipeline, loader)
    assert len(dataset.asked) == COUNTED
    assert line.startswith("UCE: the subject's word is in 85 of 128 prompts (the first 128 training samples)")
    assert uce_line(build_pipeline(tiny("conditioning/embedding=none")), loader) == ""
    silent = DataLoader([1, 2], batch_sampler=[[0]])
    assert uce_line(pipeline, silent) == "UCE: not counted: list cannot say its prompts without its images"


def test_a_run_says_it_in_its_header(tmp_path, capsys):
    train(small(tmp_path, "+exp=fcd_mask_a", "trainer.max_steps=1"))
    assert "UCE: the subject's word is in " in " ".join(capsys.readouterr().out.split())
    train(small(tmp_path / "without", "+exp=wo_uce", "trainer.max_steps=1"))
    assert "UCE:" not in capsys.readouterr().out, "negative control"


def test_a_preview_says_it():
    assert "UCE: the subject&#x27;s word is in" in page(made("+exp=fcd_mask_a"))
    assert "UCE: " not in page(made("+exp=wo_uce"))
