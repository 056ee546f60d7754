"""Initial weights for a diffusion transformer that is trained from scratch."""

from torch import nn


def adaln_zero_(model: nn.Module) -> nn.Module:
    """DiT's initialisation (Peebles and Xie 2023, section 3.2), in place, on a diffusers CogVideoX-like transformer.

    Linears are Xavier-uniform with zero biases; all modulation and the head start at zero, so every
    block starts as the identity and the first prediction is zero. Pretrained models are never passed here.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for linear in (model.time_embedding.linear_1, model.time_embedding.linear_2):
        nn.init.normal_(linear.weight, std=0.02)
    modulation = [norm.linear for block in model.transformer_blocks for norm in (block.norm1, block.norm2)]
    for linear in (*modulation, model.norm_out.linear, model.proj_out):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    return model
