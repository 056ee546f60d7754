"""A clip as the condition of a clip: both move alike, and a user's own animation is read as one."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import composed

from datamodules.reading.drawing import canny, grey
from unigen.pipeline.build import build


def pairs(**changes):
    forms = {"grey3": {"condition": "grey", "frames": 3, "share": 1.0}}
    node = composed("data=clip_pairs", "task=clip_colour")["data"]
    made = build({**node, "size": 32, "limit": 40, "forms": forms, "tasks": ["grey>clip"], **changes})
    made.prepare_data()
    return made


@pytest.mark.parametrize(("condition", "compute"), [("grey", grey), ("canny", canny)])
def test_every_frame_of_the_condition_is_computed_of_its_frame(condition, compute):
    forms = {"one": {"condition": condition, "frames": 3, "share": 1.0}}
    data = pairs(forms=forms, tasks=[f"{condition}>clip"])
    sample = data.dataset("train")[("one", 1, 0)]
    assert [(s.name, s.role, s.frames) for s in sample.slots] == [
        ("condition0", "condition", 3),
        ("clip", "target", 3),
    ]
    expected = np.stack([compute(frame.numpy()) for frame in sample.images["clip"]])
    assert np.array_equal(sample.images["condition0"].numpy(), expected)
    assert not np.array_equal(sample.images["condition0"].numpy(), sample.images["clip"].numpy()), "negative control"
    assert sample.task == f"{condition}>clip"


def test_a_users_own_animation_becomes_the_condition(tmp_path):
    frames = [Image.new("RGB", (40, 32), (60 * i, 0, 200)) for i in range(5)]
    frames[0].save(tmp_path / "own.gif", save_all=True, append_images=frames[1:])
    data = pairs()
    with pytest.warns(UserWarning, match=r"own\.gif' has 5 frames, of which 3, evenly spread, are used"):
        sample = data.user_sample(str(tmp_path / "own.gif"), "a cat", ("cat",), "grey>clip", False)
    shown = sample.images["condition0"]
    assert shown.shape == (3, 3, 32, 32) and torch.equal(shown[:, 0], shown[:, 1]), "three frames of five, in grey"
    assert len({int(x.float().mean()) for x in shown}) == 3, "negative control: not one frame three times"
    frames[0].save(tmp_path / "still.png")
    with pytest.raises(ValueError, match=r"still\.png' has 1 frame, but a clip of this run has 3"):
        data.user_sample(str(tmp_path / "still.png"), "", ("",), "grey>clip", False)
    with pytest.raises(ValueError, match=r"a clip is one file, and the tasks are grey>clip"):
        data.user_sample(str(tmp_path / "own.gif"), "", ("",), "canny>target", False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"forms": {"a": {"condition": "depth", "frames": 3, "share": 1.0}}}, r"condition is 'depth'; legal are grey"),
        ({"forms": {"a": {"condition": "grey", "frames": 10, "share": 1.0}}}, r"frames is 10; legal are 1 to 9"),
        (
            {"tasks": ["clip"]},
            r"tasks is \['clip'\], but the forms of data\.forms have grey>clip; write 'data\.tasks=",
        ),
        ({"forms": {"a": None}}, r"data\.forms\.a is None; it must be a mapping of condition, frames, share"),
    ],
)
def test_what_is_not_legal_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        pairs(**changes)
