"""What had another name before: modules in `_target_`, and experiments that were one configuration twice."""

import copy
import importlib

import pytest
import yaml
from tiny import CONF, choices, composed

from unigen.config.moved import KEYS, MOVED, SAME, YOUNGER, moved
from unigen.config.preflight import preflight
from unigen.config.values import ConfigError, same_run
from unigen.pipeline.build import build


@pytest.mark.parametrize("before", MOVED)
def test_the_place_of_today_exists_and_is_the_last(before):
    assert importlib.import_module(MOVED[before])
    assert MOVED[before] not in MOVED or MOVED[MOVED[before]] == MOVED[before], "one step leads to the end"


def test_every_target_of_an_older_config_is_moved_and_nothing_else():
    old = {
        "mask": {"_target_": "unigen.masks.Mask", "name": "unigen.masks.Mask"},
        "parts": [{"_target_": "torch.nn.GELU"}],
    }
    new = moved(old)
    assert new["mask"] == {"_target_": "unigen.core.masks.Mask", "name": "unigen.masks.Mask"}
    assert new["parts"] == old["parts"] and old["mask"]["_target_"] == "unigen.masks.Mask"


@pytest.mark.parametrize(("group", "before"), SAME)
def test_a_choice_that_had_two_names_says_the_one_that_stays(group, before):
    now = SAME[group, before]
    assert now in choices(group) and before not in choices(group)
    with pytest.raises(ConfigError, match=f"'{before}'.*it was the same configuration as '{now}': write {now}$"):
        preflight(CONF, [f"+{group}={before}"])
    preflight(CONF, [f"+{group}={now}"])


def test_guidance_and_padding_of_older_runs_are_read_in_todays_words():
    older = {
        "solver": {"_target_": "unigen.solvers.ddim.DDIM", "steps": 50, "guidance": 6.0, "drop": ["text"]},
        "formatter": {"_target_": "unigen.formatters.frames.Frames", "caps": {"target": 1.0}, "temporal_fill": "zero"},
    }
    found = moved(older)
    own = {"strength": 6.0, "drop": ["text"], "by_task": {}}
    assert found["guidance"] == own | {"passes": [], "rescale": False, "interval": [0.0, 1.0]}
    assert found["solver"] == {"_target_": "unigen.solvers.ddim.DDIM", "steps": 50}
    assert found["formatter"]["temporal_padding"] == "zero" and "temporal_fill" not in found["formatter"]
    assert build(found["formatter"]).rules == build(composed()["formatter"]).rules
    assert moved(found) == found, "what is of today stays as it is"


@pytest.mark.parametrize("before", KEYS)
def test_a_key_that_had_another_name_says_the_one_of_today(before):
    with pytest.raises(ConfigError, match=f"'{before}'.*it is called '{KEYS[before]}' now"):
        preflight(CONF, [f"{before}=1"])


def test_the_slot_of_a_style_score_is_called_image_now():
    found = moved({"metric": {"style_image": {"picture": "condition1", "resize": 3}, "ssim": {}}})
    assert found["metric"]["style_image"] == {"image": "condition1", "resize": 3}
    assert moved({"metric": {}}) == {"metric": {}}, "negative control"
    assert moved({"metric": "a text"}) == {"metric": "a text"}, "of a damaged file, which others refuse"


def test_younger_keys_say_what_an_older_run_did(tmp_path):
    """So that it goes on; a younger key with another value is another run."""
    now = composed("+exp=fcd_mask_a")
    older = copy.deepcopy(now)
    for key in (*YOUNGER, "guidance.hide", "optimizer.matrices", "optimizer.shares", "data.test_examples"):
        group, _, name = key.partition(".")
        del older[group][name]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(older))
    (tmp_path / "metrics.jsonl").touch()
    assert not same_run(tmp_path, now)
    for word in ("guidance.rescale=true", "conditioning/slots=roles", "data.test_examples=nearest", "optimizer=muon"):
        with pytest.raises(ConfigError, match="already holds another configuration"):
            same_run(tmp_path, composed("+exp=fcd_mask_a", word))
    assert moved(now) == now
