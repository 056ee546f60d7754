"""LoRAs independent of the program that wrote them: low-rank updates by the name of diffusers' linear, and sums of
several.

Shapes: R rank, I inputs and O outputs of a linear.
"""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from unigen.weights import lora_names

PREFIX = "transformer."
SPLIT_NORM = re.compile(r"(?P<norm>transformer_blocks\.\d+\.norm[12])\.branches\.(?P<branch>\w+)")


class Delta(NamedTuple):
    """The update of one linear by a LoRA: up (down x) + bias. The scale alpha / rank is already in `up` and `bias`."""

    down_RI: Tensor
    up_OR: Tensor
    bias_O: Tensor | None = None


Lora = dict[str, Delta]  # by the linear's name in diffusers' model


def parse(state: Mapping[str, Tensor], metadata: Mapping[str, object] | None = None) -> Lora:
    """Parse the LoRA of a transformer, in the names of any program that `unigen.weights.lora_names` knows.

    The LoRA of a text encoder is left out.

    `metadata`: peft's configuration, its keys with or without diffusers' prefix. What adds B A is scaled by alpha /
    rank, as peft and kohya's alphas say; where neither is given the scale is 1.
    Raises ValueError for a key that is not understood, a part without its partner, two keys for one linear, and
    numbers that make no LoRA.
    """
    config, lora, source_of = _config({} if metadata is None else metadata), Lora(), {}
    linears = _by_linear(state)
    qwen = lora_names.of_qwen_image(linears)
    for name, parts in linears.items():
        delta = _delta(name, parts)
        delta = _bounded(name, _scaled(delta, _scale(name, delta, config, parts.get("alpha"))))
        for linear, split in _split(name, delta, qwen).items():
            if linear in lora:
                raise ValueError(f"'{source_of[linear]}' and '{name}' are both '{linear}' in diffusers")
            lora[linear], source_of[linear] = split, name
    return lora


def _by_linear(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Group tensors by linear, as its writer names it, and by part (down, up, bias, alpha). Raises ValueError as
    `parse`.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for key in lora_names.check(state):
        match = lora_names.KEY.fullmatch(key)
        parts = found.setdefault(lora_names.source(match["linear"]), {})
        if match.lastgroup in parts:
            raise ValueError(f"'{key}' is there twice, under another name of the same tensor")
        parts[match.lastgroup] = state[key]
    return found


def _delta(name: str, parts: Mapping[str, Tensor]) -> Delta:
    """Make a Delta of a linear's parts. Raises ValueError for a part without its partner, and for shapes and types that
    make no LoRA of a linear.
    """
    down, up, bias = (parts.get(part) for part in ("down", "up", "bias"))
    if down is None and up is None:
        raise ValueError(f"'{name}' has {'an alpha' if 'alpha' in parts else 'a bias'}, but no lora_A and lora_B")
    if down is None or up is None:
        raise ValueError(f"'{name}' has no {'lora_A' if down is None else 'lora_B'}.weight")
    delta = Delta(down, up, bias)
    for x in delta:
        if x is not None and not x.is_floating_point():
            kind = str(x.dtype).removeprefix("torch.")
            raise ValueError(f"'{name}' holds {kind} numbers; a LoRA holds floating-point ones")
    if down.ndim == up.ndim and down.ndim in (4, 5) and len(down) == up.shape[1]:
        raise ValueError(f"'{name}' is a convolution, such as Wan's patch embedding; LoRAs of linears alone are read")
    fits = down.ndim == up.ndim == 2 and len(down) == up.shape[1] and (bias is None or bias.shape == (len(up),))
    if not fits or 0 in (*down.shape, *up.shape):
        shapes = ", ".join(f"{part} {tuple(x.shape)}" for part, x in parts.items() if part != "alpha")
        raise ValueError(f"the parts of '{name}' do not fit each other as a linear's LoRA: {shapes}")
    return delta


def _split(name: str, delta: Delta, qwen: bool) -> Lora:
    """Split a linear's LoRA by diffusers' names: the LoRA of a fused linear becomes the same function on several.

    q, k and v (and in single blocks the MLP's input) each get a copy of the fused A and their rows of B and its bias.
    The final modulation makes shift and then scale in FLUX's first release, scale and then shift in diffusers.
    Raises ValueError for fused rows that do not divide.
    """
    linears, split = lora_names.stock(name, qwen), {}
    for linear, rows in zip(linears, _rows(name, delta, len(linears)), strict=True):
        split[linear] = Delta(delta.down_RI, *(x if x is None or rows is None else x[rows] for x in delta[1:]))
    return split


def _rows(name: str, delta: Delta, parts: int) -> Sequence[Tensor | None]:
    """Indices of the fused outputs that each of the split linears takes; None where one takes all in their order."""
    outputs, width = torch.arange(len(delta.up_OR)), delta.down_RI.shape[1]
    if parts == 1:
        return [torch.cat(outputs.chunk(2)[::-1]) if "adaLN_modulation" in name else None]
    left = len(outputs) - 3 * width
    if left != 0 if parts == 3 else left < 1:
        raise ValueError(f"'{name}' has {len(outputs)} outputs, too few or too many for q, k, v of {width} each")
    return outputs.split([width] * 3 + [left] * (parts == 4))


def joined(lora: Lora) -> Lora:
    """The same LoRA with CogVideoX's norms as the stock model has them, where a norm has a text and one visual branch.

    The stock model makes both modulations with one linear from one input, the visual rows first. The joined LoRA stacks
    the two A and makes B block-diagonal, so its rank is their sum and the function is the same. The branches of
    SC-AdaLN stay as they are.
    """
    norms: dict[str, set[str]] = {}
    for name in lora:
        if match := SPLIT_NORM.fullmatch(name):
            norms.setdefault(match["norm"], set()).add(match["branch"])
    two = {norm: next(iter(found - {"text"})) for norm, found in norms.items() if len(found) == 2 and "text" in found}
    halves = {f"{norm}.branches.{branch}" for norm, other in two.items() for branch in ("text", other)}
    kept = {name: delta for name, delta in lora.items() if name not in halves}
    for norm, other in two.items():
        both = lora[f"{norm}.branches.{other}"], lora[f"{norm}.branches.text"]
        biases = [torch.zeros(len(d.up_OR)).to(d.up_OR) if d.bias_O is None else d.bias_O for d in both]
        bias = None if all(d.bias_O is None for d in both) else torch.cat(biases)
        up = torch.block_diag(*(d.up_OR for d in both))
        kept[f"{norm}.linear"] = Delta(torch.cat([d.down_RI for d in both]), up, bias)
    return kept


def _config(metadata: Mapping[str, object]) -> dict[str, object]:
    """peft's configuration without diffusers' prefix. Raises ValueError for one that does not describe a plain LoRA."""
    if not isinstance(metadata, Mapping):
        raise ValueError("its configuration of peft is no table of keys")
    config = {k.removeprefix(PREFIX): value for k, value in metadata.items() if not lora_names.TEXT.match(k)}
    if not config:
        return config
    kind = config.get("peft_type") or "LORA"
    odd = [key for key in ("use_dora", "fan_in_fan_out", "use_qalora", "use_bdlora") if config.get(key)]
    if odd or kind != "LORA":
        said = f"{odd[0]}: true" if odd else f"peft_type: {kind}"
        raise ValueError(f"its configuration of peft says {said}; only plain LoRA is read")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, Mapping) or not all(map(_is_alpha, [config.get("lora_alpha"), *patterns.values()])):
        raise ValueError("its configuration of peft has no lora_alpha, or an alpha that is no finite number or is 0")
    return config


def _is_alpha(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value != 0


def _scale(name: str, delta: Delta, config: Mapping[str, object], own: Tensor | None) -> float:
    """alpha / rank of one linear, by its own alpha or by peft's configuration; 1 where neither is given."""
    rank, alpha = len(delta.down_RI), _peft_alpha(name, config)
    if own is None:
        return 1.0 if alpha is None else alpha / (rank**0.5 if config.get("use_rslora") else rank)
    if own.numel() != 1 or own.is_complex() or not _is_alpha(float(own)):
        held = float(own) if own.numel() == 1 and not own.is_complex() else f"of shape {tuple(own.shape)}"
        raise ValueError(f"the alpha of '{name}' is {held}; legal is one finite number other than 0")
    if alpha is not None and alpha != float(own):
        raise ValueError(f"'{name}' has the alpha {float(own):g}, and {alpha:g} in the configuration of peft")
    return float(own) / rank


def _peft_alpha(name: str, config: Mapping[str, object]) -> float | None:
    if not config:
        return None
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    try:
        return patterns.get(get_pattern_key(list(patterns), name), config["lora_alpha"])
    except re.error as error:
        raise ValueError(f"its configuration of peft has an alpha_pattern that is no pattern: {error}") from error


def _scaled(delta: Delta, factor: float) -> Delta:
    """`factor` times the update of a LoRA: in its own precision where that is exact, and else in fp32."""
    if factor == 1:
        return delta
    return Delta(delta.down_RI, *(None if x is None else _times(x, factor) for x in delta[1:]))


def _times(x: Tensor, factor: float) -> Tensor:
    wide = x.to(_wide(x)) * factor
    narrow = wide.to(x.dtype)
    return narrow if torch.equal(narrow.to(wide.dtype), wide) else wide


def _bounded(name: str, delta: Delta) -> Delta:
    """Return the LoRA unchanged. Raises ValueError if its update may exceed fp32's range: a model with it would give
    NaN.
    """
    most = [max(abs(float(end)) for end in x.aminmax()) for x in delta if x is not None]
    if not max(most[0] * most[1] * len(delta.down_RI), *most) < torch.finfo(torch.float32).max:
        raise ValueError(f"'{name}' would add numbers beyond fp32's range: the file, its alpha or the weight is wrong")
    return delta


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def state_of(lora: Lora) -> dict[str, Tensor]:
    """The tensors with peft's keys, without prefix. If one linear has a bias, all get one, as peft's
    `lora_bias` needs.
    """
    biased, state = any(delta.bias_O is not None for delta in lora.values()), {}
    for name, (down, up, bias) in lora.items():
        state |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        if biased:
            state[f"{name}.lora_B.bias"] = up.new_zeros(len(up)) if bias is None else bias
    return state


def merge(loras: Sequence[Lora], weights: Sequence[float]) -> Lora:
    """The LoRA that adds the weighted sum of several updates: their ranks are concatenated, their biases are summed.

    The result is exact up to rounding in fp32. A linear that only some of the LoRAs change gets the updates of those.
    Where the summed rank would exceed what the matrix can have, the same matrix is written with full rank.
    Raises ValueError for LoRAs of different base models, and for a sum beyond fp32's range.
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
        merged[name] = _bounded(name, _joined(given))
    return merged


def _joined(deltas: Sequence[Delta]) -> Delta:
    down, up = torch.cat([x.down_RI for x in deltas]), torch.cat([x.up_OR for x in deltas], dim=1)
    biases = [x.bias_O for x in deltas if x.bias_O is not None]
    rank, inputs, outputs = len(down), down.shape[1], len(up)
    if rank > min(inputs, outputs):
        whole = up.to(_wide(up)) @ down.to(_wide(up))
        one = torch.eye(min(inputs, outputs), dtype=whole.dtype)
        down, up = (whole, one) if outputs <= inputs else (one, whole)
    return Delta(down, up, sum(biases) if biases else None)


def _check_same_base(one: Lora, other: Lora) -> None:
    """Check that two LoRAs can be of one model: they share some linears, and name the modulations in the same way."""
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
    """The linears that modulate each norm: the stock one, or one for each branch."""
    norms: dict[str, set[str]] = {}
    for name in lora:
        if match := re.fullmatch(r"(.+norm\w*)\.(linear|branches\.\w+)", name):
            norms.setdefault(match[1], set()).add(match[2])
    return norms
