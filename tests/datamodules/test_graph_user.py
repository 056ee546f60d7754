"""A user's own image as a sample of the emoji graph: what is made of it, what is given, and what cannot be."""

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from small_runs import command, kept_images, small, train
from tiny import CONF

from datamodules.degradations import NAMES
from datamodules.emoji.data import EmojiGraphData
from datamodules.emoji.images import OF_IMAGES, Row
from datamodules.graph.graph import AnnotationGraph
from datamodules.graph.user import SEED
from datamodules.reading.drawing import canny, read_image


def made(**options) -> EmojiGraphData:
    config = yaml.safe_load((CONF / "graph" / "emoji.yaml").read_text())
    graph = AnnotationGraph(**{key: value for key, value in config.items() if key != "_target_"})
    return EmojiGraphData(graph=graph, size=32, limit=240, cache=kept_images().partition("=")[2], **options)


@pytest.fixture(scope="module")
def data() -> EmojiGraphData:
    return made()


@pytest.fixture
def path(tmp_path) -> str:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((80, 60)).save(tmp_path / "mine.png")
    return str(tmp_path / "mine.png")


def sample(data: EmojiGraphData, path: str, task: str, prepared: bool = False):
    return data.user_sample(path, "a cat", ("cat",), task, prepared)


def test_a_condition_is_made_of_the_image_unless_it_is_given(data, path):
    mine = read_image(path, 32)
    found = sample(data, path, "canny>target")
    assert np.array_equal(found.images["condition"][0], canny(mine[0].numpy())) and not found.images["target"].any()
    assert (found.prompt, found.subjects, found.task, found.key) == ("a cat", ("cat",), "canny>target", "user")
    assert [(slot.name, slot.role, slot.row, slot.width) for slot in found.slots] == [
        ("condition", "condition", 0, 32),
        ("target", "target", 0, 32),
    ]
    for task in ("canny>target", "blur>target", "mask>target"):
        assert torch.equal(sample(data, path, task, prepared=True).images["condition"], mine)
    for task in ("target>canny", "reference>target", "line>target", "skin_tone>target"):
        assert torch.equal(sample(data, path, task).images["condition"], mine), task
    assert not torch.equal(found.images["condition"], mine), "negative control"


@pytest.mark.parametrize("name", [*(name for name in NAMES if name != "gray"), "grey", "sobel"])
def test_every_degradation_and_map_is_made_the_same_each_time(data, path, name):
    one, other = (sample(data, path, f"{name}>target").images["condition"] for _ in range(2))
    assert one.shape == (1, 3, 32, 32) and one.dtype == torch.uint8 and torch.equal(one, other)
    assert not torch.equal(one, read_image(path, 32))


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (
            "reference+canny>target",
            r"shows reference and canny and asks for target; .*: condition=\[reference.png,canny.png\]",
        ),
        ("mask>target", "needs a mask, which is not made of an image; give one with prepared=true, or .*canny"),
        ("cany>target", "unknown annotation 'cany' in 'cany>target'; did you mean 'canny'"),
        ("canny", "no task; write conditions>targets"),
    ],
)
def test_what_cannot_be_is_said(data, path, task, said):
    with pytest.raises(ValueError, match=said):
        sample(data, path, task)


def test_a_task_of_several_images_takes_as_many_or_the_one_that_they_are_made_of(data, path, tmp_path):
    """In the order of the task; targets that are several are all asked for."""
    other = str(tmp_path / "other.png")
    Image.new("RGB", (50, 50), "red").save(other)
    found = data.user_sample([other, path], "a cat", ("cat",), "reference+canny>target", False)
    assert [slot.name for slot in found.slots] == ["condition0", "condition1", "target"]
    assert torch.equal(found.images["condition0"], read_image(other, 32))
    assert torch.equal(found.images["condition1"], sample(data, path, "canny>target").images["condition"])
    both = sample(data, path, "canny+jpeg>target")
    for name, task in (("condition0", "canny>target"), ("condition1", "jpeg>target")):
        assert torch.equal(both.images[name], sample(data, path, task).images["condition"])
    assert not torch.equal(both.images["condition0"], both.images["condition1"]), "negative control"
    wanted = sample(data, path, "canny>target+mask")
    assert [slot.name for slot in wanted.slots] == ["condition", "target0", "target1"]
    with pytest.raises(ValueError, match="asks for target; it takes one image, and 2 are given"):
        data.user_sample([path, other], "", ("",), "canny>target", False)


def test_a_condition_is_that_of_training_for_the_same_image(data, tmp_path):
    """The records' own function and a file with the same target agree to the pixel, degradations by the seed."""
    data.prepare_data()
    rows = [Row(glyph, glyph, SEED, 0) for glyph in data.emoji.indices["train"][:2]]
    path = str(tmp_path / "target.png")
    Image.fromarray(data.records.image("target", rows[0]).transpose(1, 2, 0)).save(path)
    for name in OF_IMAGES & data.graph.node_of.keys():
        mine = sample(data, path, f"{name}>target").images["condition"][0].numpy()
        assert np.array_equal(mine, data.records.image(name, rows[0])), name
        assert not np.array_equal(mine, data.records.image(name, rows[1])), f"negative control: {name}"
    noisy = sample(data, path, "gaussian_noise>target").images["condition"][0].numpy()
    assert not np.array_equal(noisy, data.records.image("gaussian_noise", rows[0]._replace(sample=SEED + 1)))


def test_a_run_that_always_had_examples_says_so(path):
    with pytest.raises(ValueError, match=r"rows=\[1, 2\]: in training every sample had example rows"):
        sample(made(rows=[1, 2]), path, "canny>target")


def test_a_run_draws_by_the_task_that_is_named(tmp_path, path, capfd):
    run = tmp_path / "run"
    words = [
        "task=graph",
        "data.tasks=['target>canny','blur>target']",
        "data.rows=[0,0]",
        "conditioning/embedding=none",
    ]
    train(small(run, "+exp=fcd_mask_a", *words, "trainer.max_steps=1"))
    shown = []
    for task in ("target>canny", "jpeg>target"):  # the second one was not trained on
        said = [f"run={run}", f"condition={path}", f"out={tmp_path / 'out.png'}", "steps=1", f"task={task}"]
        assert command("sample.py", *said) == 0, capfd.readouterr().err
        with Image.open(tmp_path / "out_condition.png") as condition:
            shown.append(np.asarray(condition).transpose(2, 0, 1))
    mine = read_image(path, 32)[0].numpy()
    assert np.array_equal(shown[0], mine) and not np.array_equal(shown[1], mine)
    assert command("sample.py", f"run={run}", f"condition={path}", "task=mask>target") == 1
    assert "error: task=mask>target needs a mask" in capfd.readouterr().err
    assert command("sample.py", f"run={run}", f"condition={path}") == 1
    assert f"error: run={run} has 2 tasks; say which by task=, one of '" in capfd.readouterr().err
