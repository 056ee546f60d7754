"""Maps the tensor names of LoRA files by other programs to diffusers' names of the same linears.

It reads the names of diffusers and finetrainers ("transformer." in front), peft ("base_model.model."), BFL's own and
ComfyUI's ("diffusion_model."), kohya's sd-scripts and VideoX-Fun ("lora_unet_"), Wan's authors
("self_attn.q"), OneTrainer ("lora_transformer_"), LyCORIS ("lycoris_"), x-flux ("processor.qkv_lora1") and VisualCloze.
"""

import re
from collections.abc import Iterable
from functools import cache

from unigen.weights.lora_stock import FAMILIES, generic, linears

PREFIX = re.compile(r"(?:(?:base_model\.model|model|diffusion_model|transformer|module|_orig_mod)\.)+")
FLAT = re.compile(r"(?:lora_unet__?|lora_transformer_|lycoris_)")  # before names whose dots are underscores
KEY = re.compile(
    r"(?P<linear>.+?)\.(?:(?P<down>lora_A(?:\.default(?:_\d+)?)?\.weight|(?:lora[._])?down\.weight)"
    r"|(?P<up>lora_B(?:\.default(?:_\d+)?)?\.weight|(?:lora[._])?up\.weight)|(?P<bias>lora_B(?:\.default(?:_\d+)?)?\.bias)|(?P<alpha>alpha))"
)
ADAPTER = re.compile(r".+\.lora_[AB]\.([^.]+)\.(?:weight|bias)")  # peft's name of one of several
TEXT = re.compile(
    r"(base_model\.model\.)?(text_encoder(_\d)?\.|text_encoders\.|text_model\.|lora_te\d?_|lycoris_te|clip_l\.|t5xxl\.)"
)

# Keys that say what a file holds if it is no plain LoRA.
OTHER = {
    r"dora_scale|lora_magnitude_vector": "is DoRA's: its magnitudes cannot be a LoRA without the weights it is for",
    r"\.hada_": "is LoHa's, a product of two LoRAs, and no LoRA",
    r"\.lokr_": "is LoKr's, a Kronecker product, and no LoRA",
    r"\.(oft|boft)_": "is OFT's, a rotation of the weights, and no LoRA",
    r"\.lora_mid\.": "is the core of a convolution's LoRA, and the transformers here have linears alone",
    r"\.diff(_b)?$": "is a whole difference of weights, and no LoRA",
    r"norm.*\.scale$": "is a norm's weight, as in BFL's control LoRAs: a LoRA alone does not hold what they change",
    r"\.base_layer\.|\.modules_to_save\.": "is a whole weight beside peft's LoRA, and would be lost",
    r"scale_weight|scale_input|scaled_fp8|weight_scale": "is a scale of quantised weights, and these are not read",
}

# FLUX's first names: what has one name here is one linear in diffusers too; what has several is fused, with the same
# inputs and A, and with the rows of B and of its bias one after another.
_EMBEDDERS = {"time_in": "timestep_embedder", "vector_in": "text_embedder", "guidance_in": "guidance_embedder"}
_DOUBLE, _SINGLE = r"double_blocks\.(\d+)\.", r"single_blocks\.(\d+)\."
_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
_TEXT_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
BFL = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    **{
        rf"{ours}\.{layer}_layer": (f"time_text_embed.{theirs}.linear_{number}",)
        for ours, theirs in _EMBEDDERS.items()
        for number, layer in ((1, "in"), (2, "out"))
    },
    **{
        f"{_DOUBLE}{name}": tuple(rf"transformer_blocks.\1.{x}" for x in into)
        for name, into in {
            r"img_mod\.lin": ("norm1.linear",),
            r"txt_mod\.lin": ("norm1_context.linear",),
            r"img_attn\.qkv": _QKV,
            r"txt_attn\.qkv": _TEXT_QKV,
            r"img_attn\.proj": ("attn.to_out.0",),
            r"txt_attn\.proj": ("attn.to_add_out",),
            r"img_mlp\.0": ("ff.net.0.proj",),
            r"img_mlp\.2": ("ff.net.2",),
            r"txt_mlp\.0": ("ff_context.net.0.proj",),
            r"txt_mlp\.2": ("ff_context.net.2",),
            r"processor\.qkv_lora1": _QKV,  # x-flux's, and so on
            r"processor\.qkv_lora2": _TEXT_QKV,
            r"processor\.proj_lora1": ("attn.to_out.0",),
            r"processor\.proj_lora2": ("attn.to_add_out",),
        }.items()
    },
    **{
        f"{_SINGLE}{name}": tuple(rf"single_transformer_blocks.\1.{x}" for x in into)
        for name, into in {
            r"modulation\.lin": ("norm.linear",),
            "linear1": (*_QKV, "proj_mlp"),
            "linear2": ("proj_out",),
            r"processor\.qkv_lora": _QKV,
            r"processor\.proj_lora": ("proj_out",),
        }.items()
    },
    r"final_layer\.linear": ("proj_out",),
    r"final_layer\.adaLN_modulation\.1": ("norm_out.linear",),
}
_BLOCK, _ENDS = r"blocks\.(\d+)\.", "condition_embedder."
WAN = {  # as the authors of Wan name the linears; none is fused
    **{
        rf"{_BLOCK}{ours}\.{letter}": (rf"blocks.\1.{theirs}.{linear}",)
        for ours, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for letter, linear in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))
    },
    rf"{_BLOCK}ffn\.0": (r"blocks.\1.ffn.net.0.proj",),
    rf"{_BLOCK}ffn\.2": (r"blocks.\1.ffn.net.2",),
    **{
        rf"{name}_embedding\.{i}": (f"{_ENDS}{name}_embedder.linear_{number}",)
        for name in ("time", "text")
        for i, number in ((0, 1), (2, 2))
    },
    r"time_projection\.1": (f"{_ENDS}time_proj",),
    r"head\.head": ("proj_out",),
}
# Names of Qwen-Image that FLUX's first release has too, and what no LoRA of Qwen-Image has a name of.
_QWEN_ENDS = ("img_in", "txt_in")
_NOT_QWEN = re.compile(r"(double|single)(_transformer)?_blocks|(x|context)_embedder|final_layer")
_BFL_LIKE = re.compile(r"(double|single)_blocks[._]|final_layer[._]|(img|txt|time|vector|guidance)_in([._]|$)")


def check(keys: Iterable[str]) -> list[str]:
    """The keys that belong to the transformer's LoRA; those of text encoders are left out.

    Raises ValueError, which names one key, for a file that holds anything else, or no LoRA of a transformer.
    """
    keys = list(keys)
    ours = [key for key in keys if not TEXT.match(key)]
    if keys and not ours:
        raise ValueError(f"it holds LoRAs of text encoders alone ('{keys[0]}'), and none of a transformer")
    for key in ours:
        if said := next((said for pattern, said in OTHER.items() if re.search(pattern, key)), None):
            raise ValueError(f"'{key}' {said}")
    adapters = sorted({match[1] for key in ours if (match := ADAPTER.fullmatch(key))})
    if len(adapters) > 1:
        raise ValueError(f"it holds {len(adapters)} adapters ({', '.join(adapters)}); legal is a file of one")
    strange = [key for key in ours if not KEY.fullmatch(key)]
    if not ours or len(strange) == len(ours):
        raise ValueError(f"it holds no LoRA{f', but other weights (such as {strange[0]!r})' if strange else ''}")
    if strange:
        raise ValueError(
            f"key '{strange[0]}' is no part of a LoRA of the transformer (NAME.lora_A.weight, NAME.lora_down.weight, "
            "...)"
        )
    return ours


def source(linear: str) -> str:
    """The name of a linear in the model that its writer trained, without the prefix that a wrapper adds."""
    return PREFIX.sub("", linear, count=1) if PREFIX.match(linear) else linear


def of_qwen_image(names: Iterable[str]) -> bool:
    """Whether linears (from `source`) are Qwen-Image's, where `img_in` and `txt_in` are diffusers' own names.

    Where nothing else tells, they are FLUX's.
    """
    given = [FLAT.sub("", name, count=1) for name in names]
    return any(name.startswith("transformer_blocks") for name in given) and not any(map(_NOT_QWEN.match, given))


def stock(name: str, qwen: bool = False) -> tuple[str, ...]:
    """The names that diffusers gives the linear `name` (from `source`): several where the writer's linear is fused.

    `qwen` says that it is of a file of which `of_qwen_image` is true.
    Raises ValueError for a name that only FLUX's first release or an underscored form could have, and neither has.
    """
    flat = FLAT.match(name)
    given = name[flat.end() :] if flat else name
    if qwen and given in _QWEN_ENDS:
        return (given,)
    for pattern, into in (BFL | WAN).items():
        if match := re.fullmatch(pattern.replace(r"\.", "_") if flat else pattern, given):
            return tuple(match.expand(linear) for linear in into)
    if flat:
        return (_dotted(name, given),)
    if _BFL_LIKE.match(given):
        raise ValueError(f"'{name}' is no linear of FLUX as its first release names them")
    return (given,)


def _dotted(name: str, given: str) -> str:
    block = re.search(r"blocks_(0|[1-9][0-9]{0,2})_", given)
    first = given.replace(block[0], "blocks_0_", 1) if block else given
    found = _flat_names().get(first)
    if found is None:
        raise ValueError(f"'{name}' is no linear of {' or '.join(FAMILIES)}")
    return found.replace("blocks.0.", f"blocks.{block[1]}.") if block else found


@cache
def _flat_names() -> dict[str, str]:
    """Diffusers' names by their spelling with underscores for dots; only names of the first block of each kind."""
    return {name.replace(".", "_"): generic(name) for family in FAMILIES for name in linears(family)}
