"""VisualCloze's presets: every conflict between paper and released code is a value, and scale= keeps the family."""

import re

import pytest
from tiny import CONF, choices, composed

from unigen.build import build
from unigen.preflight import preflight

PAPER = {
    "backbone.pretrained": "black-forest-labs/FLUX.1-Fill-dev",
    "backbone.config.in_channels": 384,
    "backbone.config.num_layers": 19,
    "backbone.config.num_single_layers": 38,
    "backbone.guidance": {"train": 1.0, "sample": 30.0},
    "encoder.codec.config.scaling_factor": 0.3611,
    "encoder.codec.config.shift_factor": 0.1159,
    "encoder.text.window": 512,
    "formatter.ids": "rows",
    "formatter.encode": "row",
    "formatter.caps": {"example": 1.0, "condition": 1.0, "target": 1.0},
    "mask.name": "fcd_d",
    "conditioning.embedding._target_": "unigen.conditioning.uce.NoEmbedding",
    "conditioning.adapter.rank": 256,
    "conditioning.adapter.alpha": 256,
    "conditioning.adapter.parts": ["attention", "modulation", "feed_forward", "embedders"],
    "process.density._target_": "unigen.processes.rectified_flow.LogitNormal",
    "process.shift.max_shift": 1.15,
    "loss.weights": {"target": 1.0, "condition": 0.0, "text": 0.0, "buffer": 1.0, "example": 0.0},
    "fill.rule": "paper",
    "fill.share": 0.5,
    "fill.blank": {"train": "black", "sample": "black"},
    "solver.steps": 30,
    "solver.count": "steps",
    "solver.shift.max_shift": 1.15,
    "dropout": {"text": 0.1},
    "data.size": 384,
    "data.rows": [0, 2],
    "data.row_shares": None,
    "data.shuffle_columns": True,
    "data.shared_degradations": True,
    "data.instruction.task_dropout": 0.2,
    "data.instruction.content_dropout": 0.2,
    "data.instruction.described": ["target"],
    "optimizer.lr": 1e-4,
    "optimizer.batch": 64,
    "optimizer.betas": [0.9, 0.999],
    "optimizer.weight_decay": 0.0,
    "optimizer.warmup": 0,
    "optimizer.cooldown": 0.0,
    "trainer.max_steps": 20000,
    "trainer.gradient_clip_val": 1.0,
    "callback.ema.decay": 0.0,
}
CODE = {
    "process.shift": None,
    "process.stratified": False,
    "loss.weights": {"target": 1.0, "condition": 1.0, "text": 0.0, "buffer": 1.0, "example": 1.0},
    "fill.rule": "code",
    "fill.blank": {"train": "grey", "sample": "black"},
    "solver.count": "points",
    "data.row_shares": [0.3, 0.4, 0.3],
    "data.shared_degradations": False,
    "trainer.gradient_clip_val": 2.0,
}
DEV = {
    "backbone.pretrained": "black-forest-labs/FLUX.1-dev",
    "backbone.config.in_channels": 64,
    "formatter.caps": {"example": 0.0, "condition": 0.0, "target": 1.0},
    "formatter.encode": "cell",
    "conditioning.modulation.timing": {"text": "shared", "condition": "own", "target": "shared", "example": "own"},
}
PRESETS = {"visualcloze_paper": {}, "visualcloze_code": CODE, "visualcloze_fill": {}, "visualcloze_dev": DEV}


def at(config: dict, key: str) -> object:
    for part in key.split("."):
        config = config[part]
    return config


@pytest.mark.parametrize("exp", PRESETS)
def test_a_preset_says_every_published_value_at_paper_scale(exp):
    config, told = composed(f"+exp={exp}", "scale=paper"), {**PAPER, **PRESETS[exp]}
    told = {key: value for key, value in told.items() if key.rpartition(".")[0] not in PRESETS[exp]}
    if exp == "visualcloze_dev":
        told = {key: value for key, value in told.items() if not key.startswith(("fill", "backbone.guidance"))}
        assert config.get("fill") is None
    assert {key: at(config, key) for key in told} == told
    assert config["data"]["batch_size"] * config["trainer"]["accumulate_grad_batches"] == 64
    branches = config["conditioning"]["modulation"]["branches"]
    assert len({branch for role, branch in branches.items() if role != "text"}) == 1, "as in the stock model"
    assert {key for key in CODE if at(composed("+exp=visualcloze_paper", "scale=paper"), key) == CODE[key]} == set()


@pytest.mark.parametrize("exp", [name for name in choices("exp") if name.startswith("visualcloze")])
@pytest.mark.parametrize("scale", ["mini", "scratch"])
def test_a_scale_changes_the_models_and_not_the_method(exp, scale):
    small, large = composed(f"+exp={exp}", f"scale={scale}"), composed(f"+exp={exp}", "scale=paper")
    assert small["backbone"]["_target_"] == large["backbone"]["_target_"] == "unigen.backbones.flux.Flux"
    assert (small["backbone"]["config"]["in_channels"] == 384) == (large["backbone"]["config"]["in_channels"] == 384)
    for key in ("formatter", "mask", "process", "loss", "fill", "task", "published"):
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
    text = (CONF / "exp" / "visualcloze_paper.yaml").read_text().split("One at a time:")[1].split("\n# Published")[0]
    words = re.findall(r"[\w.]+=(?:\[[\d,]+\]|\w+)", text)
    assert len(words) == 8
    words.remove("fill=targets")
    said = ["data.instruction.task_dropout=0.5", "instruction@data.instruction=full", "data.row_shares=[1]"]
    preflight(CONF, ["+exp=visualcloze_paper", *words, *said])
    changed, base = composed("+exp=visualcloze_paper", *words, *said), composed("+exp=visualcloze_paper")
    for key in ("loss.weights", "process.shift", "fill.rule", "fill.blank", "formatter.ids"):
        assert at(changed, key) != at(base, key), key
    assert (changed["data"]["rows"], changed["data"]["shuffle_columns"]) == ([0, 0], False)
    with pytest.raises(ValueError, match=r"did you mean 'data\.shuffle_columns'"):
        preflight(CONF, ["+exp=visualcloze_paper", "data.shufle_columns=false"])


def test_a_data_set_of_ones_own_takes_the_presets_data_options():
    words = ["data=graph200k", "data.train.root=/nowhere", "data.num_workers=0"]
    data = build(composed("+exp=visualcloze_code", "scale=paper", *words)["data"])
    assert data.row_shares["train"] == {0: 0.3, 1: 0.4, 2: 0.3} and data.columns.shuffle
    assert data.columns.instruction is not None
    assert build(composed("task=graph", *words)["data"]).columns.instruction is None, "negative control"
