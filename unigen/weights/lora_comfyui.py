"""Writes a LoRA so that ComfyUI loads all of it, and says of an export whether ComfyUI loads it unchanged.

Read in ComfyUI 0.33.0 (commit 783545f, August 2026). It finds a linear by its own name below "diffusion_model.", and
in some families by diffusers' name below "transformer." too. It reads an alpha from a key, never from the header, and a
bias as the difference of the model's own bias (".diff_b"). What it does not know it leaves out, with a line in its log.

Shapes: R rank, I inputs and O outputs of a linear.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unigen.config.commands import command
from unigen.weights import interchange, lora_names, lora_stock
from unigen.weights.interchange import Delta, Lora

VERSION = "0.33.0"  # of ComfyUI, as it was read
OWN, DIFFUSERS = "diffusion_model.", "transformer."
NODE = "the node 'unigen sample' (docs/comfyui.md) samples with the run itself"
TURNED = "final_layer.adaLN_modulation.1"  # makes shift and then scale, where diffusers' makes scale and then shift
Names = Mapping[str, tuple[str, ...]]  # diffusers' linears, in the order of their rows, by ComfyUI's; N is a block


class Place(NamedTuple):
    """ComfyUI's linear that holds one of diffusers', and all of diffusers' linears that are its rows, in order."""

    linear: str
    parts: tuple[str, ...]


def _templates(table: Names) -> dict[str, tuple[str, ...]]:
    """Return patterns of `lora_names` as plain names with N for the number of a block, without x-flux's."""
    kept = {pattern: into for pattern, into in table.items() if "processor" not in pattern}
    return {_plain(pattern): tuple(linear.replace(r"\1", "N") for linear in into) for pattern, into in kept.items()}


def _plain(pattern: str) -> str:
    return pattern.replace(r"(\d+)", "N").replace("\\.", ".")


FLUX = _templates(lora_names.BFL)
WAN = _templates(lora_names.WAN)
_IMAGE, _TEXT = "double_blocks.N.img_", "double_blocks.N.txt_"
_ENDS = ("img_in", "txt_in", "final_layer.linear", TURNED)
FLUX2 = {
    **{name: FLUX[name] for name in (*_ENDS, *(f"{s}attn.{x}" for s in (_IMAGE, _TEXT) for x in ("qkv", "proj")))},
    **{
        f"{side}mlp.{k}": (f"transformer_blocks.N.{layer}.linear_{way}",)
        for side, layer in ((_IMAGE, "ff"), (_TEXT, "ff_context"))
        for k, way in ((0, "in"), (2, "out"))
    },
    "single_blocks.N.linear1": ("single_transformer_blocks.N.attn.to_qkv_mlp_proj",),
    "single_blocks.N.linear2": ("single_transformer_blocks.N.attn.to_out",),
    **{
        f"{name}_in.{way}_layer": (f"time_guidance_embed.{long}_embedder.linear_{k}",)
        for name, long in (("time", "timestep"), ("guidance", "guidance"))
        for k, way in ((1, "in"), (2, "out"))
    },
    **{
        f"{name}.lin": (f"{name}.linear",)
        for name in ("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation")
    },
}
_REFINER, _REFINED = "txt_in.individual_token_refiner.blocks.N", "context_embedder.token_refiner.refiner_blocks.N"
HUNYUAN_VIDEO = {
    **{name: into for name, into in FLUX.items() if name.startswith("double_blocks")},
    "final_layer.linear": ("proj_out",),
    TURNED: ("norm_out.linear",),
    "time_in.in_layer": ("time_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_embed.timestep_embedder.linear_2",),
    "txt_in.input_embedder": ("context_embedder.proj_in",),
    **{
        f"txt_in.{name}_embedder.{way}_layer": (f"context_embedder.time_text_embed.{long}_embedder.linear_{k}",)
        for name, long in (("t", "timestep"), ("c", "text"))
        for k, way in ((1, "in"), (2, "out"))
    },
    f"{_REFINER}.self_attn.qkv": tuple(f"{_REFINED}.attn.to_{x}" for x in "qkv"),
    f"{_REFINER}.self_attn.proj": (f"{_REFINED}.attn.to_out.0",),
    f"{_REFINER}.mlp.0": (f"{_REFINED}.ff.net.0.proj",),
    f"{_REFINER}.mlp.2": (f"{_REFINED}.ff.net.2",),
    f"{_REFINER}.adaLN_modulation.1": (f"{_REFINED}.norm_out.linear",),
    **{f"byt5_in.fc{k}": (f"context_embedder_2.linear_{k}",) for k in (1, 2, 3)},
    "vision_in.proj.1": ("image_embedder.linear_1",),
    "vision_in.proj.3": ("image_embedder.linear_2",),
}
_LAYERS = {"q": "attn1.to_q", "k": "attn1.to_k", "v": "attn1.to_v", "attn_out": "attn1.to_out.0"}
_LAYERS |= {"norm1.linear": "norm1.linear", "norm2.linear": "norm2.linear"}
_LAYERS |= {"ff_proj": "ff.net.0.proj", "ff_out": "ff.net.2"}
COGVIDEOX = {
    **{f"blocks.N.{theirs}": (f"transformer_blocks.N.{ours}",) for theirs, ours in _LAYERS.items()},
    **{f"{name}_linear_{k}": (f"{name}.linear_{k}",) for name in ("time_embedding", "ofs_embedding") for k in (1, 2)},
    **{name: (name,) for name in ("patch_embed.proj", "patch_embed.text_proj", "norm_out.linear", "proj_out")},
}


@cache
def names(family: str) -> Names:
    """Return ComfyUI's names of the linears of a class of diffusers. Qwen-Image's are diffusers' own."""
    if family == "QwenImageTransformer2DModel":
        own = [linear.replace("blocks.0.", "blocks.N.") for linear in lora_stock.linears(family)]
        return {linear: (linear,) for linear in own}
    return {
        "FluxTransformer2DModel": FLUX,
        "Flux2Transformer2DModel": FLUX2,
        "CogVideoXTransformer3DModel": COGVIDEOX,
        "WanTransformer3DModel": WAN,
        "HunyuanVideo15Transformer3DModel": HUNYUAN_VIDEO,
    }[family]


# Which of diffusers' linears ComfyUI finds below "transformer."; of the other families, none.
KNOWN = {
    "FluxTransformer2DModel": ".*",
    "Flux2Transformer2DModel": r"(?!.*_modulation(_img|_txt)?\.linear|time_guidance_embed).*",
    "QwenImageTransformer2DModel": ".*",
}


def known(family: str, linear: str) -> bool:
    """Whether ComfyUI finds a linear of `family` by diffusers' name below "transformer."."""
    return re.fullmatch(KNOWN.get(family, "(?!)"), linear) is not None


def place(family: str, linear: str) -> Place:
    """Return where ComfyUI's model of `family` has diffusers' `linear`."""
    block = re.search(r"blocks\.(\d+)\.", linear)
    first = linear.replace(block[0], "blocks.N.", 1) if block else linear
    found = next((theirs, parts) for theirs, parts in names(family).items() if first in parts)
    number = block[1] if block else ""
    theirs, *parts = (name.replace("blocks.N", f"blocks.{number}") for name in (found[0], *found[1]))
    return Place(theirs, tuple(parts))


def convert(lora: Lora, model: str | None = None) -> tuple[dict[str, Tensor], str]:
    """Return the tensors that ComfyUI loads, by key, and a sentence on the model that they are for.

    `lora` has one adapter for all tokens and the names of a stock model (`interchange.joined`); `model` is the class of
    that model if it is known. Linears that ComfyUI fuses get the same function: A below A, and a block-diagonal B, so
    that the rank is the sum.
    Raises ValueError if the linears are of several families that ComfyUI names differently, and for a bias on a linear
    that has none in the model.
    """
    sizes = {name: (delta.down_RI.shape[1], len(delta.up_OR)) for name, delta in lora.items()}
    fits = lora_stock.check(sizes, interchange.state_of(lora))
    fits = [fit for fit in fits if fit.model == model] or [fit for fit in fits if fit.published] or fits
    made = [_state(lora, fit.model, lora_stock.stock_model(fit.model, sizes)) for fit in fits]
    if any(set(state) != set(made[0]) for state in made):
        models = " and ".join(fit.model for fit in fits)
        raise ValueError(
            f"its linears are in {models} alike, which ComfyUI names differently; a run's export folder says which"
        )
    kept = all(known(fit.model, name) for fit in fits for name in lora)
    how = "diffusers' names, which it knows" if kept else "its own names"
    return made[0], f"ComfyUI {VERSION} loads it for {' or '.join(str(fit) for fit in fits)}, by {how}."


def _state(lora: Lora, family: str, model: nn.Module) -> dict[str, Tensor]:
    state, places = {}, {}
    for name, delta in lora.items():
        at = place(family, name)
        places[at.linear] = at
        if known(family, name):
            state |= _pair(DIFFUSERS + name, delta.down_RI, delta.up_OR)
    for at in places.values():
        biased = any(name in lora and lora[name].bias_O is not None for name in at.parts)
        if known(family, at.parts[0]) and not biased:
            continue
        whole = _whole([_part(lora, name, model.get_submodule(name)) for name in at.parts], at.linear == TURNED)
        if not known(family, at.parts[0]):
            state |= _pair(OWN + at.linear, whole.down_RI, whole.up_OR)
        if whole.bias_O.any():
            state[f"{OWN}{at.linear}.diff_b"] = whole.bias_O
    return state


def _whole(parts: Sequence[Delta], turned: bool) -> Delta:
    """Return the LoRA of a fused linear; `turned` swaps the two halves of its rows."""
    down, bias = torch.cat([part.down_RI for part in parts]), torch.cat([part.bias_O for part in parts])
    up = torch.block_diag(*(part.up_OR for part in parts)) if len(parts) > 1 else parts[0].up_OR
    return Delta(down, *(torch.cat(x.chunk(2)[::-1]) if turned else x for x in (up, bias)))


def _pair(name: str, down_RI: Tensor, up_OR: Tensor) -> dict[str, Tensor]:
    return {f"{name}.lora_A.weight": down_RI, f"{name}.lora_B.weight": up_OR}


def _part(lora: Lora, name: str, linear: nn.Linear) -> Delta:
    """Return the LoRA of a linear with a bias; one of rank 0 if it has none. Raises ValueError for a bias too many."""
    like = next(iter(lora.values()))
    nothing = Delta(like.down_RI.new_zeros(0, linear.in_features), like.up_OR.new_zeros(linear.out_features, 0))
    delta = lora.get(name, nothing)
    if delta.bias_O is None:
        return delta._replace(bias_O=delta.up_OR.new_zeros(linear.out_features))
    if linear.bias is None and delta.bias_O.any():
        raise ValueError(f"'{name}' has a bias in the LoRA and none in the model, so ComfyUI has no place for it")
    return delta


def said(family: str, linears: Iterable[str], scaled: bool, biased: bool) -> str:
    """Say in a sentence whether ComfyUI loads an export's LoRA of a stock model unchanged.

    `scaled`: alpha is not the rank. `biased`: B has a bias.
    """
    unknown = [name for name in linears if not known(family, name)]
    more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
    why = [f"it does not know '{unknown[0]}'{more}"] if unknown else []
    why += ["it reads no alpha in a header"] if scaled else []
    why += ["it reads a bias by another key"] if biased else []
    if not why:
        return f"ComfyUI {VERSION} loads it unchanged (LoraLoaderModelOnly)"
    return (
        f"ComfyUI {VERSION} would load only a part, or at another strength: {', and '.join(why)}; "
        f"`{command('lora')} convert for=comfyui lora=<this folder> out=<file>` writes what it loads"
    )
