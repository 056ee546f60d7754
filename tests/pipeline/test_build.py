"""`build` tells a user's mistake from a defect: the first is one sentence, the second keeps its type."""

import pytest
from hydra.errors import InstantiationException
from tiny import composed, tiny

from unigen.config.values import ConfigError
from unigen.pipeline.build import build, build_learner


def refuse() -> None:
    raise ValueError("a sentence of our own")


def fail() -> None:
    raise KeyError("a defect of our own")


def test_what_a_constructor_refuses_is_raised_as_it_was():
    with pytest.raises(ValueError, match=r"^a sentence of our own$"):
        build({"_target_": f"{__name__}.refuse"})
    with pytest.raises(InstantiationException, match="a defect of our own"):
        build({"_target_": f"{__name__}.fail"})


@pytest.mark.parametrize("target", ["unigen.nowhere.Thing", "unigen.core.masks.Nothing", "x.y", 7])
def test_a_target_that_is_not_there(target):
    with pytest.raises(ConfigError, match=f"_target_ is '{target}', which names no class or function") as caught:
        build({"_target_": target})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", ["gelu-of-mine", "猫"])
def test_what_a_library_does_not_take_names_the_part(word):
    node = tiny()["encoder"]["text"]
    build(node)
    with pytest.raises(ConfigError, match=r" refuses the configuration of unigen.encoders.t5.T5Text") as caught:
        build(node | {"config": node["config"] | {"feed_forward_proj": word}})
    assert "\n" not in str(caught.value)


def test_a_learner_that_makes_its_models_itself():
    config = composed("+exp=mini/judge")
    config["learner"]["clip"]["vision_config"]["num_attention_heads"] = 3
    with pytest.raises(
        ConfigError, match=r"refuses the configuration of unigen.learners.judge.*not a multiple"
    ) as caught:
        build_learner(config)
    assert "\n" not in str(caught.value)
