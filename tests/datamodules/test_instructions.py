"""Instructions: parts and their frequencies, numbering, words of our own for every image, lengths, determinism."""

import random
import re
from collections import Counter

import pytest
import torch
from small_graphs import graph200k
from tiny import composed

from datamodules.emoji.images import NAMES
from datamodules.graph.instruction_words import CONTENTS, IMAGES, LAYOUTS, TASKS, phrases_of, word_of
from datamodules.graph.instructions import Instructions, ShortInstructions, fitting
from datamodules.graph.sampling import Task
from unigen.pipeline.build import build

DRAWS = 6000
EDGES = Task(("reference", "canny"), ("target",), "group", "meta")
DENSE = Task(("target",), ("canny",), "group", "meta")


def said(make: Instructions, seed: int, task: Task = EDGES, training: bool = True) -> str:
    return make(task, 3, "red apple", "apple", seed, training)


def parts(prompt: str) -> str:
    """Which of layout, task and content a full instruction has."""
    return "L" + "T" * ("[IMAGE1]" in prompt) + "C" * prompt.endswith("red apple")


def chi_square(counts: Counter, shares: dict[str, float]) -> float:
    """Over its mean, the number of shares less one."""
    n = sum(counts.values())
    return sum((counts[name] - n * p) ** 2 / (n * p) for name, p in shares.items()) / (len(shares) - 1)


# --- how often ------------------------------------------------------------------------------------------------------


def drawn(whole: float, **options) -> Counter:
    """The parts of training prompts, of which the pipeline then hides a share `whole` (`dropout.text`)."""
    make = Instructions(**options)
    hidden = (torch.rand(DRAWS, generator=torch.Generator().manual_seed(0)) < whole).tolist()
    return Counter("" if hide else parts(said(make, seed)) for seed, hide in enumerate(hidden))


def test_prompts_have_the_published_parts_as_often_as_published():
    """The frequencies of VisualCloze's released code, for a task that ends in a target."""
    published = {"LTC": 0.576, "LT": 0.144, "LC": 0.144, "L": 0.036, "": 0.100}
    config = composed("+exp=visualcloze_code")
    options = {key: config["data"]["instruction"][key] for key in ("task_dropout", "content_dropout")}
    counts = drawn(config["dropout"]["text"], **options)
    assert set(counts) == set(published) and chi_square(counts, published) < 3
    assert chi_square(drawn(0.1, task_dropout=0.3), published) > 30, "negative control"


def test_evaluation_says_all_there_is():
    make = Instructions()
    assert {parts(said(make, seed, training=False)) for seed in range(200)} == {"LTC"}
    assert {parts(said(make, seed)) for seed in range(200)} == {"LTC", "LT", "LC", "L"}, "negative control"


def test_content_is_said_only_of_what_is_described():
    make = Instructions(content_dropout=0.0)
    assert all("apple" not in said(make, seed, DENSE) for seed in range(50))
    assert all("apple" in said(make, seed) for seed in range(50))
    assert "apple" in said(Instructions(content_dropout=0.0, described=["canny"]), 0, DENSE)
    assert "C" not in parts(make(EDGES, 3, "", "apple", 0, True)), "no caption, no content"


def test_what_is_shown_is_named_before_a_caption_that_does_not_name_it():
    make = ShortInstructions()
    assert make(EDGES, 1, "a lamp of brass", "table lamp", 0, False).endswith("picture. table lamp a lamp of brass")
    assert make(EDGES, 1, "A Table Lamp of brass", "table lamp", 0, False).endswith("picture. A Table Lamp of brass")


# --- what is said ---------------------------------------------------------------------------------------------------


def test_images_are_numbered_in_the_order_of_the_columns():
    for task in (EDGES, EDGES._replace(conditions=("canny", "reference"))):
        for seed in range(40):
            prompt = said(Instructions(), seed, task, training=False)
            for number, name in enumerate(task.images, start=1):
                after = prompt.split(f"[IMAGE{number}] ")
                assert len(after) == 2 and after[1].startswith(phrases_of(name)), prompt
            assert f"[IMAGE{len(task.images) + 1}]" not in prompt


def test_words_vary_with_the_seed_and_with_nothing_else():
    make, again = Instructions(), Instructions()
    assert [said(make, seed) for seed in range(50)] == [said(again, seed) for seed in range(50)]
    assert len({said(make, seed, training=False) for seed in range(300)}) > 250
    assert len({said(ShortInstructions(), seed, training=False) for seed in range(300)}) == 1


def test_templates_say_rows_before_columns_and_how_many_images():
    rng = random.Random(0)
    for template in LAYOUTS:
        filled = template.format(rows="7 rows", columns="3 columns", total=21, r=7, c=3)
        assert "21" in filled and filled.index("7") < filled.rindex("3"), template
    assert Instructions().layout(1, DENSE, rng).count("rows") == 0
    assert {re.sub(r"[^{}a-z]", "", "".join(re.findall("{[a-z]+}", text))) for text in TASKS} == {
        "{conditions}{target}",
        "{target}{conditions}",
    }
    assert min(map(len, map(set, (LAYOUTS, TASKS, CONTENTS)))) == 10 and all(text.endswith(":") for text in CONTENTS)


def test_every_image_of_both_graphs_has_words():
    names = {name for task in graph200k("graph200k_bbox").tasks for name in task.images} | set(NAMES)
    lacking = {name for name in names if name not in IMAGES}
    assert len(names) > 60 and not lacking
    for word, phrases in IMAGES.values():
        assert word and len(set(phrases)) == len(phrases) >= 2 and not set("[]{}") & set("".join(phrases))


def test_an_image_of_an_own_graph_is_called_by_its_name():
    assert phrases_of("pencil_sketch") == ("the picture 'pencil sketch'",) and word_of("frame_0") == "frame 0"
    assert (
        phrases_of("woodcut_ref") == ("a sample of the style 'woodcut'",) and word_of("woodcut_ref") == "woodcut style"
    )


def test_the_short_form_is_short():
    assert said(ShortInstructions(), 0, training=False) == "3x3: subject, edges > picture. red apple"
    assert ShortInstructions(task_dropout=1.0, content_dropout=1.0)(EDGES, 3, "x", "x", 0, True) == "3x3:"
    longest = max(len(said(ShortInstructions(), 0, Task(("target",) * 3, ("target",), "", ""), False)) for _ in "a")
    assert longest < 80


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task_dropout": 1.5}, r"data\.instruction\.task_dropout=1\.5 must be a probability"),
        ({"content_dropout": None}, r"data\.instruction\.content_dropout=None"),
        ({"described": "target"}, "must be a list of images"),
    ],
)
def test_wrong_options_are_refused(options, words):
    assert Instructions(0.0, 1, ["target"]), "the control"
    with pytest.raises(ValueError, match=words):
        Instructions(**options)


# --- by configuration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "form"), [("mini", ShortInstructions), ("scratch", ShortInstructions), ("paper", Instructions)]
)
def test_the_presets_say_as_much_as_the_scales_text_encoder_reads(scale, form):
    assert type(build(composed("+exp=visualcloze_fill", f"scale={scale}")["data"]["instruction"])) is form
    assert composed("task=graph", f"scale={scale}")["data"]["instruction"] is None, "other experiments: bare captions"


def test_either_form_can_be_chosen():
    for name, form in {"full": Instructions, "short": ShortInstructions}.items():
        node = composed("task=graph", f"instruction@data.instruction={name}")["data"]["instruction"]
        assert type(build(node)) is form
    assert type(fitting(226)) is Instructions and type(fitting(80, task_dropout=0.5)) is ShortInstructions
