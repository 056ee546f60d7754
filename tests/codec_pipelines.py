"""A tiny pipeline behind any codec, for tests of what codecs and caches keep."""

import torch
from tiny import batch, tiny

from unigen.cache.store import Cache
from unigen.pipeline.build import build_pipeline


def pipeline(codec: str, cache: Cache | None = None):
    """A tiny pipeline with a frozen text encoder, the same weights every time."""
    torch.manual_seed(0)
    config = tiny(f"encoder/codec={codec}", num_layers=1)
    config["encoder"]["text"]["trained"] = False
    node = config["encoder"]["codec"]
    if "config" in node:
        depth = len(node["config"]["block_out_channels"])
        node["config"] |= {"block_out_channels": [8] * depth, "norm_num_groups": 2, "layers_per_block": 1}
        node["pretrained"] = None
    made = build_pipeline(config)
    made.codec.fit(lambda: batch(8).images["target"][:, 0])
    made.cache = cache
    return made
