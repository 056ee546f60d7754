"""Measures of facts: the truth is right, and each measure moves when its own fault is planted. The judge is shipped."""

import json

import numpy as np
import pytest
import torch

from datamodules.scenes import maps
from datamodules.scenes.candidates import Candidates
from datamodules.scenes.facts import facts_of
from datamodules.scenes.render import render_scene
from datamodules.scenes.scene import Backdrop, Ground, Scene, Thing
from datamodules.scenes.sprites import Sprites
from unigen.evaluation.scoring import measured, references_of
from unigen.metrics.depth_judge import SceneDepth
from unigen.metrics.scene import SceneBackground, SceneLeak, SceneLikeness, ScenePlace, SceneSecond, SceneSubject

DUCK, WHALE, GLOBE = "1f986", "1f433", "1f30d"
SIDE = 64
CONDITION = Scene(Backdrop("purple"), None, "twemoji", Thing(DUCK, "bottom", "small"))
SCENE = Scene(
    Backdrop("red", "stripes", "yellow"),
    Ground("white", "low"),
    "twemoji",
    Thing(DUCK, "top left", "medium"),
    Thing(GLOBE, "right", "small"),
)
ALONE = SCENE._replace(second=None)


@pytest.fixture(scope="module")
def draw(tmp_path_factory):
    """Candidates of few glyphs, drawn into a folder of their own."""
    from datamodules.emoji.cache import glyphs
    from datamodules.scenes.cast import Cast

    names = tuple(sorted({DUCK, WHALE, GLOBE, *glyphs(30)}))
    found = Candidates(64)  # more than there are: all of them are drawn
    found._sprites[SIDE] = Sprites(SIDE, names, tmp_path_factory.mktemp("candidates"))
    found._sprites[SIDE].prepare()
    for split in ("train", "val", "test"):
        found._casts[split] = Cast(split, names)
    return found


def image(draw, scene: Scene) -> torch.Tensor:
    return torch.from_numpy(render_scene(draw._sprites[SIDE], scene, SIDE).image)[None]


def facts(draw, scene: Scene, condition: Scene | None = CONDITION) -> list[str]:
    return [json.dumps(facts_of(scene, render_scene(draw._sprites[SIDE], scene, SIDE), condition))]


def metrics(draw) -> dict:
    judged = {m.name: m("shipped:judge", draw) for m in (SceneSubject, SceneSecond)}
    return {"scene_background": SceneBackground(), "scene_leak": SceneLeak(), "scene_place": ScenePlace(draw), **judged}


def scores(draw, shown: torch.Tensor, scene: Scene = SCENE) -> dict[str, float]:
    return {name: metric(shown, facts(draw, scene)).item() for name, metric in metrics(draw).items()}


RIGHT = {"scene_background": 1, "scene_leak": 0, "scene_place": 1, "scene_subject": 1, "scene_second": 1}


@pytest.mark.parametrize("scene", [SCENE, ALONE, SCENE._replace(backdrop=Backdrop("blue", "gradient", "pink"))])
def test_the_truth_is_right(draw, scene):
    assert scores(draw, image(draw, scene), scene) == RIGHT


@pytest.mark.parametrize(
    ("planted", "name", "worse"),
    [
        ({"backdrop": Backdrop("blue")}, "scene_background", 0),
        ({"backdrop": Backdrop("yellow")}, "scene_background", 0),
        ({"subject": SCENE.subject._replace(place="bottom left")}, "scene_place", 0),
        ({"subject": SCENE.subject._replace(glyph=WHALE)}, "scene_subject", 0),
        ({"second": SCENE.second._replace(glyph=WHALE)}, "scene_second", 0),
        ({"second": None}, "scene_second", 0),
    ],
)
def test_each_moves_when_its_own_fault_is_planted(draw, planted, name, worse):
    found = scores(draw, image(draw, SCENE._replace(**planted)))
    assert found[name] == worse
    assert found["scene_leak"] < 0.05, "a wrong colour that is not the condition's is no leak"


def test_another_subject_in_its_place_is_wrong_as_a_subject_alone(draw):
    found = scores(draw, image(draw, SCENE._replace(subject=SCENE.subject._replace(glyph=WHALE))))
    assert found == {**RIGHT, "scene_subject": 0}


def test_likeness_falls_with_another_subject_and_not_with_another_background(draw):
    likeness = SceneLikeness("shipped:judge", draw)
    (truth,) = likeness(image(draw, SCENE), facts(draw, SCENE)).tolist()
    other = SCENE._replace(subject=SCENE.subject._replace(glyph=WHALE))
    (wrong,) = likeness(image(draw, other), facts(draw, SCENE)).tolist()
    assert abs(truth - 1) < 1e-5 and wrong < 0.9
    elsewhere = image(draw, SCENE)
    left, top, right, bottom = (round(edge * SIDE) for edge in json.loads(facts(draw, SCENE)[0])["subject"]["box"])
    kept = elsewhere[:, :, top:bottom, left:right].clone()
    elsewhere[:] = 0
    elsewhere[:, :, top:bottom, left:right] = kept
    assert likeness(elsewhere, facts(draw, SCENE)).item() == pytest.approx(truth), "only the subject's box is compared"
    assert "candidates" not in likeness.protocol


def test_an_object_that_nobody_asked_for_is_found(draw):
    assert scores(draw, image(draw, SCENE), ALONE)["scene_second"] == 0


def test_the_conditions_background_leaks(draw):
    leaking = SCENE._replace(backdrop=Backdrop("purple"))
    assert scores(draw, image(draw, leaking))["scene_leak"] > 0.9
    half = image(draw, SCENE)
    half[..., : SIDE // 2] = image(draw, leaking)[..., : SIDE // 2]
    assert 0.3 < scores(draw, half)["scene_leak"] < 0.7
    (without,) = facts(draw, SCENE, None)
    assert np.isnan(SceneLeak()(image(draw, SCENE), [without]).item()), "nothing could leak"


def test_a_protocol_says_how_it_was_measured(draw):
    said = [metric.protocol for metric in metrics(draw).values()]
    assert all({"library", "version", "parameters"} <= set(protocol) for protocol in said)
    assert "shipped:judge" in metrics(draw)["scene_subject"].protocol["judge"]
    with pytest.raises(ValueError, match="at least 2"):
        Candidates(1)


def test_data_without_facts_have_no_score_and_say_so(draw):
    shown, metric = image(draw, SCENE), SceneBackground()
    known, unknown = (references_of(shown, ["a duck"], [()], {}, said) for said in (facts(draw, SCENE), [""]))
    assert measured(metric, shown, shown, known)["value"] == 1
    missing = measured(metric, shown, shown, unknown)
    assert missing["value"] is None and "data=scenes" in missing["reason"]


def test_the_depth_judge_sees_objects_that_are_gone_or_elsewhere(draw):
    """Each planted fault costs more than the judge's own error on the truth."""

    def layers(scene: Scene) -> torch.Tensor:
        return torch.from_numpy(maps.depth(render_scene(draw._sprites[SIDE], scene, SIDE)))[None]

    metric = SceneDepth("shipped:depth_judge", "condition")
    assert metric.against == "slot condition" and "SHA-256" in metric.protocol["judge"]
    error = {
        "truth": metric(image(draw, SCENE), layers(SCENE)).item(),
        "alone": metric(image(draw, ALONE), layers(ALONE)).item(),
        "second gone": metric(image(draw, ALONE), layers(SCENE)).item(),
        "subject elsewhere": metric(
            image(draw, SCENE._replace(subject=SCENE.subject._replace(place="bottom left"))), layers(SCENE)
        ).item(),
        "no ground": metric(image(draw, SCENE._replace(ground=None)), layers(SCENE)).item(),
    }
    assert max(error["truth"], error["alone"]) < min(
        error[f] for f in ("second gone", "subject elsewhere", "no ground")
    )
    assert metric(image(draw, SCENE), layers(SCENE).flip(-1)).item() > 2 * error["truth"]
