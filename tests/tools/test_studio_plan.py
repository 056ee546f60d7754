"""The studio's tab Preview and plan without its page: an edited mask, its closure and costs, and its YAML file."""

from pathlib import Path

import pytest
import yaml
from small_runs import kept_images

from unigen.core.masks import WORDS
from unigen.pipeline.build import build
from unigen.tools.studio import planning
from unigen.tools.studio.composing import choices, composed
from unigen.tools.studio.places import Places

ROOT = Path(__file__).parents[2]


@pytest.fixture
def places(tmp_path) -> Places:
    return Places(ROOT, tmp_path, tmp_path / "studio")


def choice(*groups: tuple[str, str], experiment: str = "fcd_mask_a") -> planning.Choice:
    return planning.choice(experiment, dict(groups), f"data.size=32 data.limit=200 {kept_images()}")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    return planning.gathered(Places(ROOT, folder, folder), choice())


def test_the_words_of_the_fields():
    found = planning.choice("fcd_mask_b", {"family": "wan/mini", "mask": "", "task": None}, "trainer.devices=8")
    assert found.words == ("+exp=fcd_mask_b", "family=wan/mini", "trainer.devices=8")
    with pytest.raises(ValueError, match="is a flag"):
        planning.choice(None, {}, "--multirun")


def test_every_choice_of_a_field_is_a_file(places):
    assert "cogvideox/mini" in choices(places, "family") and "fcd_a" in choices(places, "mask")


def test_bad_words_are_one_sentence_and_leave_hydra_usable(places):
    for words in (["+exp=nothing"], ["trainer.max_step=1"], ["optimizer.lr=1e8"], ["task="]):
        with pytest.raises(ValueError) as error:
            composed(places, words)
        assert "\n" not in str(error.value)
    assert composed(places, ["+exp=fcd_mask_a"])["name"] == "fcd_mask_a"


def test_a_click_takes_the_next_word(made):
    rows = planning.rows_of(made.pipeline.mask)
    seen = []
    for _ in WORDS:
        rows = planning.clicked(rows, "target", "condition")
        seen.append(rows["target"]["condition"])
    assert sorted(seen) == sorted(WORDS) and rows == planning.rows_of(made.pipeline.mask)


def test_an_edited_mask_changes_closure_costs_and_what_may_be_cached(made):
    rows = planning.rows_of(made.pipeline.mask)
    bucket = planning.bucket_of(made)
    same = planning.costs(planning.edited(made, rows, "edited"), bucket)
    assert same == planning.costs(made.pipeline, bucket), "negative control: nothing was edited"
    for role in ("text", "target"):
        rows = rows | {"condition": rows["condition"] | {role: "none"}}
    rows = rows | {"target": rows["target"] | {"condition": "none"}}
    closure, cost, _ = planning.mask_tables(made, rows, "edited")
    now = planning.costs(planning.edited(made, rows, "edited"), bucket)
    assert now.pairs < same.pairs and now.flops < same.flops
    target = next(row for row in closure.rows if row[0].text == "target")
    assert target[closure.header.index("condition")].text == planning.NEVER
    assert cost.rows[0][3].text.startswith("-")


def test_static_segments_follow_from_the_table(places):
    """With times of their own, conditions that see nothing else are computed once."""
    alone = planning.gathered(places, choice(("mask", "conditions_alone"), experiment="methods/ominicontrol"))
    pipeline = alone.pipeline
    still = pipeline.static(planning.bucket_of(alone).plan.layout)
    rows = planning.rows_of(pipeline.mask)
    rows = rows | {"condition": rows["condition"] | {"target": "all"}}
    edited = planning.edited(alone, rows, "edited")
    if not still:
        pytest.skip("the experiment times its conditions as the targets")
    assert not edited.static(planning.bucket_of(alone).plan.layout)


def test_the_saved_mask_is_the_edited_one_and_run_finds_it(made, places):
    rows = planning.clicked(planning.rows_of(made.pipeline.mask), "text", "condition")
    text = planning.mask_yaml(rows, "mine", "fcd_a", {"target": {"condition": 1.5}})
    mask = build(yaml.safe_load(text))
    assert (
        planning.rows_of(mask) == rows and mask.name == "mine" and dict(mask.bias) == {"target": (("condition", 1.5),)}
    )
    said, line = planning.save_mask(places, "mine", text, choice(("mask", "fcd_b")))
    assert "mine.yaml" in said and "mask=mine" in line and "mask=fcd_b" not in line
    from unigen.config.preflight import preflight

    preflight(places.conf, ["--config-dir", str(places.out / "conf"), "+exp=fcd_mask_a", "mask=mine"])
    with pytest.raises(ValueError, match="already"):
        planning.save_mask(places, "mine", text, choice())
    with pytest.raises(ValueError, match="already"):
        planning.save_mask(places, "fcd_a", text, choice())


@pytest.mark.parametrize("name", ["", "../x", "A", "a-b", "1a", "a" * 99, "x\n"])
def test_names_that_are_no_masks(name, made):
    with pytest.raises(ValueError, match="cannot be a mask's"):
        planning.mask_yaml(planning.rows_of(made.pipeline.mask), name, "fcd_a", {})


def test_the_estimate_follows_the_edited_mask(made, places):
    rows = planning.rows_of(made.pipeline.mask)
    plain, text = planning.estimate(places, choice(), None, "h100")
    assert "hours of 1,800 steps" in text and "fits" in text
    same, _ = planning.estimate(places, choice(), rows, "h100")
    fewer, _ = planning.estimate(places, choice(), rows | {"target": dict.fromkeys(rows["target"], "same")}, "h100")
    assert same.model_flops == plain.model_flops > fewer.model_flops


def test_the_preview_is_the_page_of_preview(places):
    assert "<h1>Preview: fcd_mask_a</h1>" in planning.preview_page(places, choice())
