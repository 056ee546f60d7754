"""CogVideoX1.5-5B, FLUX.1-dev and FLUX.1-Fill-dev, Wan2.1-T2V-1.3B and Wan2.2-TI2V-5B, and Qwen-Image in miniature,
file by file as published; and FLUX.2-klein-base-4B and HunyuanVideo-1.5 by their model indices, with the files that the
libraries write."""

from pathlib import Path
from typing import Any

import torch
import yaml
from tiny import CONF
from torch import nn

from published import chat, tokenizers
from published.sizes import (
    CLIP_TEXT,
    COGVIDEOX,
    FLUX,
    FLUX2,
    HUNYUAN,
    HUNYUAN_TEXT,
    HUNYUAN_VAE,
    QWEN,
    QWEN3,
    QWEN3_WORDS,
    QWEN_TEXT,
    T5,
    T5_WORDS,
    VAE,
    WAN,
    WAN_2_2_VAE,
    WAN_VAE,
    WIDTH,
)
from published.tokenizers import write

SHARD = "60KB"
DOWN, UP = ["CogVideoXDownBlock3D"] * 4, ["CogVideoXUpBlock3D"] * 4
# As a published copy of the repository has them; the conversion script and conf/backbone say 300 for both.
SAMPLE = {"sample_height": 96, "sample_width": 170, "sample_frames": 81}


def save(model: nn.Module, folder: Path, dtype: torch.dtype = torch.bfloat16, shard: str = SHARD) -> None:
    """Nothing stays zero by initialisation: what is not read would show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    nn.Module.to(model, dtype).save_pretrained(folder, max_shard_size=shard)


def t5_encoder(folder: Path, multilingual: bool = False) -> None:
    from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

    kind, model = (UMT5Config, UMT5EncoderModel) if multilingual else (T5Config, T5EncoderModel)
    config = kind(
        **T5,
        d_model=WIDTH,
        vocab_size=T5_WORDS,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.1,
        pad_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    save(model(config), folder)


def index(folder: Path, pipeline: str, parts: dict[str, tuple[str, str]]) -> None:
    write(folder / "model_index.json", {"_class_name": pipeline, "_diffusers_version": "0.32.0.dev0", **parts})
    (folder / "README.md").write_text("A miniature with random weights.\n")


def cogvideox(folder: Path) -> None:
    from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel

    transformer = CogVideoXTransformer3DModel(
        **COGVIDEOX,
        **SAMPLE,
        in_channels=16,
        out_channels=16,
        attention_bias=True,
        patch_size=2,
        patch_size_t=2,
        patch_bias=False,
        temporal_compression_ratio=4,
        max_text_seq_length=226,
        use_rotary_positional_embeddings=True,
        spatial_interpolation_scale=1.875,
    )
    save(transformer, folder / "transformer")
    vae = AutoencoderKLCogVideoX(
        **VAE,
        down_block_types=DOWN,
        up_block_types=UP,
        latent_channels=16,
        temporal_compression_ratio=4,
        scaling_factor=0.7,
        invert_scale_latents=True,
    )
    save(vae, folder / "vae", shard="10GB")
    t5_encoder(folder / "text_encoder")
    tokenizers.t5(folder / "tokenizer", 226, whole=False)
    CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        set_alpha_to_one=True,
        snr_shift_scale=1.0,
        timestep_spacing="trailing",
    ).save_pretrained(folder / "scheduler")
    parts = {
        "scheduler": ("diffusers", "CogVideoXDDIMScheduler"),
        "text_encoder": ("transformers", "T5EncoderModel"),
        "tokenizer": ("transformers", "T5Tokenizer"),
        "transformer": ("diffusers", "CogVideoXTransformer3DModel"),
        "vae": ("diffusers", "AutoencoderKLCogVideoX"),
    }
    index(folder, "CogVideoXPipeline", parts)


def flux_dev(folder: Path) -> None:
    _flux(folder, "FluxPipeline", in_channels=64)


def flux_fill(folder: Path) -> None:
    _flux(folder, "FluxFillPipeline", in_channels=384, out_channels=64)


def _flux(folder: Path, pipeline: str, **channels: Any) -> None:
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel

    save(FluxTransformer2DModel(**FLUX, **channels, patch_size=1, guidance_embeds=True), folder / "transformer")
    vae = AutoencoderKL(
        **VAE,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        sample_size=1024,
    )
    save(vae, folder / "vae", shard="10GB")
    # as published: ids of the ends that the tokenizer does not use; transformers reads at the greatest id instead
    text = CLIPTextConfig(
        **CLIP_TEXT, max_position_embeddings=77, hidden_act="quick_gelu", bos_token_id=0, eos_token_id=2, pad_token_id=1
    )
    save(CLIPTextModel(text), folder / "text_encoder", shard="10GB")
    tokenizers.clip(folder / "tokenizer")
    t5_encoder(folder / "text_encoder_2")
    tokenizers.t5(folder / "tokenizer_2", 512, whole=True)
    FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    ).save_pretrained(folder / "scheduler")
    parts = {
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
        "text_encoder": ("transformers", "CLIPTextModel"),
        "text_encoder_2": ("transformers", "T5EncoderModel"),
        "tokenizer": ("transformers", "CLIPTokenizer"),
        "tokenizer_2": ("transformers", "T5TokenizerFast"),
        "transformer": ("diffusers", "FluxTransformer2DModel"),
        "vae": ("diffusers", "AutoencoderKL"),
    }
    index(folder, pipeline, parts)


def flux2_klein(folder: Path) -> None:
    """The statistics of the VAE's batch norm are no trained weights, so `save` leaves them; here they are random."""
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel
    from transformers import Qwen3Config, Qwen3ForCausalLM

    save(Flux2Transformer2DModel(**FLUX2, guidance_embeds=False), folder / "transformer")
    vae = AutoencoderKLFlux2(
        **VAE, down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    save(vae, folder / "vae", shard="10GB")
    text = {**yaml.safe_load((CONF / "encoder" / "text" / "qwen3_4b.yaml").read_text())["config"], **QWEN3}
    save(
        Qwen3ForCausalLM(Qwen3Config(**text, vocab_size=QWEN3_WORDS, tie_word_embeddings=True)), folder / "text_encoder"
    )
    chat.qwen(folder / "tokenizer")
    FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True).save_pretrained(folder / "scheduler")
    parts = {
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
        "text_encoder": ("transformers", "Qwen3ForCausalLM"),
        "tokenizer": ("transformers", "Qwen2TokenizerFast"),
        "transformer": ("diffusers", "Flux2Transformer2DModel"),
        "vae": ("diffusers", "AutoencoderKLFlux2"),
    }
    index(folder, "Flux2KleinPipeline", parts)


def wan_1_3b(folder: Path) -> None:
    _wan(folder, "wan2_1_vae", WAN_VAE, flow_shift=3.0)


def wan_ti2v(folder: Path) -> None:
    _wan(folder, "wan2_2_vae", WAN_2_2_VAE, flow_shift=5.0)


def _wan(folder: Path, codec: str, sizes: dict[str, Any], flow_shift: float) -> None:
    """In fp32, as the conversion script saves transformer and VAE; the means and deviations are the published ones."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel

    vae = {**yaml.safe_load((CONF / "encoder" / "codec" / f"{codec}.yaml").read_text())["config"], **sizes}
    transformer = WanTransformer3DModel(
        **WAN, in_channels=vae["z_dim"], out_channels=vae["z_dim"], cross_attn_norm=True, rope_max_seq_len=1024
    )
    save(transformer, folder / "transformer", torch.float32)
    save(AutoencoderKLWan(**vae), folder / "vae", torch.float32, shard="10GB")
    t5_encoder(folder / "text_encoder", multilingual=True)
    tokenizers.t5(folder / "tokenizer", 512, whole=True)
    UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=flow_shift
    ).save_pretrained(folder / "scheduler")
    parts = {
        "scheduler": ("diffusers", "UniPCMultistepScheduler"),
        "text_encoder": ("transformers", "UMT5EncoderModel"),
        "tokenizer": ("transformers", "T5TokenizerFast"),
        "transformer": ("diffusers", "WanTransformer3DModel"),
        "vae": ("diffusers", "AutoencoderKLWan"),
    }
    index(folder, "WanPipeline", parts)


def qwen_image(folder: Path) -> None:
    """The text encoder is a whole Qwen2.5-VL, with the vision tower and the head that text to image does not use."""
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    save(QwenImageTransformer2DModel(**QWEN), folder / "transformer")
    save(AutoencoderKLQwenImage(**WAN_VAE), folder / "vae", shard="10GB")
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]}
    words = {**QWEN_TEXT, "hidden_size": WIDTH, "rms_norm_eps": 1e-6, "rope_parameters": rope}
    images = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    text = Qwen2_5_VLConfig(text_config=words, vision_config=images, tie_word_embeddings=False)
    save(Qwen2_5_VLForConditionalGeneration(text), folder / "text_encoder")
    tokenizers.qwen(folder / "tokenizer")
    FlowMatchEulerDiscreteScheduler(
        shift=1.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=0.9,
        base_image_seq_len=256,
        max_image_seq_len=8192,
        shift_terminal=0.02,
    ).save_pretrained(folder / "scheduler")
    parts = {
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
        "text_encoder": ("transformers", "Qwen2_5_VLForConditionalGeneration"),
        "tokenizer": ("transformers", "Qwen2Tokenizer"),
        "transformer": ("diffusers", "QwenImageTransformer2DModel"),
        "vae": ("diffusers", "AutoencoderKLQwenImage"),
    }
    index(folder, "QwenImagePipeline", parts)


def hunyuan_video(folder: Path) -> None:
    """The text encoder is a language model alone. The encoder of glyphs is there too, and not read here."""
    from diffusers import (
        AutoencoderKLHunyuanVideo15,
        ClassifierFreeGuidance,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideo15Transformer3DModel,
    )
    from transformers import ByT5Tokenizer, Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel, T5Config, T5EncoderModel

    save(HunyuanVideo15Transformer3DModel(**HUNYUAN, target_size=640, task_type="t2v"), folder / "transformer")
    vae = {**yaml.safe_load((CONF / "encoder" / "codec" / "hunyuan_video1_5_vae.yaml").read_text())["config"]}
    save(AutoencoderKLHunyuanVideo15(**{**vae, **HUNYUAN_VAE}), folder / "vae", shard="10GB")
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]}
    words = {**HUNYUAN_TEXT, "hidden_size": WIDTH, "rms_norm_eps": 1e-6, "rope_parameters": rope}
    save(Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**words)), folder / "text_encoder")
    chat.qwen(folder / "tokenizer")
    glyphs = T5Config(**T5, d_model=HUNYUAN["text_embed_2_dim"], vocab_size=384, feed_forward_proj="gated-gelu")
    save(T5EncoderModel(glyphs), folder / "text_encoder_2", shard="10GB")
    ByT5Tokenizer().save_pretrained(folder / "tokenizer_2")
    FlowMatchEulerDiscreteScheduler(shift=5.0).save_pretrained(folder / "scheduler")
    ClassifierFreeGuidance(guidance_scale=6.0).save_pretrained(folder / "guider")
    parts = {
        "guider": ("diffusers", "ClassifierFreeGuidance"),
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
        "text_encoder": ("transformers", "Qwen2_5_VLTextModel"),
        "text_encoder_2": ("transformers", "T5EncoderModel"),
        "tokenizer": ("transformers", "Qwen2TokenizerFast"),
        "tokenizer_2": ("transformers", "ByT5Tokenizer"),
        "transformer": ("diffusers", "HunyuanVideo15Transformer3DModel"),
        "vae": ("diffusers", "AutoencoderKLHunyuanVideo15"),
    }
    index(folder, "HunyuanVideo15Pipeline", parts)
