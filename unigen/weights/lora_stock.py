"""Finds the stock transformer of diffusers that takes a LoRA: builds one of its sizes without weights and loads it."""

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Sizes = Mapping[str, tuple[int, int]]  # (inputs, outputs) by linear
BLOCK = re.compile(r"blocks\.(0|[1-9][0-9]{0,2})\.")
BLOCKS = 200  # no transformer of these families has so many
BRANCH = re.compile(r"\.branches\.\w+$")  # a branch of a modulation that this project has split (SC-AdaLN)
PROJECTIONS = (  # linears that are split themselves, not inside a norm: of Wan, FLUX.2 (two) and Qwen-Image
    "time_proj",
    "_modulation_img.linear",
    "_stream_modulation.linear",
    "_mod.1",
)
LARGE = 1024  # narrower ones, this project's mini family, are trained by anybody; wider ones are published
PUBLISHED = {
    "FLUX.1": ("FluxTransformer2DModel", 3072, {"num_layers": 19, "num_single_layers": 38}),
    "FLUX.2-klein-4B": ("Flux2Transformer2DModel", 3072, {"num_layers": 5, "num_single_layers": 20}),
    "FLUX.2-klein-9B": ("Flux2Transformer2DModel", 4096, {"num_layers": 8, "num_single_layers": 24}),
    "FLUX.2-dev": ("Flux2Transformer2DModel", 6144, {"num_layers": 8, "num_single_layers": 48}),
    "CogVideoX-2B": ("CogVideoXTransformer3DModel", 1920, {"num_layers": 30}),
    "CogVideoX-5B": ("CogVideoXTransformer3DModel", 3072, {"num_layers": 42}),
    "Wan2.1-T2V-1.3B": ("WanTransformer3DModel", 1536, {"num_layers": 30}),
    "Wan2.2-TI2V-5B": ("WanTransformer3DModel", 3072, {"num_layers": 30}),
    "Wan-14B": ("WanTransformer3DModel", 5120, {"num_layers": 40}),
    "Qwen-Image": ("QwenImageTransformer2DModel", 3072, {"num_layers": 60}),
    "HunyuanVideo-1.5": ("HunyuanVideo15Transformer3DModel", 2048, {"num_layers": 54}),
}


class Fit(NamedTuple):
    """A stock model that takes a LoRA: its class, its width, and a published model of that size if there is one."""

    model: str
    width: int
    published: str | None

    def __str__(self) -> str:
        return f"a {self.model} of width {self.width}, as {self.published or 'no published model'} is"


def unsplit(name: str) -> str:
    """Return the stock model's name of the linear that a branch was split from."""
    stock = BRANCH.sub("", name)
    return name if stock == name else stock if stock.endswith(PROJECTIONS) else f"{stock}.linear"


def generic(name: str) -> str:
    """The name of the same linear in the first block."""
    return BLOCK.sub("blocks.0.", name, count=1)


@cache
def linears(family: str) -> frozenset[str]:
    """The names of all linears of a stock model with one block of each kind."""
    some = ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.0.attn.to_q", "ofs_embedding.linear_1")
    some = (*some, "blocks.0.attn1.to_q", "context_embedder.token_refiner.refiner_blocks.0.attn.to_q")
    return frozenset(_sizes(_made(family, FAMILIES[family](dict.fromkeys(some, (64, 64))))))


def check(lora: Sizes, state: Mapping[str, Tensor]) -> list[Fit]:
    """Load `state` (diffusers' keys) into each stock model that the sizes of the linears in `lora` allow.

    This is one model, or several where families share all names. A split modulation (SC-AdaLN) is compared with the
    stock one, and not loaded. Raises ValueError, which names one linear, if no stock model has these linears in these
    sizes, or if none takes all of `state`.
    """
    fits, errors = [], []
    for family in _families(lora):
        try:
            width, model = _fitting(family, lora)
            _load(model, {key: x for key, x in state.items() if not BRANCH.search(key.partition(".lora_")[0])})
            fits.append(Fit(family, width, _published(family, width, model.config)))
        except ValueError as error:
            errors.append(error)
    if not fits:
        raise errors[0]
    return fits


def stock_model(family: str, lora: Sizes) -> nn.Module:
    """Return the stock model of a family, without weights, in the sizes that `check` has found for `lora`."""
    return _fitting(family, lora)[1]


def _families(names: Iterable[str]) -> list[str]:
    """The families that have all of these linears; some names occur in both."""
    names = [unsplit(name) for name in names]
    strange = {family: [n for n in names if generic(n) not in linears(family)] for family in FAMILIES}
    if found := [family for family, names in strange.items() if not names]:
        return found
    family, odd = min(strange.items(), key=lambda item: len(item[1]))
    more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
    raise ValueError(f"'{odd[0]}'{more} is no linear of diffusers' {family} (nor are all of them of another one here)")


def _fitting(family: str, lora: Sizes) -> tuple[int, nn.Module]:
    for name in lora:
        if (block := BLOCK.search(name)) and int(block[1]) >= BLOCKS:
            raise ValueError(f"'{name}' is in a block that no {family} has")
    config = FAMILIES[family](lora)
    model = _made(family, config)
    there, width = _sizes(model), config["attention_head_dim"]
    for name, (inputs, outputs) in lora.items():
        expected = there[unsplit(name)]
        if (inputs, outputs) != expected:
            raise ValueError(
                f"'{name}' maps {inputs} to {outputs}, and in a {family} of width {width}, which the others are of, "
                f"{expected[0]} to {expected[1]}: this is a LoRA of another model, or damaged"
            )
    return width, model


def _load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load `state` into the model. Raises ValueError unless it takes every tensor, in its shape, with scale 1, and no
    other.
    """
    if not state:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of linears that its own shorthand would reach, and leaves them
        try:
            model.load_lora_adapter({f"transformer.{k}": x for k, x in state.items()}, low_cpu_mem_usage=True)
        except Exception as error:  # peft and torch raise several types for "does not fit"
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"diffusers' {type(model).__name__} does not take it: {said}") from error
    taken = {re.sub(r"\.default_0\.", ".", n): p.shape for n, p in model.named_parameters() if ".lora_" in n}
    if odd := sorted(set(taken) ^ set(state)) or [k for k in state if taken[k] != state[k].shape]:
        raise ValueError(f"diffusers' {type(model).__name__} does not take '{odd[0]}' as it is")
    for name, module in model.named_modules():
        if any(scale != 1 for scale in getattr(module, "scaling", {}).values()):
            raise ValueError(f"diffusers' {type(model).__name__} would scale '{name}' once more")


def _published(family: str, width: int, config: Mapping[str, Any]) -> str | None:
    for name, (model, wide, depth) in PUBLISHED.items():
        if (model, wide) == (family, width) and all(config[key] <= most for key, most in depth.items()):
            return name
    return None


def beyond(names: Iterable[str], fits: Iterable[Fit]) -> str | None:
    """A sentence naming a linear in a block that the published models of its width lack; None if there is none."""
    legal = [
        (name, depth)
        for name, (model, wide, depth) in PUBLISHED.items()
        if any((fit.model, fit.width) == (model, wide) for fit in fits)
    ]
    for name in names:
        match = re.match(r"(single_)?(?:transformer_)?blocks\.(\d+)\.", name)
        depths = [(known, depth.get(f"num_{match[1] or ''}layers", 0)) for known, depth in legal] if match else []
        if depths and all(int(match[2]) >= most for _, most in depths):
            known, most = max(depths, key=lambda one: one[1])
            return (
                f"'{name}' is in a block that {known} lacks: it has {most} of these, 0 to {most - 1}; this is another "
                "model's, or damaged"
            )
    return None


def _made(family: str, config: Mapping[str, Any]) -> nn.Module:
    import diffusers

    with torch.device("meta"):
        return getattr(diffusers, family)(**config)


def _sizes(model: nn.Module) -> dict[str, tuple[int, int]]:
    modules = model.named_modules()
    return {name: (m.in_features, m.out_features) for name, m in modules if isinstance(m, nn.Linear)}


def _flux(lora: Sizes) -> dict[str, Any]:
    """The configuration of a FLUX.1 with the sizes of most linears of a LoRA."""
    wide_out = re.compile(
        r"(x|context)_embedder|.*_embedder\.linear_1|.*\.net\.2|single_transformer_blocks\.\d+\.proj_out"
    )
    return {
        "patch_size": 1,
        "attention_head_dim": _most(o if wide_out.fullmatch(n) else i for n, (i, o) in lora.items()),
        "num_attention_heads": 1,
        "num_layers": _blocks(lora, "transformer_blocks"),
        "num_single_layers": _blocks(lora, "single_transformer_blocks"),
        "in_channels": lora.get("x_embedder", (64, 0))[0],
        "out_channels": lora.get("proj_out", (0, 64))[1],
        "joint_attention_dim": lora.get("context_embedder", (4096, 0))[0],
        "pooled_projection_dim": lora.get("time_text_embed.text_embedder.linear_1", (768, 0))[0],
        "guidance_embeds": True,
    }


def _flux2(lora: Sizes) -> dict[str, Any]:
    """The configuration of a FLUX.2 with the sizes of most linears of a LoRA."""
    joined = re.compile(r"single_transformer_blocks\.\d+\.attn\.to_out")
    wide_out = re.compile(r"(x|context)_embedder|.*_embedder\.linear_1|.*\.linear_out|" + joined.pattern)
    width = _most(o if wide_out.fullmatch(n) else i for n, (i, o) in lora.items())
    hidden = [o // 2 for n, (_, o) in lora.items() if n.endswith(".linear_in")]
    hidden += [i for n, (i, _) in lora.items() if n.endswith(".linear_out")]
    hidden += [i - width for n, (i, _) in lora.items() if joined.fullmatch(n)]
    return {
        "attention_head_dim": width,
        "num_attention_heads": 1,
        "num_layers": _blocks(lora, "transformer_blocks"),
        "num_single_layers": _blocks(lora, "single_transformer_blocks"),
        "in_channels": lora.get("x_embedder", (128, 0))[0],
        "out_channels": lora.get("proj_out", (0, 128))[1],
        "joint_attention_dim": lora.get("context_embedder", (7680, 0))[0],
        "timestep_guidance_channels": lora.get("time_guidance_embed.timestep_embedder.linear_1", (256, 0))[0],
        "mlp_ratio": _most(hidden) / width if hidden else 3.0,
        "guidance_embeds": True,
    }


def _cogvideox(lora: Sizes) -> dict[str, Any]:
    """The configuration of a CogVideoX with the sizes of most linears of a LoRA; its patches are of one latent."""
    widths, times = [], []
    for name, (inputs, outputs) in lora.items():
        if re.search(r"norm\w*\.", name):
            widths.append(outputs // (2 if name.startswith("norm_out") else 6))
            times.append(inputs)
        elif name.startswith("time_embedding."):
            widths += [inputs] * name.endswith("1")
            times.append(outputs)
        elif not name.startswith("ofs_embedding"):
            widths.append(outputs if name.startswith("patch_embed.") or name.endswith(".net.2") else inputs)
    ofs = [inputs for name, (inputs, _) in lora.items() if name.startswith("ofs_embedding")]
    return {
        "patch_size": 1,
        "patch_size_t": 1,
        "attention_head_dim": _most(widths),
        "num_attention_heads": 1,
        "num_layers": _blocks(lora, "transformer_blocks"),
        "in_channels": lora.get("patch_embed.proj", (16, 0))[0],
        "out_channels": lora.get("proj_out", (0, 16))[1],
        "time_embed_dim": _most(times),
        "text_embed_dim": lora.get("patch_embed.text_proj", (4096, 0))[0],
        "ofs_embed_dim": _most(ofs) if ofs else None,
        "use_rotary_positional_embeddings": True,
    }


def _wan(lora: Sizes) -> dict[str, Any]:
    """The configuration of a text-to-video Wan with the sizes of most linears of a LoRA."""
    wide_out = re.compile(r".*\.net\.2|condition_embedder\.(time|text)_embedder\.linear_1")
    hidden = [o for n, (_, o) in lora.items() if n.endswith(".net.0.proj")]
    hidden += [i for n, (i, _) in lora.items() if n.endswith(".net.2")]
    return {
        "patch_size": (1, 1, 1),
        "attention_head_dim": _most(o if wide_out.fullmatch(n) else i for n, (i, o) in lora.items()),
        "num_attention_heads": 1,
        "num_layers": _blocks(lora, "blocks"),
        "in_channels": 16,
        "out_channels": lora.get("proj_out", (0, 64))[1],
        "text_dim": lora.get("condition_embedder.text_embedder.linear_1", (4096, 0))[0],
        "freq_dim": lora.get("condition_embedder.time_embedder.linear_1", (256, 0))[0],
        "ffn_dim": _most(hidden) if hidden else 8960,
    }


def _qwen_image(lora: Sizes) -> dict[str, Any]:
    """The configuration of a Qwen-Image with the sizes of most linears of a LoRA; its patches are of one latent."""
    wide_out = re.compile(r"(img|txt)_in|.*_embedder\.linear_1|.*\.net\.2")
    return {
        "patch_size": 1,
        "attention_head_dim": _most(o if wide_out.fullmatch(n) else i for n, (i, o) in lora.items()),
        "num_attention_heads": 1,
        "num_layers": _blocks(lora, "transformer_blocks"),
        "in_channels": lora.get("img_in", (64, 0))[0],
        "out_channels": lora.get("proj_out", (0, 64))[1],
        "joint_attention_dim": lora.get("txt_in", (3584, 0))[0],
    }


def _hunyuan_video(lora: Sizes) -> dict[str, Any]:
    """The configuration of a HunyuanVideo-1.5 with the sizes of most linears of a LoRA."""
    refiner, own_width = "context_embedder.token_refiner.refiner_blocks", r"context_embedder_2\..*|image_embedder\..*"
    wide_out = re.compile(r".*_embedder\.linear_1|context_embedder\.proj_in|.*\.net\.2")
    sized = {n: size for n, size in lora.items() if not re.fullmatch(own_width, n)}
    width = _most(o if wide_out.fullmatch(n) else i for n, (i, o) in sized.items())
    hidden = [o for n, (_, o) in lora.items() if n.startswith("transformer_blocks.") and n.endswith(".net.0.proj")]
    hidden += [i for n, (i, _) in lora.items() if n.startswith("transformer_blocks.") and n.endswith(".net.2")]
    texts = ("context_embedder.proj_in", "context_embedder.time_text_embed.text_embedder.linear_1")
    return {
        "patch_size": 1,
        "patch_size_t": 1,
        "attention_head_dim": width,
        "num_attention_heads": 1,
        "num_layers": _blocks(lora, "transformer_blocks"),
        "num_refiner_layers": _blocks(lora, refiner),
        "mlp_ratio": _most(hidden) / width if hidden else 4.0,
        "out_channels": lora.get("proj_out", (0, 32))[1],
        "text_embed_dim": next((lora[n][0] for n in texts if n in lora), 3584),
        "text_embed_2_dim": lora.get("context_embedder_2.linear_1", (1472, 0))[0],
        "image_embed_dim": lora.get("image_embedder.linear_1", lora.get("image_embedder.linear_2", (1152, 0)))[0],
    }


FAMILIES: dict[str, Callable[[Sizes], dict[str, Any]]] = {
    "FluxTransformer2DModel": _flux,
    "Flux2Transformer2DModel": _flux2,
    "CogVideoXTransformer3DModel": _cogvideox,
    "WanTransformer3DModel": _wan,
    "QwenImageTransformer2DModel": _qwen_image,
    "HunyuanVideo15Transformer3DModel": _hunyuan_video,
}


def _most(sizes: Iterable[int]) -> int:
    found = Counter(size for size in sizes if size > 0).most_common(1)
    return found[0][0] if found else 64


def _blocks(names: Iterable[str], kind: str) -> int:
    """The number of blocks of a kind that a model needs to have these names."""
    found = [int(match[1]) for name in names if (match := re.match(rf"{kind}\.(\d+)\.", name))]
    return 1 + max(found, default=-1)
