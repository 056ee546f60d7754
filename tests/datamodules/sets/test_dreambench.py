"""DreamBench on a miniature of its folder: prompts of the two sorts, tokens, photographs, wrong files."""

from pathlib import Path

import numpy as np
import pytest
from miniature import pixels, png, written

from datamodules.reading.images import BadImage
from datamodules.sets.dreambench import DreamBench

CLASSES = {"backpack": "backpack", "bear_plushie": "stuffed animal", "cat2": "cat", "dog": "dog"}
OBJECTS = ("a {0} {1} in the jungle", "a red {0} {1}", "a {0} {1} with the Eiffel Tower in the background")
ALIVE = ("a {0} {1} in the jungle", "a {0} {1} wearing a red hat", "a wet {0} {1}")


def prompts(lines: tuple[str, ...]) -> str:
    return "prompt_list = [\n" + ",\n".join(f"'{line}'.format(unique_token, class_token)" for line in lines) + "\n]\n"


def text(classes=CLASSES, objects=OBJECTS, alive=ALIVE) -> str:
    pairs = "".join(f"{subject},{noun}\n" for subject, noun in classes.items())
    return (
        f"Classes\n\nsubject_name,class\n{pairs}\nPrompts\n\nObject Prompts\n\n{prompts(objects)}\n"
        f"Live Subject Prompts\n\n{prompts(alive)}"
    )


def made(root: Path, content: str | None = None, **options) -> DreamBench:
    written(root / "prompts_and_classes.txt", text() if content is None else content)
    for number, subject in enumerate(CLASSES):
        for i in (3, 0):
            written(root / subject / f"0{i}.jpg", png(10 * number + i, 24, 16))
        written(root / subject / "notes.txt", "x")
    return DreamBench(root, **options)


def test_every_subject_has_the_prompts_of_its_sort(tmp_path):
    found = made(tmp_path)
    said = [(found.record(i).key, found.record(i).caption(), found.record(i).subjects) for i in range(len(found))]
    assert len(said) == 4 * 3
    assert said[0] == ("backpack/0", "a backpack in the jungle", ("backpack",))
    assert said[4] == ("bear_plushie/1", "a red stuffed animal", ("stuffed animal",))
    assert said[7] == ("cat2/1", "a cat wearing a red hat", ("cat",)) and said[11][1] == "a wet dog"


def test_records_are_clustered_by_subject_and_by_prompt(tmp_path):
    found = [record.clusters for record in map(made(tmp_path).record, range(12))]
    assert found[0] == {"subject": "backpack", "prompt": OBJECTS[0]} and found[7] == {
        "subject": "cat2",
        "prompt": ALIVE[1],
    }
    assert len({each["subject"] for each in found}) == 4
    assert {each["prompt"] for each in found} == {*OBJECTS, *ALIVE}, "a prompt of both lists is one"


def test_a_token_stands_before_the_class(tmp_path):
    assert made(tmp_path, token="sks").record(0).caption() == "a sks backpack in the jungle"


def test_the_reference_is_the_first_photograph_and_scores_use_all(tmp_path):
    found = made(tmp_path)
    record = found.record(8, seed=3)
    assert set(record.images) == set(found.names) and np.array_equal(record.read("reference"), pixels(20, 24))
    assert [image.size() for image in found.photographs("cat2")] == [(24, 16)] * 2
    assert np.array_equal(found.photographs("cat2")[1].read(), pixels(23, 24))


def test_the_other_photographs_take_turns_as_the_target(tmp_path):
    made(tmp_path)
    for i in (5, 7):
        written(tmp_path / f"cat2/0{i}.jpg", png(20 + i, 24, 16))
    found = DreamBench(tmp_path)
    shown = [found.record(i).read("target") for i in (6, 7, 8)]  # of 03, 05 and 07
    assert all(np.array_equal(one, pixels(20 + i, 24)) for one, i in zip(shown, (3, 5, 7), strict=True))
    assert not any(np.array_equal(one, found.record(6).read("reference")) for one in shown)
    for i in (3, 5, 7):
        (tmp_path / f"cat2/0{i}.jpg").unlink()
    with pytest.raises(BadImage, match=r"cat2.*one photograph"):
        found.record(6)


def test_a_limit_and_the_middle(tmp_path):
    few = made(tmp_path, limit=5)
    assert len(few) == 5 and few.record(4).key == "bear_plushie/1"
    with pytest.raises(IndexError):
        few.record(5)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (text(classes={}), "no classes"),
        (text(objects=()), "no object prompts"),
        (text(alive=()), "no live subject prompts"),
        (text().replace("Live Subject", "Other"), "no live subject prompts"),
        ("", "no classes"),
    ],
)
def test_a_wrong_file_names_what_is_missing(tmp_path, content, told):
    found = made(tmp_path, content)
    with pytest.raises(ValueError, match=rf"prompts_and_classes\.txt' has {told}"):
        len(found)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*prompts_and_classes\.txt.*google/dreambooth"):
        len(DreamBench(tmp_path))
    found = made(tmp_path)
    for path in (tmp_path / "backpack").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="no image of 'backpack'"):
        found.record(0)
    (tmp_path / "backpack").rmdir()
    with pytest.raises(ValueError, match=r"no folder .*backpack"):
        found.record(0)
    written(tmp_path / "dog/00.jpg", png(1)[:50])
    with pytest.raises(BadImage, match=r"dog/00\.jpg"):
        found.record(9).read("reference")


def test_prompts_are_never_run(tmp_path):
    """The released file is Python in looks; braces and calls in it stay text or are no prompts."""
    odd = ("a {0} {1} and a }", "a {0} {1} in {unique}", "a {0} {1}")
    found = made(tmp_path, text(objects=odd))
    assert found.record(0).caption() == "a backpack and a }" and found.record(1).caption() == "a backpack"
