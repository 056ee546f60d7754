"""VisualCloze's presets: every conflict between paper and released code is a value, and scale= keeps the family."""

import re

import pytest
import yaml
from tiny import CONF, ROOT, composed, reproductions

from unigen.config.preflight import preflight
from unigen.pipeline.build import build


def told() -> dict[str, dict[str, object]]:
    """{preset: {key: value}} of the table in docs/visualcloze.md; what is not of a preset ("–") is left out."""
    text = (ROOT / "docs" / "visualcloze.md").read_text()
    lines = text.partition("**The presets, key by key**")[2].partition("\n\n|")[2].partition("\n\n")[0].splitlines()
    _, *names = [cell.strip(" `") for cell in lines[0].strip("|").split("|")]
    found: dict[str, dict[str, object]] = {name: {} for name in names}
    for line in lines[2:]:
        key, first, *others = [cell.strip(" `") for cell in line.strip("|").split("|")]
        for name, cell in zip(names, (first, *others), strict=True):
            if cell != "–":
                found[name][key] = yaml.safe_load(cell or first)
    return found


PRESETS = told()


def at(config: dict, key: str) -> object:
    for part in key.split("."):
        config = config[part]
    return config


@pytest.mark.parametrize("exp", PRESETS)
def test_a_preset_says_every_published_value_at_paper_scale(exp):
    config = composed(f"+exp={exp}", "scale=paper")
    assert {key: at(config, key) for key in PRESETS[exp]} == PRESETS[exp]
    assert config["data"]["batch_size"] * config["trainer"]["accumulate_grad_batches"] == 64
    branches = config["conditioning"]["modulation"]["branches"]
    assert len({branch for role, branch in branches.items() if role != "text"}) == 1, "as in the stock model"


def test_the_presets_differ_and_the_table_says_where():
    """Negative control: a preset is not what the table says of another one."""
    fill, code = (PRESETS[f"visualcloze_{name}"] for name in ("fill", "code"))
    config = composed("+exp=visualcloze_fill", "scale=paper")
    differing = [key for key in fill if fill[key] != code.get(key)]
    assert len(differing) >= 8 and len(fill) >= 40
    assert not [key for key in differing if key in code and at(config, key) == code[key]]


@pytest.mark.parametrize("exp", reproductions("VisualCloze"))
@pytest.mark.parametrize("scale", ["mini", "scratch"])
def test_a_scale_changes_the_models_and_not_the_method(exp, scale):
    small, large = composed(f"+exp={exp}", f"scale={scale}"), composed(f"+exp={exp}", "scale=paper")
    assert small["backbone"]["_target_"] == large["backbone"]["_target_"] == "unigen.backbones.flux.Flux"
    assert (small["backbone"]["config"]["in_channels"] == 384) == (large["backbone"]["config"]["in_channels"] == 384)
    for key in ("formatter", "mask", "process", "loss", "fill", "task"):
        assert small.get(key) == large.get(key), key
    for key in ("embedding", "modulation"):
        assert small["conditioning"][key] == large["conditioning"][key]
    differing = {key for key in small["data"] if small["data"][key] != large["data"][key]}
    assert differing == {"size", "batch_size", "instruction"}
    base = "shipped:plain_base" if exp == "visualcloze_dev" else "shipped:infill_base"
    assert small["backbone"]["pretrained"] == (base if scale == "mini" else None)


def test_other_experiments_keep_their_family():
    assert "CogVideoX" in composed("+exp=fcd_mask_a", "scale=paper")["backbone"]["_target_"]
    assert "Flux" in composed("+exp=cross_grid_flux_fcd_d", "scale=paper")["backbone"]["_target_"]
    assert composed("family=flux/mini")["backbone"] == composed("backbone=flux_mini")["backbone"]


def test_the_ablations_that_need_no_file_pass_the_preflight():
    """Those that the paper's preset names in its header, and a misspelt one does not."""
    text = (CONF / "exp" / "visualcloze_fill.yaml").read_text()
    text = text.split("One at a time:")[1].split("\n# VisualCloze's numbers")[0]
    words = re.findall(r"[\w.]+=(?:\[[\d,]+\]|\w+)", text)
    assert len(words) == 8
    words.remove("fill=targets")
    said = ["data.instruction.task_dropout=0.5", "instruction@data.instruction=full", "data.row_shares=[1]"]
    preflight(CONF, ["+exp=visualcloze_fill", *words, *said])
    changed, base = composed("+exp=visualcloze_fill", *words, *said), composed("+exp=visualcloze_fill")
    for key in ("loss.weights", "process.shift", "fill.rule", "fill.blank", "formatter.ids"):
        assert at(changed, key) != at(base, key), key
    assert (changed["data"]["rows"], changed["data"]["shuffle_columns"]) == ([0, 0], False)
    with pytest.raises(ValueError, match=r"did you mean 'data\.shuffle_columns'"):
        preflight(CONF, ["+exp=visualcloze_fill", "data.shufle_columns=false"])


def test_a_data_set_of_ones_own_takes_the_presets_data_options():
    words = ["data=graph200k", "data.train.root=/nowhere", "data.num_workers=0"]
    data = build(composed("+exp=visualcloze_code", "scale=paper", *words)["data"])
    assert data.row_shares["train"] == {0: 0.3, 1: 0.4, 2: 0.3} and data.columns.shuffle
    assert data.columns.instruction is not None
    assert build(composed("task=graph", *words)["data"]).columns.instruction is None, "negative control"
