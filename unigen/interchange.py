"""What a LoRA is, whoever wrote it: diffusers' names, VisualCloze's own fused ones, and the weighted sum of several.

Shapes: R rank, I inputs and O outputs of a linear.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

PREFIX = "transformer."
KEY = re.compile(r"(?P<linear>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|alpha)")

# VisualCloze's .pth names linears as FLUX's first release does. What has one name here is one linear in diffusers too,
# what has several is split: inputs and A are the same, the rows of B and of its bias follow each other.
_EMBEDDERS = {"time_in": "timestep_embedder", "vector_in": "text_embedder", "guidance_in": "guidance_embedder"}
_DOUBLE, _SINGLE = r"double_blocks\.(\d+)\.", r"single_blocks\.(\d+)\."
_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
AUTHORS = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    **{
        f"{ours}.{layer}_layer": (f"time_text_embed.{theirs}.linear_{number}",)
        for ours, theirs in _EMBEDDERS.items()
        for number, layer in ((1, "in"), (2, "out"))
    },
    **{
        f"{_DOUBLE}{name}": tuple(rf"transformer_blocks.\1.{x}" for x in into)
        for name, into in {
            r"img_mod\.lin": ("norm1.linear",),
            r"txt_mod\.lin": ("norm1_context.linear",),
            r"img_attn\.qkv": _QKV,
            r"txt_attn\.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
            r"img_attn\.proj": ("attn.to_out.0",),
            r"txt_attn\.proj": ("attn.to_add_out",),
            r"img_mlp\.0": ("ff.net.0.proj",),
            r"img_mlp\.2": ("ff.net.2",),
            r"txt_mlp\.0": ("ff_context.net.0.proj",),
            r"txt_mlp\.2": ("ff_context.net.2",),
        }.items()
    },
    **{
        f"{_SINGLE}{name}": tuple(rf"single_transformer_blocks.\1.{x}" for x in into)
        for name, into in {
            r"modulation\.lin": ("norm.linear",),
            "linear1": (*_QKV, "proj_mlp"),
            "linear2": ("proj_out",),
        }.items()
    },
    r"final_layer\.linear": ("proj_out",),
    r"final_layer\.adaLN_modulation\.1": ("norm_out.linear",),
}


class Delta(NamedTuple):
    """What a LoRA adds to one linear: up (down x) + bias; the scale alpha / rank is in `up` and `bias` already."""

    down_RI: Tensor
    up_OR: Tensor
    bias_O: Tensor | None = None


Lora = dict[str, Delta]  # by the linear's name in diffusers' model


def parse(state: Mapping[str, Tensor], metadata: Mapping[str, object] | None = None) -> Lora:
    """Diffusers' keys, "transformer.NAME.lora_A.weight" and so on. Without `metadata` or alphas the scale is 1.

    `metadata`: peft's configuration, its keys with the same prefix. Raises ValueError for any other key.
    """
    lora = _pairs({k.removeprefix(PREFIX): x for k, x in state.items()})
    config = {k.removeprefix(PREFIX): x for k, x in (metadata or {}).items()}
    alphas = {k.removeprefix(PREFIX).removesuffix(".alpha"): x for k, x in state.items() if k.endswith(".alpha")}
    if stray := [name for name in alphas if name not in lora]:
        raise ValueError(f"'{stray[0]}' has an alpha, but no lora_A and lora_B")
    if config.get("use_rslora") or config.get("use_dora"):
        raise ValueError("rank-stabilised LoRA and DoRA are not read; only plain LoRA is")
    return {name: _scaled(delta, _scale(name, delta, config, alphas)) for name, delta in lora.items()}


def is_fused(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of VisualCloze's own files."""
    theirs = re.compile(r"(double|single)_blocks\.|final_layer\.|(img|txt|time|vector|guidance)_in\.")
    return any(theirs.match(key) for key in state)


def split_fused(state: Mapping[str, Tensor]) -> Lora:
    """VisualCloze's LoRA on fused linears as the same function on diffusers' split ones, with scale 1 as the authors'.

    q, k and v (and in single blocks the MLP's input) each get a copy of the fused A and their rows of B and its bias.
    The final modulation makes shift and then scale there, scale and then shift in diffusers.
    Raises ValueError for keys that are not of that model, and for fused rows that do not divide.
    """
    split: Lora = {}
    for name, delta in _pairs(state).items():
        found = [(match, into) for pattern, into in AUTHORS.items() if (match := re.fullmatch(pattern, name))]
        if not found:
            raise ValueError(f"'{name}' is no linear of FLUX as VisualCloze's files name them")
        match, into = found[0]
        rows = _rows(name, delta, len(into))
        for linear, part in zip(into, rows, strict=True):
            bias = None if delta.bias_O is None else delta.bias_O[part]
            split[match.expand(linear)] = Delta(delta.down_RI, delta.up_OR[part], bias)
    return split


def _rows(name: str, delta: Delta, parts: int) -> list[Tensor]:
    """Indices of the fused outputs that each of the split linears takes."""
    outputs, width = torch.arange(len(delta.up_OR)), delta.down_RI.shape[1]
    if parts == 1:
        shift_scale = name.endswith("adaLN_modulation.1")
        return [torch.cat(outputs.chunk(2)[::-1])] if shift_scale else [outputs]
    left = len(outputs) - 3 * width
    if left != 0 if parts == 3 else left < 1:
        raise ValueError(f"'{name}' has {len(outputs)} outputs, too few or too many for q, k, v of {width} each")
    return list(outputs.split([width] * 3 + [left] * (parts == 4)))


def _pairs(state: Mapping[str, Tensor]) -> Lora:
    """A and B by linear. Raises ValueError for a key that is no part of a LoRA, or a part without its partner."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        match = KEY.fullmatch(key)
        if match is None:
            raise ValueError(f"key '{key}' is no part of a LoRA of the transformer (NAME.lora_A.weight, ...)")
        if match["part"] != "alpha":
            parts.setdefault(match["linear"], {})[match["part"]] = tensor
    if not parts:
        raise ValueError("it holds no LoRA")
    for linear, given in parts.items():
        down, up, bias = (given.get(part) for part in ("lora_A.weight", "lora_B.weight", "lora_B.bias"))
        if down is None or up is None:
            raise ValueError(f"'{linear}' has no {'lora_A' if down is None else 'lora_B'}.weight")
        fits = down.ndim == up.ndim == 2 and len(down) == up.shape[1] and (bias is None or bias.shape == (len(up),))
        if not fits:
            shapes = ", ".join(f"{part} {tuple(x.shape)}" for part, x in given.items())
            raise ValueError(f"the parts of '{linear}' do not fit each other: {shapes}")
    return {n: Delta(x["lora_A.weight"], x["lora_B.weight"], x.get("lora_B.bias")) for n, x in parts.items()}


def _scale(name: str, delta: Delta, config: Mapping[str, object], alphas: Mapping[str, Tensor]) -> float:
    """alpha / rank of one linear, by its own alpha or by peft's configuration; 1 where neither is given."""
    from peft.utils.other import get_pattern_key

    rank = len(delta.down_RI)
    if name in alphas:
        return float(alphas[name]) / rank
    if "lora_alpha" not in config:
        return 1.0
    patterns = config.get("alpha_pattern") or {}
    return patterns.get(get_pattern_key(list(patterns), name), config["lora_alpha"]) / rank


def _scaled(delta: Delta, factor: float) -> Delta:
    """`factor` times what the LoRA adds, in the precision that it has."""
    if factor == 1:
        return delta
    up, bias = (None if x is None else (x.float() * factor).to(x.dtype) for x in delta[1:])
    return Delta(delta.down_RI, up, bias)


def state_of(lora: Lora) -> dict[str, Tensor]:
    """Keys as peft has them, without prefix. If one linear has a bias all get one, as peft's `lora_bias` wants."""
    biased, state = any(delta.bias_O is not None for delta in lora.values()), {}
    for name, (down, up, bias) in lora.items():
        state |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        if biased:
            state[f"{name}.lora_B.bias"] = up.new_zeros(len(up)) if bias is None else bias
    return state


def merge(loras: Sequence[Lora], weights: Sequence[float]) -> Lora:
    """The LoRA that adds the weighted sum of what `loras` add: ranks follow each other, biases are summed.

    Exact, up to rounding in the files' precision. A linear that one of them leaves alone gets what the others have for
    it. Where the ranks together exceed what the linear can have, the same matrix is written with as many as it can.
    Raises ValueError for LoRAs of different base models.
    """
    names = list(dict.fromkeys(name for lora in loras for name in lora))
    for one, other in combinations(loras, 2):
        _check_same_base(one, other)
    merged = {}
    for name in names:
        given = [_scaled(lora[name], w) for lora, w in zip(loras, weights, strict=True) if name in lora]
        shapes = {(delta.down_RI.shape[1], len(delta.up_OR)) for delta in given}
        if len(shapes) > 1:
            sizes = " and ".join(f"{i} to {o}" for i, o in sorted(shapes))
            raise ValueError(f"'{name}' maps {sizes}: these LoRAs are of different base models")
        merged[name] = _joined(given)
    return merged


def _joined(deltas: Sequence[Delta]) -> Delta:
    down, up = torch.cat([x.down_RI for x in deltas]), torch.cat([x.up_OR for x in deltas], dim=1)
    biases = [x.bias_O for x in deltas if x.bias_O is not None]
    rank, inputs, outputs = len(down), down.shape[1], len(up)
    if rank > min(inputs, outputs):
        whole, one = (up.float() @ down.float()).to(up.dtype), torch.eye(min(inputs, outputs), dtype=up.dtype)
        down, up = (whole, one) if outputs <= inputs else (one, whole)
    return Delta(down, up, sum(biases) if biases else None)


def _check_same_base(one: Lora, other: Lora) -> None:
    """Two LoRAs of a model may reach different linears of it, but some must be common, and all named in one way."""
    if not set(one) & set(other):
        raise ValueError(
            f"no linear is common (one has '{next(iter(one))}', one '{next(iter(other))}'): these LoRAs are of "
            "different base models"
        )
    norms, others = _modulations(one), _modulations(other)
    if odd := [head for head in norms if others.get(head, norms[head]) != norms[head]]:
        found = (", ".join(sorted(of[odd[0]])) for of in (norms, others))
        raise ValueError(
            f"'{odd[0]}' has {' in one and '.join(found)} in the other (SC-AdaLN): these LoRAs are of different "
            "base models"
        )


def _modulations(lora: Lora) -> dict[str, set[str]]:
    """By norm, the linears that modulate it: the stock one, or one for each branch."""
    norms: dict[str, set[str]] = {}
    for name in lora:
        if match := re.fullmatch(r"(.+norm\w*)\.(linear|branches\.\w+)", name):
            norms.setdefault(match[1], set()).add(match[2])
    return norms
