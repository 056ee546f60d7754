"""What tests share: the config folder as data, and every configuration at a size that runs in milliseconds."""

import json
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf
from torch import nn

from unigen.core.layout import Geometry, Layout, Plan
from unigen.core.tokens import Tokens
from unigen.core.types import BUFFER, CONDITION, EXAMPLE, TARGET, TEXT, Batch, ImageSlot, Signature
from unigen.pipeline.build import build

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "experiments" / "conf"

# Whatever a backbone's config calls its sizes: those keys that it has are shrunk.
SIZES = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "axes_dims_rope": [4, 6, 6],
    "rope_axes_dim": [4, 6, 6],
    "num_refiner_layers": 1,
    "text_embed_dim": 32,
    "time_embed_dim": 32,
    "joint_attention_dim": 32,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 96,
    "pooled_projection_dim": 32,
}
WINDOW = {"window": 16, "pool": 4}


def choices(group: str) -> list[str]:
    """The names of all YAML files of a config group."""
    names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    assert names, f"no YAML in {CONF / group}"
    return names


def methods() -> list[str]:
    """The in-context methods, as +exp= takes them."""
    return [f"methods/{name}" for name in choices("exp/methods")]


def experiments() -> list[str]:
    """Every experiment, the in-context methods too, as +exp= takes them."""
    return [*choices("exp"), *methods()]


def adapted(exp: str) -> tuple[str, ...]:
    """The words that give a method the LoRA which its file speaks of, where tests train everything."""
    return ("conditioning/adapter=lora_mini",) if exp in methods() else ()


def reproductions(*papers: str) -> list[str]:
    """The experiments whose own file says that they reproduce something of these papers."""
    said = {name: yaml.safe_load((CONF / "exp" / f"{name}.yaml").read_text()).get("paper") for name in choices("exp")}
    return [name for name, paper in said.items() if paper and paper.startswith(papers)]


@cache
def _composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", overrides=["run_dir=run", *overrides])


@cache
def _resolved(*overrides: str) -> dict[str, Any]:
    return OmegaConf.to_container(_composed(*overrides), resolve=True)


def composed(*overrides: str) -> dict[str, Any]:
    """The resolved configuration of a command line, as plain data of the caller's own."""
    return deepcopy(_resolved(*overrides))


def composes(*overrides: str) -> bool:
    """False where a choice does not exist: a family need not have every scale."""
    try:
        return bool(_composed(*overrides))
    except ConfigCompositionException:
        return False


def tiny(*overrides: str, tasks: tuple[str, ...] = ("canny>target", "openmoji>target"), **sizes: Any) -> dict[str, Any]:
    """The same with every backbone shrunk, nothing pretrained, and small encoders."""
    scratch = ("encoder/codec=patch_pca", "encoder/text=byt5_mini", "conditioning/adapter=full")
    config = deepcopy(_composed(*scratch, *overrides))
    config.backbone.pretrained = None
    config.encoder.text.update(pretrained=None, trained=True)
    for key, value in {**SIZES, **sizes}.items():
        if key in config.backbone.config:
            config.backbone.config[key] = value
    if {"rope_theta", "axes_dims_rope"} <= set(config.backbone.config):  # FLUX.2 has four axes of positions
        config.backbone.config.axes_dims_rope = [4, 4, 4, 4]
    config.encoder.text.update(WINDOW)
    config.data.tasks = list(tasks)
    config.solver.steps = 3
    if "rank" in config.conditioning.adapter:
        config.conditioning.adapter.update(rank=4, alpha=4)
    return OmegaConf.to_container(config, resolve=True)


@cache
def models() -> tuple[str, ...]:
    """One backbone YAML for each model: those that differ in size, strengths or kernels alone are equal when shrunk."""
    alike = ("activation_fn", "guidance_embeds", "out_channels", "zero_cond_t")
    found: dict[str, str] = {}
    for name in sorted(choices("backbone"), key=lambda name: (not name.endswith("_mini"), name)):
        node = tiny(f"backbone={name}")["backbone"]
        config = {key: value for key, value in node["config"].items() if key not in alike}
        found.setdefault(json.dumps([node["_target_"], config], sort_keys=True), name)
    return tuple(found.values())


def is_mini(name: str) -> bool:
    """Whether a backbone YAML is a small model. Of each family one is, and of a Flux that infills another."""
    return name.endswith("_mini")


def every_model() -> list[Any]:
    """All of `models()` as parameters. Published ones, which are mini ones of other widths when shrunk, are slow."""
    return [name if is_mini(name) else pytest.param(name, marks=pytest.mark.slow) for name in models()]


def spread(first: Sequence[Any], second: Sequence[Any], third: Sequence[Any], quick: Any = lambda _: True) -> list[Any]:
    """Every combination as parameters, all slow but those on a diagonal of the table of `second` by `third`.

    Each value of `first` has a diagonal of its own, on which it meets each value of the others, and over the values of
    `first` most pairs of those meet too. A value of `first` that is not `quick` is slow everywhere.
    """
    period, found = min(len(second), len(third)), []
    for (i, a), (j, b), (k, c) in product(enumerate(first), enumerate(second), enumerate(third)):
        here = quick(a) and (i + j - k) % period == 0
        found.append(pytest.param(a, b, c, marks=() if here else pytest.mark.slow))
    return found


def crossed(first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
    """Every pair as parameters, all slow but those on one diagonal, on which each value of both is."""
    period, found = min(len(first), len(second)), []
    for (i, a), (j, b) in product(enumerate(first), enumerate(second)):
        found.append(pytest.param(a, b, marks=() if (i - j) % period == 0 else pytest.mark.slow))
    return found


@cache
def mask(name: str) -> Any:
    return build(composed(f"mask={name}")["mask"])


@cache
def placing(name: str) -> Any:
    """The formatter of a YAML file."""
    return build(composed(f"formatter={name}")["formatter"])


@cache
def apart() -> tuple[str, ...]:
    """The formatters whose layouts differ in more than positions, which masks and caches do not read."""
    geometry, found = Geometry(8, (1, 2, 2), ("t", "h", "w"), (40, 40, 40)), {}
    for name in sorted(choices("formatter"), key=lambda name: (name != "frames", name)):
        plan = placing(name)(Signature(slots(2, placing(name).roles), 3), geometry)
        found.setdefault(tuple((s.name, s.role, s.grid, s.cap) for s in plan.layout.segments), name)
    return tuple(found.values())


def slots(conditions: int = 1, roles: tuple[str, ...] = (CONDITION, TARGET), frames: int = 1) -> tuple[ImageSlot, ...]:
    """One 32×48 target and `conditions` images of every other role: 2×3 tokens each, at 16 pixels a token.

    With examples there is a row of them before the others, as long as theirs.
    """
    names = [
        (f"{role}{i}", role) for role in roles if role not in (TEXT, TARGET, EXAMPLE, BUFFER) for i in range(conditions)
    ]
    query = [*names, (TARGET, TARGET)]
    examples = [(f"{EXAMPLE}{i}", EXAMPLE) for i in range(len(query))] if EXAMPLE in roles else []
    rows = [row for row in (examples, query) if row]
    return tuple(ImageSlot(name, role, 32, 48, frames, r) for r, row in enumerate(rows) for name, role in row)


def plan_for(formatter: Any, backbone: Any, conditions: int = 1, text_tokens: int = 3, frames: int = 1) -> Plan:
    """A formatter's plan for `slots`, on a codec of stride 8. Formatter `tens` goes beyond what some backbones say that
    they hold, which is a choice of theirs: they compute any position.
    """
    reach = tuple(max(most, 64) for most in backbone.reach)
    geometry = Geometry(8, backbone.patch, backbone.axes, reach)
    return formatter(Signature(slots(conditions, formatter.roles, frames), text_tokens), geometry)


def query_plan(formatter: Any, backbone: Any, conditions: int = 1, text_tokens: int = 3) -> Plan:
    """As `plan_for`, without the row of examples that the formatter could place too."""
    geometry = Geometry(8, backbone.patch, backbone.axes, backbone.reach)
    return formatter(Signature(slots(conditions), text_tokens), geometry)


def tokens_for(layout: Layout, backbone: Any, size: int = 1, seed: int = 2) -> Tokens:
    """Random features, pooled text and context in the widths that the backbone takes."""
    g = torch.Generator().manual_seed(seed)
    pt, ph, pw = backbone.patch
    width = {"text": backbone.text_width, "visual": backbone.latent_channels * pt * ph * pw}
    features = {s.name: torch.randn(size, s.tokens, width[s.stream], generator=g) for s in layout.segments}
    pooled, context = None, None
    if backbone.pooled_width is not None:
        pooled = torch.randn(size, backbone.pooled_width, generator=g)
    if backbone.context_width:
        context = {s.name: torch.randn(size, s.tokens, backbone.context_width, generator=g) for s in layout.visual}
    return Tokens(layout, features, pooled=pooled, context=context)


def stacks(name: str) -> list[dict[str, int]]:
    """Sizes of one and of two blocks for a backbone's config; where it has two kinds of block, each alone and both."""
    if "num_single_layers" in composed(f"backbone={name}")["backbone"]["config"]:
        return [{"num_layers": double, "num_single_layers": single} for double, single in ((1, 0), (0, 1), (1, 1))]
    return [{"num_layers": 1}, {"num_layers": 2}]


def blocks(backbone: Any) -> list[nn.Module]:
    """All of a backbone's blocks, in order."""
    return list(backbone.blocks)


def backbone_for(config: dict[str, Any], tied: bool = False) -> Any:
    """The backbone of a configuration with its modulation split, and no parameter at its initial value."""
    backbone = build(config["backbone"])
    build(config["conditioning"]["modulation"]).apply(backbone, tied=tied)
    return randomise(backbone)


def batch(size: int = 2, conditions: int = 1, seed: int = 0) -> Batch:
    """Random images for `slots`; every prompt holds its subject."""
    g = torch.Generator().manual_seed(seed)
    where = slots(conditions)
    images = {
        s.name: torch.randint(0, 256, (size, s.frames, 3, s.height, s.width), generator=g, dtype=torch.uint8)
        for s in where
    }
    return Batch(
        slots=where,
        images=images,
        prompts=[f"a cat, no {i}" for i in range(size)],
        subjects=[("cat",)] * size,
        tasks=["canny>target"] * size,
        keys=[f"item{i}" for i in range(size)],
    )


@torch.no_grad()
def randomise(module: nn.Module, std: float = 0.2, seed: int = 1) -> nn.Module:
    """Nothing stays zero by initialisation: weights, biases, LoRA B and gates included."""
    g = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p += torch.randn(p.shape, generator=g).to(p) * std
    return module


def trained(*modules: nn.Module) -> int:
    return sum(p.numel() for m in modules for p in m.parameters() if p.requires_grad)
