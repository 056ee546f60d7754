"""Translates older configurations to today's names, so that old run folders, exports and YAML files stay readable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOVED = {  # modules that a `_target_` may name: before, now
    "unigen.attention": "unigen.core.attention",
    "unigen.fill": "unigen.core.infill",
    "unigen.masks": "unigen.core.masks",
    "unigen.metrics.psnr": "unigen.metrics.pixels",
    "unigen.metrics.rmse": "unigen.metrics.pixels",
    "unigen.metrics.ssim": "unigen.metrics.pixels",
    "unigen.metrics.canny_f1": "unigen.metrics.pixels",
    "unigen.metrics.clip_i": "unigen.metrics.clip",
    "unigen.metrics.clip_t": "unigen.metrics.clip",
    "unigen.metrics.clip_score": "unigen.metrics.clip",
    "unigen.metrics.style_image": "unigen.metrics.clip",
    "unigen.metrics.dinov2": "unigen.metrics.dino",
    "unigen.metrics.man_iqa": "unigen.metrics.quality",
    "unigen.metrics.musiq": "unigen.metrics.quality",
    "unigen.metrics.cutout": "unigen.metrics.segmented",
    "unigen.metrics.extractors": "unigen.metrics.sets",
    "unigen.metrics.fid": "unigen.metrics.sets",
    "unigen.metrics.kid": "unigen.metrics.sets",
    "unigen.metrics.mini_clip_i": "unigen.metrics.mini",
    "unigen.metrics.mini_clip_t": "unigen.metrics.mini",
    "unigen.metrics.mini_dino": "unigen.metrics.mini",
    "unigen.metrics.mini_kid": "unigen.metrics.mini",
    "unigen.losses.velocity": "unigen.losses.errors",
    "unigen.losses.epsilon": "unigen.losses.errors",
    "unigen.losses.min_snr": "unigen.losses.errors",
    "callbacks.progress": "callbacks.console",
    "unigen.shift": "unigen.core.shift",
    "unigen.formatters.frames": "unigen.formatters.placed",
    "datamodules.clips": "datamodules.pretraining.clips",
    "datamodules.collages": "datamodules.pretraining.collages",
    "datamodules.graph": "datamodules.graph.graph",
    "datamodules.graph_data": "datamodules.emoji.data",
    "datamodules.instructions": "datamodules.graph.instructions",
    "datamodules.pairs": "datamodules.pretraining.pairs",
    "datamodules.stills": "datamodules.pretraining.stills",
}

KEYS = {  # keys that had another name: before, now
    "solver.guidance": "guidance.strength",
    "solver.drop": "guidance.drop",
    "formatter.temporal_fill": "formatter.temporal_padding",
    "metric.style_image.picture": "metric.style_image.image",
}

SAME = {  # choices that were one configuration under a second name: (group, choice) before, choice now
    ("exp", "cross_frames_cogvideox_fcd_a"): "fcd_mask_a",
    ("exp", "cross_frames_cogvideox_fcd_d"): "fcd_mask_d",
    ("exp", "realgeneral_full"): "fcd_mask_a",
    ("exp", "visualcloze_paper"): "visualcloze_fill",
    ("exp", "wo_fcd"): "fcd_mask_d",
}


YOUNGER: dict[str, Any] = {  # keys that older runs do not have, with what these did; null and {} say it by themselves
    "guidance.passes": [],
    "guidance.rescale": False,
    "guidance.interval": [0.0, 1.0],
    "conditioning.slots": {"_target_": "unigen.conditioning.slots.NoSlotVectors"},
}
CHOSEN = "test_examples", "random", ("datamodules.emoji.data.EmojiGraphData", "datamodules.scenes.data.SceneGraphData")


def moved(config: Any) -> Any:
    """Return a copy of a run's whole configuration in which targets and keys have today's names, and younger keys say
    what the run did.
    """
    config = _targets(config)
    if not isinstance(config, dict):
        return config
    solver, formatter = config.get("solver"), config.get("formatter")
    if isinstance(solver, dict) and "guidance" in solver and "guidance" not in config:
        strength, drop = solver.pop("guidance"), solver.pop("drop", [])
        config["guidance"] = {"strength": strength, "drop": drop, "by_task": {}}
    if isinstance(formatter, dict) and "temporal_fill" in formatter:
        formatter["temporal_padding"] = formatter.pop("temporal_fill")
    if isinstance(formatter, dict) and formatter.get("_target_") == "unigen.formatters.placed.Frames":
        formatter |= {"_target_": "unigen.formatters.placed.Placed", "name": "frames", "places": {"all": {"run": "t"}}}
    metrics = config.get("metric")
    style = metrics.get("style_image") if isinstance(metrics, dict) else None
    if isinstance(style, dict) and "picture" in style:
        style["image"] = style.pop("picture")
    _add_younger(config)
    return config


def _add_younger(config: dict[str, Any]) -> None:
    for key, value in YOUNGER.items():
        group, _, name = key.partition(".")
        if isinstance(config.get(group), dict):
            config[group].setdefault(name, value)
    name, value, classes = CHOSEN
    if isinstance(config.get("data"), dict) and config["data"].get("_target_") in classes:
        config["data"].setdefault(name, value)


def place_today(target: str) -> str:
    """Return today's name of the class that an older `_target_` names."""
    module, dot, name = target.rpartition(".")
    return f"{MOVED[module]}{dot}{name}" if module in MOVED else target


def _targets(node: Any) -> Any:
    if isinstance(node, Mapping):
        named = {key: _targets(value) for key, value in node.items()}
        return named | ({"_target_": place_today(node["_target_"])} if isinstance(node.get("_target_"), str) else {})
    return [_targets(item) for item in node] if isinstance(node, list) else node
