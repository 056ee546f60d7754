"""The configurations of a judge that runs in milliseconds."""

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 16,
}
VISION = {**TOWER, "image_size": 32, "patch_size": 8}
TEXT = {**TOWER, "vocab_size": 384, "max_position_embeddings": 24, "pad_token_id": 0, "bos_token_id": 0}
CLIP = {"projection_dim": 16, "vision_config": VISION, "text_config": {**TEXT, "eos_token_id": 1}}
