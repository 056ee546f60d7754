"""ClipData's options: all of them in its config, and what cannot be is refused."""

from pathlib import Path

import pytest
import yaml

from datamodules.pretraining.clips import FORMS, SHARES, ClipData
from datamodules.pretraining.motions import MOTION_SHARES

ROOT = Path(__file__).parents[2]


def test_the_yaml_lists_every_argument_with_its_default():
    written = yaml.safe_load((ROOT / "experiments/conf/data/clips.yaml").read_text())
    defaults = dict(ClipData.__init__.__kwdefaults__)
    assert set(written) == {"_target_", *defaults}
    assert written["forms"] == FORMS and written["kinds"] == SHARES and written["clips"] == defaults["clips"]
    assert written["motions"] == MOTION_SHARES


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"tasks": ["canny"]}, r"tasks=\['canny'\].*\[clip\]"),
        ({"clips": 0}, "clips=0.*at least 1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"kinds": {"sepia": 1}}, "unknown kind 'sepia'.*twemoji, openmoji, line, canny, grey"),
        ({"kinds": {}}, "kinds names none"),
        ({"kinds": {"line": -1}}, "'line' in kinds is -1.*0 or above"),
        ({"motions": {"dance": 1}}, "unknown motion 'dance' in motions.*still, move, restyle, fill, family"),
        ({"motions": {}}, "motions names none"),
        ({"motions": {"move": 0, "still": 0}}, "motions names none with a share above 0"),
        ({"motions": {"move": -1}}, "'move' in motions is -1.*0 or above"),
        ({"forms": {}}, "forms names none"),
        ({"forms": {"a": {"first": True, "frame": 1, "share": 1}}}, r"forms\.a.*frame.*first, frames, share"),
        ({"forms": {"a": {"first": "yes", "frames": 1, "share": 1}}}, r"forms\.a\.first='yes'"),
        ({"forms": {"a": {"first": True, "frames": 3, "share": 1}}}, r"forms\.a\.frames=3.*1 .*2, 4, 6 or 8"),
        ({"forms": {"a": {"first": True, "frames": 10, "share": 1}}}, r"forms\.a\.frames=10"),
        ({"forms": {"a": {"first": True, "frames": 2, "share": -1}}}, "'a' in data.forms is -1"),
    ],
)
def test_bad_options_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        ClipData(**{"size": 24, "limit": 10, **wrong})
