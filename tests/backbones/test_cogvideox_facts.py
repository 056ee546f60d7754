"""Facts that CogVideoX tells the rest: LoRA's targets by part, its geometry, and what it is not."""

import re

import pytest
import torch
from tiny import composed, tiny

from unigen.pipeline.build import build


def test_lora_targets_are_the_linears_of_the_blocks_by_part():
    backbone = build(tiny()["backbone"])
    build(tiny()["conditioning"]["modulation"]).apply(backbone, tied=True)
    parts = {
        "attention": {f"attn1.{n}" for n in ("to_q", "to_k", "to_v", "to_out.0")},
        "modulation": {f"norm{i}.branches.{b}" for i in (1, 2) for b in ("text", "condition", "target")},
        "feed_forward": {"ff.net.0.proj", "ff.net.2"},
    }
    linears = {n for n, m in backbone.model.transformer_blocks.named_modules() if isinstance(m, torch.nn.Linear)}
    assert {f"{i}.{n}" for i in range(2) for part in parts.values() for n in part} == linears
    parts |= {"feed_forward_in": {"ff.net.0.proj"}, "feed_forward_out": {"ff.net.2"}}
    assert set(backbone.lora_targets()) == {*parts, "embedders"}
    everywhere = {n for n, m in backbone.model.named_modules() if isinstance(m, torch.nn.Linear)}
    ends = {n for n in everywhere if re.fullmatch(backbone.lora_targets()["embedders"], n)}
    assert ends == {n for n in everywhere if not n.startswith("transformer_blocks.")} and len(ends) == 6
    for part, names in parts.items():
        hit = {n for n, _ in backbone.model.named_modules() if re.fullmatch(backbone.lora_targets()[part], n)}
        assert hit == {f"transformer_blocks.{i}.{n}" for i in range(2) for n in names}


def test_geometry_comes_from_the_config():
    with torch.device("meta"):
        backbone = build(composed("backbone=cogvideox1_5_5b")["backbone"] | {"pretrained": None})
    assert backbone.patch == (2, 2, 2) and backbone.reach == (11, 150, 150)
    assert backbone.latent_channels == 16 and backbone.text_width == 4096 and backbone.axes == ("t", "h", "w")


def test_a_1_0_model_is_refused():
    config = tiny()["backbone"]
    config["config"]["patch_size_t"] = None
    with pytest.raises(ValueError, match=r"backbone.config: patch_size_t must be set"):
        build(config)
