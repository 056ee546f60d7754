"""The sizes of the miniatures, and the words of a command line at `scale=paper` that name them and nothing else."""

from published.chat import words
from published.tokenizers import EXTRA, PIECES, clip_words, qwen_words

WIDTH = 32
HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}
COGVIDEOX = {**HEADS, "num_layers": 2, "text_embed_dim": WIDTH, "time_embed_dim": 32}
FLUX = {
    **HEADS,
    "num_layers": 1,
    "num_single_layers": 2,
    "joint_attention_dim": WIDTH,
    "pooled_projection_dim": 24,
    "axes_dims_rope": [4, 6, 6],
}
WAN = {**HEADS, "num_layers": 2, "text_dim": WIDTH, "freq_dim": 32, "ffn_dim": 48}
WAN_VAE = {"base_dim": 8, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}
WAN_2_2_VAE = {**WAN_VAE, "decoder_base_dim": 8}
FLUX2 = {
    **HEADS,
    "num_layers": 1,
    "num_single_layers": 2,
    "joint_attention_dim": 24,
    "timestep_guidance_channels": 32,
    "axes_dims_rope": [4, 4, 4, 4],
}
QWEN3 = {  # three of its hidden states are as wide as FLUX2 reads
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
}
QWEN3_WORDS = len(words()) + 5  # its table is longer than its vocabulary
QWEN = {**HEADS, "num_layers": 2, "joint_attention_dim": WIDTH, "axes_dims_rope": [4, 6, 6]}
QWEN_TEXT = {
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": len(qwen_words()) + 5,  # the table is longer than the vocabulary, as the published one
}
HUNYUAN = {
    **HEADS,
    "num_layers": 2,
    "num_refiner_layers": 1,
    "text_embed_dim": WIDTH,
    "text_embed_2_dim": 24,
    "image_embed_dim": 16,
    "rope_axes_dim": [4, 6, 6],
}
HUNYUAN_TEXT = {**QWEN_TEXT, "num_hidden_layers": 4, "vocab_size": QWEN3_WORDS}
HUNYUAN_VAE = {"block_out_channels": [8, 8, 16, 32, 64], "layers_per_block": 1}
VAE = {"block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 2}
T5 = {"d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
T5_WORDS = PIECES + EXTRA + 28  # T5's table is longer than its vocabulary too
CLIP_TEXT = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": len(clip_words()),
}


def sizes(family: str, size: int = 64) -> list[str]:
    """The words for the `family` cogvideox, flux (dev and Fill), flux2_klein, wan, wan_ti2v_5b, qwen_image or
    hunyuan_video1_5, with images of `size`²; four items at most."""
    backbones = {"flux": FLUX, "flux2_klein": FLUX2, "cogvideox": COGVIDEOX, "qwen_image": QWEN}
    backbone = {**backbones, "hunyuan_video1_5": HUNYUAN}.get(family, WAN)
    codecs = {"wan": WAN_VAE, "wan_ti2v_5b": WAN_2_2_VAE, "qwen_image": WAN_VAE, "hunyuan_video1_5": HUNYUAN_VAE}
    codec = codecs.get(family, VAE)
    nodes = {
        "backbone.config": backbone,
        "encoder.codec.config": codec,
        "encoder.text.config": T5,
        "encoder.text": {"vocabulary": T5_WORDS},
        "conditioning.adapter": {"rank": 4, "alpha": 4},
        "data": {"size": size, "batch_size": 2, "val_items": 2},
        "optimizer": {"batch": 2},
        "trainer": {"max_steps": 2, "accumulate_grad_batches": 1},
        "validation": {"every": 2},
        "solver": {"steps": 2},
        "evaluation": {"items": 2},
        "callback.sample_grid": {"items": 2},
    }
    if family == "flux2_klein":
        nodes |= {
            "encoder.text.config": QWEN3,
            "encoder.text": {"vocabulary": QWEN3_WORDS, "window": 64, "layers": [1, 2, 3]},
        }
    if family == "qwen_image":
        nodes |= {"encoder.text.config": QWEN_TEXT, "encoder.text": {}}
    if family == "hunyuan_video1_5":
        nodes |= {"encoder.text.config": HUNYUAN_TEXT, "encoder.text": {"layers": 2}}
    if family == "flux":
        nodes["encoder.text.clip.config"] = CLIP_TEXT
    found = [f"{node}.{key}={value}" for node, values in nodes.items() for key, value in values.items()]
    return [word.replace(" ", "") for word in found]
