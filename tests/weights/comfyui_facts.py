"""Facts of ComfyUI: which keys of a LoRA it loads, by family. Read in its source, 0.33.0, commit 783545f (2026-08-22).

A key is a prefix, the name of a linear and a suffix. Below "diffusion_model." a linear has the name of ComfyUI's own
model; below "transformer." diffusers' name, in three families alone. Two linears of diffusers that are rows of one
linear are written below "transformer." one by one.
"""

import re

PAIRS = ("lora_A.weight", "lora_B.weight")
SUFFIXES = (*PAIRS, "alpha", "diff_b")  # not "lora_B.bias", which it does not read; diff_b needs the model's own names

_FLUX_ENDS = r"(img|txt)_in|final_layer\.(linear|adaLN_modulation\.1)"
_MLP_EMBEDDERS = r"{}\.(in|out)_layer"
_DOUBLE = r"double_blocks\.\d+\.(img|txt)_(mod\.lin|attn\.(qkv|proj)|mlp\.[02])"
_QWEN = (
    r"transformer_blocks\.\d+\.(attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)|(img|txt)_mod\.1"
    r"|(img|txt)_mlp\.net\.(0\.proj|2))|img_in|txt_in|time_text_embed\.timestep_embedder\.linear_[12]"
    r"|norm_out\.linear|proj_out"
)
OWN = {  # below "diffusion_model.": the linears of ComfyUI's model
    "flux": rf"{_DOUBLE}|single_blocks\.\d+\.(linear[12]|modulation\.lin)|{_FLUX_ENDS}"
    rf"|{_MLP_EMBEDDERS.format('(time|vector|guidance)_in')}",
    "flux2": rf"double_blocks\.\d+\.(img|txt)_(attn\.(qkv|proj)|mlp\.[02])|single_blocks\.\d+\.linear[12]|{_FLUX_ENDS}"
    rf"|{_MLP_EMBEDDERS.format('(time|guidance)_in')}|(double_stream_modulation_(img|txt)|single_stream_modulation)\.lin",
    "wan": r"blocks\.\d+\.((self|cross)_attn\.[qkvo]|ffn\.[02])|(time|text)_embedding\.[02]|time_projection\.1"
    r"|head\.head",
    "qwen_image": _QWEN,
    "hunyuan_video": rf"{_DOUBLE}|final_layer\.(linear|adaLN_modulation\.1)|byt5_in\.fc[123]|vision_in\.proj\.[13]"
    rf"|{_MLP_EMBEDDERS.format('(time_in|txt_in.[tc]_embedder)')}|txt_in\.input_embedder"
    r"|txt_in\.individual_token_refiner\.blocks\.\d+\.(self_attn\.(qkv|proj)|mlp\.[02]|adaLN_modulation\.1)",
    "cogvideox": r"blocks\.\d+\.(q|k|v|attn_out|norm[12]\.linear|ff_proj|ff_out)|patch_embed\.(proj|text_proj)"
    r"|(time|ofs)_embedding_linear_[12]|norm_out\.linear|proj_out",
}
_FLUX = (
    r"transformer_blocks\.\d+\.(attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)|norm1(_context)?\.linear"
    r"|ff(_context)?\.(net\.0\.proj|net\.2|linear_in|linear_out))"
    r"|single_transformer_blocks\.\d+\.(attn\.(to_[qkv]|to_qkv_mlp_proj|to_out)|proj_mlp|proj_out|norm\.linear)"
    r"|x_embedder|context_embedder|time_text_embed\.(timestep|text|guidance)_embedder\.linear_[12]"
    r"|norm_out\.linear|proj_out"
)
DIFFUSERS = {"flux": _FLUX, "flux2": _FLUX, "qwen_image": _QWEN}  # below "transformer."


def accepted(family: str, key: str) -> bool:
    """Whether ComfyUI loads a key for its model of `family`."""
    for suffix in SUFFIXES:
        if key.endswith(f".{suffix}"):
            linear = key.removesuffix(f".{suffix}")
            own = re.fullmatch(rf"diffusion_model\.({OWN[family]})", linear)
            theirs = re.fullmatch(rf"transformer\.({DIFFUSERS.get(family, '(?!)')})", linear) and suffix != "diff_b"
            return bool(own or theirs)
    return False
