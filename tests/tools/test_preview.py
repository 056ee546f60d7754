"""The preview says of real small experiments what is computed here by other means."""

import base64
import io
import re
import subprocess
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from previews import figures, made, run, texts
from small_runs import kept_images, line
from tiny import ROOT, composed, mask

from unigen.core.layout import Layout, Segment
from unigen.pipeline.build import build, build_on_meta
from unigen.tools.preview.gathering import Preview, depths, preview, read_prompt
from unigen.tools.preview.html import IMAGE_BYTES, encoded, page
from unigen.tools.preview.tables import buckets_table, loss_words, mask_table, scaled, segments_table


@pytest.fixture(scope="module")
def frames() -> Preview:
    return made("+exp=fcd_mask_a")


# --- an experiment with frames ---------------------------------------------------------------------------------------


def test_tokens_pairs_and_flops_are_those_counted_by_hand(frames):
    """32 pixels at 8 × 2 a token: 4 tokens an image; 80 bytes by 8: 10 of text. Mask A bars text and condition."""
    pairs = 18 * 18 - 2 * 10 * 4
    width, layers, patch = 32, 1, 2 * 2 * 2 * 16
    linear = 2 * (layers * 12 * width * width * 18 + 8 * 2 * patch * width + 10 * 64 * width)
    (row,) = texts(buckets_table(frames))
    assert row[0] == "1: 1 condition, 1 target; 32×32" and row[1:4] == ["1,000", "100.0%", "18"]
    assert row[4] == f"{pairs / 324:.1%}" == "75.3%"
    assert buckets_table(frames).rows[0][5].sort == linear + layers * 4 * width * pairs
    assert texts(buckets_table(made("+exp=fcd_mask_d")))[0][4] == "100.0%"  # negative control


def test_every_segment_with_what_the_tables_say_of_it(frames):
    layout = frames.buckets[0].plan.layout
    config = composed(*line("+exp=fcd_mask_a"))
    rows = {row[0]: row[1:] for row in texts(segments_table(config, frames.pipeline, layout))}
    shared, empty = "shared: the step's t", "the empty prompt"
    assert rows["text"] == ["text", "–", "1 × 1 × 10", "10", "0", "none", "text", shared, "10%", empty, "no"]
    assert rows["target"][1:] == ["(1, 0, 0)", "1 × 2 × 2", "4", "1", "weight 1", "target", shared, "0%", "–", "no"]
    words = ("formatter.caps.condition=0.25", "conditioning.modulation.timing.condition=own", "mask=fcd_b")
    other = made(*words, "conditioning/modulation=shared", "loss.weights.condition=0.5", "dropout.text=0.5")
    table = segments_table(other.config, other.pipeline, other.buckets[0].plan.layout)
    rows = {row[0]: row[1:] for row in texts(table)}
    assert rows["condition"][4:8] == ["0.25", "weight 0.5", "video", "own: min(t, 0.25)"]
    assert loss_words(frames.pipeline, "condition", 0.25) == "none"
    assert [loss_words(other.pipeline, "condition", cap) for cap in (0.0, 0.25)] == ["none", "weight 0.5"]
    assert rows["text"][8] == "50%" and "conditioning.adapter is Full." in " ".join(table.notes)


def test_the_page_shows_the_images_in_order_of_time_with_their_clocks(frames):
    html = page(frames)
    assert figures(html) == 2 * [
        "clean| condition canny, role condition clean: ceiling 0 loss none at (0, 0, 0)",
        "noised| target target, role target noised: ceiling 1 loss weight 1 at (1, 0, 0)",
    ]
    assert "time →" in html and "The graph that tasks are drawn from" not in html, "there is one task"
    first = base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])
    expected = frames.samples[0].images["condition"][0].permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(first))), expected)
    assert not np.array_equal(expected, frames.samples[1].images["condition"][0].permute(1, 2, 0).numpy())


def test_the_samples_are_those_that_training_draws_first(frames):
    batch = next(iter(build(composed(*line("+exp=fcd_mask_a"))["data"]).train_dataloader()))
    assert [sample.key for sample in frames.samples] == batch.keys[:2]
    assert torch.equal(frames.samples[1].images["target"], batch.images["target"][1])
    other = made("+exp=fcd_mask_a", "seed=1")  # negative control
    assert [sample.key for sample in other.samples] != batch.keys[:2]


def test_the_page_stands_alone_and_text_is_escaped(frames):
    evil = frames.samples[0]._replace(prompt="<script>alert('a')</script>", key="<b>key</b>", task="a<i>b")
    html = page(replace(frames, samples=(evil,), config=frames.config | {"name": "<u>x</u>"}))
    assert not any(tag in html for tag in ("<script>alert", "<b>key", "<i>b", "<u>x"))
    assert "&lt;b&gt;key" in html and "a&lt;i&gt;b" in html and html.count("<script>") == 1
    prompt = re.search(r'<p class="prompt">(.*?)</p>', html)[1]
    assert unescape(re.sub(r"</?(span|mark|del)>", "", prompt)) == evil.prompt
    assert not re.search(r"https?://|src=\"(?!data:)", html)
    assert frames.samples[0].prompt in unescape(re.sub(r"</?(span|mark|del)>", "", page(frames)))


# --- masks -----------------------------------------------------------------------------------------------------------

LAYOUT = Layout(
    (
        Segment("text", "text", "text", (1, 1, 3), cap=0.0),
        Segment("condition", "condition", "visual", (1, 2, 2), cap=0.0),
        Segment("target", "target", "visual", (1, 2, 2), (1, 0, 0)),
    )
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fcd_a", [[1, 2, 1], [2, 1, 1], [1, 1, 1]]),
        ("fcd_b", [[1, 2, 1], [None, 1, None], [1, 1, 1]]),
        ("fcd_c", [[1, 2, 1], [2, 0, 1], [1, 1, 1]]),
        ("fcd_d", [[1, 1, 1]] * 3),
    ],
)
def test_after_how_many_layers_everything_arrives(name, expected):
    assert depths(LAYOUT, mask(name)) == expected


def test_the_mask_on_the_page_is_that_of_the_layout(frames):
    table = mask_table(frames.pipeline, frames.buckets[0].plan.layout)
    assert table.header[1:] == ["text", "condition", "target"]
    assert texts(table) == [["text", "1", "2", "1"], ["condition", "2", "1", "1"], ["target", "1", "1", "1"]]
    colours = re.findall(r'<td class="(d\d|never)">([^<]+)</td>', page(frames))
    assert colours == [(f"d{depth}", depth) for row in texts(table) for depth in row[1:]]
    blocked = page(made("+exp=fcd_mask_b"))  # negative control
    assert blocked.count('<td class="never">–</td>') == 2 and page(frames).count('class="never"') == 0


# --- prompts ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text():
    """Bytes, a window of 80, 8 of them a text token."""
    return build_on_meta(composed(*line())).text


@pytest.mark.parametrize("prompt", ["", "a cat", "x" * 79, "x" * 80, "a cat, " * 20, "x" * 78 + "é, a cat", "é" * 60])
def test_what_lies_beyond_the_window_is_marked(text, prompt):
    """The last of the 80 tokens is the end token, so 79 bytes are read; half a letter is not."""
    found = read_prompt(text, prompt, ())
    size, kept = len(prompt.encode()), prompt.encode()[:79].decode(errors="ignore")
    assert "".join(piece for piece, _ in found.pieces) == kept and found.cut == prompt[len(kept) :]
    assert (found.length, found.window) == (size + 1, 80)
    assert (found.cut == "") == (size < 80)


def test_subject_tokens_are_those_that_hold_its_bytes(text):
    found = read_prompt(text, "a red Cat, catlike, on a mat", ("cat",))
    assert [piece for piece, hit in found.pieces if hit] == ["a red Ca", "t, catli"]
    assert not any(hit for _, hit in read_prompt(text, "a red dog", ("cat",)).pieces)
    assert not any(hit for _, hit in read_prompt(text, "x" * 79 + " cat", ("cat",)).pieces)  # beyond the window


def test_the_page_says_what_is_cut_and_what_is_looked_up(frames):
    sample = frames.samples[0]._replace(prompt="a cat " + "y" * 90, subjects=("cat",))
    html = unescape(page(replace(frames, samples=(sample,))))
    assert f"<del>{'y' * 17}</del>" in html and "<mark>a cat yy</mark>" in html
    assert "97 tokens with the end token, the window is 80: 17 tokens too many: cut" in html
    assert "subject 'cat': in 1 text token; conditioning.embedding is UCE." in html
    assert "dropout hides: text 10%" in html
    assert "<del>" not in page(frames) and "nothing is cut" in page(frames)  # negative control


def test_a_tokenizer_that_is_not_there_costs_only_the_tokens(frames, monkeypatch):
    def missing(self):
        raise OSError("no such folder")

    assert "not tokenized" not in page(frames)
    monkeypatch.setattr(type(frames.pipeline.text), "tokenizer", property(missing))
    assert page(frames).count("not tokenized: no such folder") == 2


# --- images --------------------------------------------------------------------------------------------------------


def test_many_large_images_are_made_smaller():
    noise = torch.randint(0, 256, (4, 1, 3, 512, 512), dtype=torch.uint8)
    small = [len(base64.b64decode(x)) for x in encoded([{f"{i}": x for i, x in enumerate(noise)}])[0].values()]
    assert sum(small) <= IMAGE_BYTES
    alone = Image.open(io.BytesIO(base64.b64decode(encoded([{"a": noise[0]}])[0]["a"])))
    assert alone.size == (512, 512) and np.array_equal(np.asarray(alone), noise[0, 0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize(("flops", "said"), [(0, "0.0"), (999, "999.0"), (82.5e6, "82.5 M"), (24.07e12, "24.1 T")])
def test_flops_in_short(flops, said):
    assert scaled(flops) == said


def test_a_learner_without_a_pipeline_shows_its_data():
    codec = preview(composed("+exp=mini/codec", kept_images(), "data.size=32", "data.limit=200"), 1)
    assert codec.refusal == "only the data are shown: learner CodecLearner has no layout, mask or conditioning"
    assert codec.drawn == 1000 and figures(page(codec))[0].startswith("unknown| ") and len(codec.tasks) == 5


# --- the command line ------------------------------------------------------------------------------------------------


def test_the_command_writes_one_page_and_says_what_matters(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said, _ = run(capsys, "+exp=fcd_mask_a", *line(), "samples=1")
    assert code == 0 and "fcd_mask_a (RealGeneral, Tables 1 to 4): what the model will see" in said
    assert "closure: text -> condition is blocked, but arrives after 2 layers through others" in said
    assert said.endswith("preview: runs/preview_fcd_mask_a.html\n")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["preview_fcd_mask_a.html"]
    assert len(figures((tmp_path / "runs/preview_fcd_mask_a.html").read_text())) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["+exp=fcd_mask_z"], "unknown choice 'fcd_mask_z' for group 'exp'"),
        (["+exp=fcd_mask_a", "data.sise=3"], "did you mean 'data.size'"),
        (["+exp=fcd_mask_a", "samples=0"], "samples=0 is not a whole number from 1 to 64"),
        (["+exp=fcd_mask_a", "graph=emoji"], "write graph@data.graph=NAME"),
        (["+exp=fcd_mask_a", "-m"], "one experiment at a time"),
        (["graph=graph300k"], "unknown choice 'graph300k' for group 'graph'"),
        (["graph=emoji", "graph.held_out=['cany>target']"], "did you mean 'canny>target'"),
        (["+exp=fcd_mask_a", "data.size=4"], "size=4 is too small"),
        (["graph=emoji", "out="], "'out=' is not key=value"),
    ],
)
def test_bad_input_ends_in_one_sentence(words, said, capsys):
    code, _, error = run(capsys, *words, *([kept_images()] if words[0].startswith("+exp") else []))
    assert code == 1 and error.startswith("error: ") and said in error and error.count("\n") == 1, error


def test_help_answers_without_torch():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['preview.py', '--help']\n"
        "try: runpy.run_path('experiments/preview.py', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert 'torch' not in sys.modules and 'hydra' not in sys.modules"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert (
        all(word in said for word in ("+exp=", "graph=", "out=", "samples="))
        and Path(ROOT / "docs/preview.md").exists()
    )
