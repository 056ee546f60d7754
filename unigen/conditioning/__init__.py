"""Parts that condition the transformer: embeddings (UCE), modulation branches (SC-AdaLN), adapters (LoRA)."""
