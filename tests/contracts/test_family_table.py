"""Which experiments of the two papers run on which family by `family=` alone, and what is said where one does not."""

import re
import warnings

import pytest
from tiny import CONF, composed, reproductions

from unigen.config.preflight import preflight
from unigen.config.values import ConfigError
from unigen.pipeline.build import build, build_on_meta
from unigen.pipeline.pipeline import Pipeline

KINDS = {
    "cogvideox": "CogVideoX",
    "flux": "Flux",
    "flux_fill": "Flux",
    "wan": "Wan",
    "flux2_klein": "Flux2",
    "qwen_image": "QwenImage",
    "hunyuan_video1_5": "HunyuanVideo15",
}
REALGENERAL, VISUALCLOZE = reproductions("RealGeneral"), reproductions("VisualCloze")
# The family whose shipped weights predict another thing than these experiments train, and what is legal there.
REFUSED = {(exp, "cogvideox"): "process=vp solver=ddim" for exp in VISUALCLOZE}
INFILLING = ("visualcloze_fill", "visualcloze_code")  # conditions are noised, and seen on channels of a Fill model
QUICK = {
    ("fcd_mask_a", "flux"),
    ("visualcloze_code", "cogvideox"),
    *(("visualcloze_dev", family) for family in ("flux2_klein", "qwen_image", "hunyuan_video1_5")),
}
TABLE = [(exp, family) for exp in (*REALGENERAL, *VISUALCLOZE) for family in KINDS]


def built(*words: str) -> tuple[Pipeline, set[str], bool]:
    """The parts as shapes, the roles of the data's images, and whether the model is said not to see some of them."""
    config = composed(*words)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        pipeline = build_on_meta(config)
        layout = pipeline.plan(build(config["data"]).slots).layout
    unseen = any("the model never sees these images" in str(one.message) for one in heard)
    return pipeline, {s.role for s in layout.visual}, unseen


@pytest.mark.parametrize(
    ("exp", "family"), [pair if pair in QUICK else pytest.param(*pair, marks=pytest.mark.slow) for pair in TABLE]
)
def test_an_experiment_runs_on_a_family_or_one_sentence_says_how(exp, family):
    words = (f"+exp={exp}", f"family={family}/mini")
    legal = REFUSED.get((exp, family))
    if legal is not None:
        with pytest.raises(ValueError, match="predict") as refused:
            built(*words)
        (said,) = re.findall(r"take the weights' own by (.+?), or random weights by ", str(refused.value))
        assert said == legal and "\n" not in str(refused.value)
        words += tuple(said.split())
    pipeline, roles, unseen = built(*words)
    assert type(pipeline.backbone).__name__ == KINDS[family]
    assert pipeline.process.predicts == ("v" if family == "cogvideox" else "flow")
    of_experiment = {"condition", "target", "example"} if exp in VISUALCLOZE else {"condition", "target"}
    assert roles == ({"target"} if exp.startswith("text_to_image") else of_experiment)
    changed, plain = composed(*words), composed(f"+exp={exp}")
    assert all(changed.get(key) == plain.get(key) for key in ("mask", "formatter", "fill", "loss", "name"))
    assert unseen == (exp in INFILLING and family != "flux_fill")
    if unseen:
        assert not built(*words, "formatter=grid_clean")[2], "the warning names a formatter under which all are seen"


def test_the_table_holds_every_experiment_of_the_papers_and_every_family():
    small = {path.parent.name for path in (CONF / "family").glob("*/mini.yaml")}
    assert small == set(KINDS) and set(TABLE) >= QUICK and len(REALGENERAL) > len(VISUALCLOZE) > 0
    assert {exp for exp, _ in TABLE} == set(reproductions("RealGeneral", "VisualCloze"))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "family=flx/mini",
            r"unknown choice 'flx/mini' for group 'family' on the command line; did you mean 'flux/mini'",
        ),
        ("famly=flux/mini", r"unknown key 'famly' on the command line; did you mean 'family'\?"),
        (
            "family=flux/huge",
            r"unknown choice 'huge' for group 'family/flux' .*; family/flux has: mini, paper, scratch",
        ),
        ("solver=eulr", r"unknown choice 'eulr' for group 'solver' on the command line; did you mean 'euler'"),
    ],
)
def test_a_misspelt_family_is_told_those_that_are_there(word, said):
    with pytest.raises(ConfigError, match=said):
        preflight(CONF, ["+exp=fcd_mask_a", word], "config")
    preflight(CONF, ["+exp=fcd_mask_a", "family=flux/mini", "solver=euler"], "config")
