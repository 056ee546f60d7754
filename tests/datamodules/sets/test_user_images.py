"""A user's own images on every data set: conditions as in training for the same image, and what cannot be made."""

import os
import warnings

import numpy as np
import pytest
import torch
from made_images import png_header
from PIL import Image
from test_set_data import graph
from tiny import CONF, choices, composed

from datamodules import degradations
from datamodules.emoji.samples import forms_of
from datamodules.graph.keyed import KeyedData
from datamodules.graph.user import SEED
from datamodules.reading.annotators import Annotator
from datamodules.sets.data import SetGraphData
from datamodules.sets.own_folder import OwnFolder
from datamodules.sets.samples import sized_forms
from unigen.pipeline.build import build

ROOTS = ("data.train.root=/nowhere", "data.test.root=/nowhere")
FRAMES = ("data.rows=[0,0]", "conditioning/embedding=none", "data.num_workers=0")
# those that ask for a folder; the others are bundled, and `set` is of no set
SETS = [name for name in choices("data") if name != "set" and "???" in (CONF / "data" / f"{name}.yaml").read_text()]


class Inverted(Annotator):
    """An annotator without a model."""

    model = None

    def __call__(self, image):
        return 255 - image


@pytest.fixture
def folder(tmp_path):
    """Three images of other sizes, which are noise in blocks."""
    rng = np.random.default_rng(0)
    for name, size in (("a", (90, 60)), ("b", (60, 90)), ("c", (77, 77))):
        blocks = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(tmp_path / f"{name}.png")
    return tmp_path


def data(root, **options) -> SetGraphData:
    source = OwnFolder(root, ["hed"])
    source.computed["depth"] = Inverted("inverted", "data.train.computed.depth", root / "kept")
    source.names = (*source.names, "depth")
    settings = {"size": 64, "ratios": ["1:1", "3:2", "2:3"], "rows": [0, 0], "val": source, "test": source}
    return SetGraphData(**{"graph": graph(), "train": source} | settings | options)


def trained(made: SetGraphData, name: str, index: int, seed: int = SEED):
    """The sample that training draws of a record for a task; the size is that of the record."""
    task = made.graph.task(name)
    for size in made.buckets:
        forms = sized_forms(forms_of({task: 1.0}, [0]), dict.fromkeys(made.buckets, 1.0))
        dataset = made.dataset("train", forms)
        form = next(key for key in forms if key.endswith(f"{size[0]} x {size[1]}"))
        if dataset._of_size(made.sources["train"].record(index), size):
            return dataset[form, index, seed]
    raise AssertionError


def mine(made: SetGraphData, path, name: str, prepared: bool = False):
    return made.user_sample(str(path), "", ("",), name, prepared)


@pytest.fixture(scope="module")
def graph200k():
    return build(composed("data=own_folder", "task=graph", *ROOTS[:1], *FRAMES)["data"]["graph"])


@pytest.mark.parametrize("name", ["canny", "depth", *degradations.NAMES])
def test_a_condition_is_that_of_training_for_the_same_image(folder, graph200k, name):
    """An image of the folder as a user's own and as a record are one sample, in the size of its shape."""
    made, task = data(folder, graph=graph200k), f"{name}>target"
    for index, file in enumerate("abc"):
        own, drawn = mine(made, folder / f"{file}.png", task), trained(made, task, index)
        assert own.slots == drawn.slots and torch.equal(own.images["condition"], drawn.images["condition"])
        other = mine(made, folder / f"{'bca'[index]}.png", task)
        assert not torch.equal(other.images["condition"], own.images["condition"]), "negative control"
        assert not own.images["target"].any() and drawn.images["target"].any()
    sizes = {(slot.width, slot.height) for slot in (trained(made, task, i).slots[0] for i in range(3))}
    assert sizes == {(64, 48), (48, 64), (64, 64)}


def test_a_degradation_is_drawn_by_the_seed_of_users(folder):
    """Negative control of the above: another sample of training has other noise."""
    made = data(folder)
    own, task = folder / "a.png", "blur>target"
    seeds = [trained(made, task, 0, seed).images["condition"] for seed in (SEED, SEED + 1)]
    assert torch.equal(mine(made, own, task).images["condition"], seeds[0]) and not torch.equal(*seeds)


def test_what_an_image_can_be_by_itself_and_what_is_prepared_is_taken_as_it_is(folder):
    made, path = data(folder), folder / "c.png"
    whole = mine(made, path, "target>reference").images["condition"]
    assert torch.equal(whole, trained(made, "canny>target", 2).images["target"])
    for task, prepared in (("reference>target", False), ("hed>target", True), ("canny>target", True)):
        assert torch.equal(mine(made, path, task, prepared).images["condition"], whole), task
    assert not torch.equal(mine(made, path, "canny>target").images["condition"], whole), "negative control"
    np.save(folder / "map.npy", np.arange(12.0).reshape(3, 4))
    stretched = mine(made, folder / "map.npy", "depth>target", True).images["condition"]
    assert stretched.min() == 0 and stretched.max() == 255 and (stretched[0, 0] == stretched[0, 1]).all()


def test_the_image_over_the_target_gives_the_size(folder):
    """Not the reference, which may have any."""
    sample = data(folder).user_sample(
        [str(folder / f"{n}.png") for n in "ab"], "", ("",), "reference+canny>target", False
    )
    assert [(slot.name, slot.width, slot.height) for slot in sample.slots] == [
        *((name, 48, 64) for name in ("condition0", "condition1", "target")),
    ]


def test_what_is_no_file_or_too_large_is_called_what_it_is(folder):
    (folder / "huge.png").write_bytes(png_header(16_000, 14_000))
    os.mkfifo(folder / "pipe.png")
    for name, said in {
        ".": "it is a folder; it must be a readable PNG",
        "pipe.png": "it is not a regular file; it must be a readable PNG",
        "huge.png": "it has 224 million pixels, and at most 128 million are read; make it smaller$",
    }.items():
        with pytest.raises(ValueError, match=said):
            mine(data(folder), folder / name, "canny>target")


@pytest.mark.parametrize(
    ("task", "files", "said"),
    [
        ("hed>target", "a.png", "needs a hed, which is not made of an image; give one with prepared=true, or name a"),
        ("reference+hed>target", "a.png", "give an image for each of what it shows: condition=.reference.png,hed.png."),
        ("cany>target", "a.png", "unknown annotation 'cany' in 'cany>target'; did you mean 'canny'"),
        ("canny>target", "none.png", "none.png': there is no such file"),
        ("canny>target", "text.png", "text.png': "),
    ],
)
def test_what_cannot_be_is_said(folder, task, files, said):
    (folder / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=said):
        mine(data(folder), folder / files, task)
    with pytest.raises(ValueError, match=r"rows must begin at 0 for this, or give rows="):
        mine(data(folder, rows=[1, 2]), folder / "a.png", "canny>target")


@pytest.mark.parametrize("name", SETS)
def test_every_task_of_every_set_takes_images_or_says_what_it_needs(name, folder):
    """The sets themselves are not there, as on a machine that samples alone."""
    roots = [word for word in ROOTS if word.startswith("data.train") or name in ("coco", "dreambench")]
    made = build({**composed(f"data={name}", "task=graph", *roots, *FRAMES)["data"], "size": 32})
    assert made.unsampled is None
    for task in (made.graph.task(task) for task in made.tasks):
        files = [str(folder / f"{'abc'[i % 3]}.png") for i in range(len(task.conditions))]
        given = made.user_sample(files, "a cat", ("cat",), task.name, True)
        assert [slot.role for slot in given.slots].count("condition") == len(task.conditions)
        needs = [name for name in task.conditions if name not in made.made]
        kinds = [made.graph.nodes[name].kind for name in needs if name in made.graph.nodes]
        if "condition" in kinds:
            with pytest.raises(ValueError, match=f"task={task.name.replace('+', '.')} needs a "):
                made.user_sample(files, "a cat", ("cat",), task.name, False)
        else:
            assert made.user_sample(files, "a cat", ("cat",), task.name, False).task == task.name


def test_the_other_data_say_whether_they_take_an_image(folder):
    clips = build(composed("task=clip", "data.size=32", "data.limit=40")["data"])
    sample = clips.user_sample(str(folder / "a.png"), "a cat", ("cat",), "clip", False)
    assert clips.unsampled is None and {slot.role for slot in sample.slots} == {"condition", "target"}
    shown = {slot.name: sample.images[slot.name].shape for slot in sample.slots}
    assert shown == {"first": (1, 3, 32, 32), "clip": (1, 3, 32, 32)}
    with pytest.raises(ValueError, match="task=canny>target with 1 images: clips have task=clip"):
        clips.user_sample(str(folder / "a.png"), "", ("",), "canny>target", False)
    forms = {"still": {"first": False, "frames": 1, "share": 1.0}}
    bare = build({**composed("task=clip", "data.limit=40")["data"], "forms": forms})
    with pytest.raises(ValueError, match=r"ClipData takes no image of your own: no form of data.forms shows one image"):
        bare.user_sample(str(folder / "a.png"), "", ("",), "clip", False)
    with pytest.raises(ValueError, match="KeyedData takes no image of your own: none of its samples has one image"):
        KeyedData(1, 0, 0).user_sample(str(folder / "a.png"), "", ("",), "", False)


@pytest.mark.parametrize("words", [["data=emoji_graph", "task=canny"], ["data=own_folder", "task=canny", *ROOTS]])
def test_an_animation_as_a_condition_is_said_once(folder, words):
    frames = [Image.open(folder / f"{name}.png").resize((64, 64)) for name in "abc"]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    made = build(composed(*words)["data"])
    with pytest.warns(UserWarning, match=r"moving\.gif' is an animation, of which the first frame") as said:
        made.user_sample(str(folder / "moving.gif"), "", ("",), made.tasks[0], False)
    assert len(said) == 1
    with warnings.catch_warnings():  # negative control
        warnings.simplefilter("error")
        made.user_sample(str(folder / "a.png"), "", ("",), made.tasks[0], False)
