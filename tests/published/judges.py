"""The models that metrics ask, in miniature: tiny towers, the published geometry of patches and positions."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from published import tokenizers
from published.tokenizers import clip_words, write

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
OPENAI = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
SWIN = {"window_size": 4, "embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4, "image_size": 64}
BERT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
HIERA = {
    "hidden_size": 8,
    "image_size": [64, 64],
    "patch_kernel_size": [7, 7],
    "patch_stride": [4, 4],
    "patch_padding": [3, 3],
    "query_stride": [2, 2],
    "window_positional_embedding_background_size": [7, 7],
    "num_query_pool_stages": 3,
    "blocks_per_stage": [1, 1, 2, 1],
    "embed_dim_per_stage": [8, 16, 32, 64],
    "num_attention_heads_per_stage": [1, 2, 2, 2],
    "window_size_per_stage": [4, 4, 4, 4],
    "global_attention_blocks": [3],
}


def save(model: nn.Module, folder: Path, spread: float = 0.2) -> None:
    """Nothing is zero by initialisation, a class token among it; a spread of 0 leaves the weights as they are."""
    if spread:
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=spread)
    model.save_pretrained(folder)


def old_form(folder: Path) -> None:
    """The weights as `pytorch_model.bin`, which is all that repositories from before safetensors have."""
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def preprocessor(folder: Path, kind: str, **said: Any) -> None:
    write(folder / "preprocessor_config.json", {"image_processor_type": kind, **said})


def _clip(folder: Path, patch: int) -> None:
    from transformers import CLIPConfig, CLIPModel

    ends = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # as published, not those of the tokenizer
    text = {**TOWER, "vocab_size": len(clip_words()), "max_position_embeddings": 77, "projection_dim": 16, **ends}
    vision = {**TOWER, "image_size": 224, "patch_size": patch, "projection_dim": 16}
    save(CLIPModel(CLIPConfig(projection_dim=16, text_config=text, vision_config=vision)), folder)
    old_form(folder)
    tokenizers.clip(folder)
    sides = {"do_resize": True, "size": 224, "do_center_crop": True, "crop_size": 224, "do_normalize": True}
    write(folder / "preprocessor_config.json", {"feature_extractor_type": "CLIPFeatureExtractor", **sides, **OPENAI})


def clip_patch32(folder: Path) -> None:
    _clip(folder, 32)


def clip_patch16(folder: Path) -> None:
    _clip(folder, 16)


def dino(folder: Path) -> None:
    from transformers import ViTConfig, ViTModel

    save(ViTModel(ViTConfig(**TOWER, image_size=224, patch_size=16), add_pooling_layer=False), folder)
    old_form(folder)
    preprocessor(folder, "ViTFeatureExtractor", size=224, **IMAGENET)


def dinov2(folder: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    save(Dinov2Model(Dinov2Config(**TOWER, image_size=518, patch_size=14)), folder)
    sides = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
    preprocessor(folder, "BitImageProcessor", **sides, **IMAGENET)


def grounding_dino(folder: Path) -> None:
    from transformers import (
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        SwinConfig,
    )

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "red", "cat", "dog"]
    detector = GroundingDinoConfig(
        backbone_config=SwinConfig(**SWIN, out_features=["stage2", "stage3", "stage4"]),
        text_config={**BERT, "model_type": "bert", "vocab_size": len(words), "max_position_embeddings": 16},
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        num_queries=5,
        max_text_len=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_n_points=2,
        decoder_n_points=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_feature_levels=4,
    )
    save(GroundingDinoForObjectDetection(detector), folder, spread=0)
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    said = {"format": "coco_detection", "do_pad": False, "size": {"height": 128, "width": 128}}
    preprocessor(folder, "GroundingDinoImageProcessor", processor_class="GroundingDinoProcessor", **said, **IMAGENET)


def sam2(folder: Path) -> None:
    from transformers import Sam2Config, Sam2Model

    outliner = Sam2Config(
        vision_config={
            "backbone_config": {**HIERA, "model_type": "sam2_hiera_det_model"},
            "backbone_channel_list": [64, 32, 16, 8],
            "fpn_hidden_size": 16,
            "fpn_top_down_levels": [2, 3],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
    )
    save(Sam2Model(outliner), folder, spread=0)
    sides = {"size": {"height": 64, "width": 64}, "mask_size": {"height": 16, "width": 16}}
    preprocessor(folder, "Sam2ImageProcessorFast", processor_class="Sam2Processor", **sides, **IMAGENET)
    write(
        folder / "processor_config.json",
        {"processor_class": "Sam2Processor", "target_size": 64, "point_pad_value": -10},
    )


def depth_anything(folder: Path) -> None:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(**TOWER, image_size=518, patch_size=14, out_indices=[1, 2], reshape_hidden_states=False)
    config = DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=14,
        reassemble_hidden_size=32,
        reassemble_factors=[2, 1],
        neck_hidden_sizes=[8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
    )
    save(DepthAnythingForDepthEstimation(config), folder)
    said = {"ensure_multiple_of": 14, "keep_aspect_ratio": True, "size": {"height": 518, "width": 518}}
    preprocessor(folder, "DPTImageProcessor", **said, **IMAGENET)
