"""What is made, by repository id."""

from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from published import judges, pipelines
from published.hub import publish
from unigen.weights.loading import without_bars

REPOSITORIES: dict[str, Callable[[Path], None]] = {
    "zai-org/CogVideoX1.5-5B": pipelines.cogvideox,
    "black-forest-labs/FLUX.1-dev": pipelines.flux_dev,
    "black-forest-labs/FLUX.1-Fill-dev": pipelines.flux_fill,
    "black-forest-labs/FLUX.2-klein-base-4B": pipelines.flux2_klein,
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": pipelines.wan_1_3b,
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": pipelines.wan_ti2v,
    "Qwen/Qwen-Image": pipelines.qwen_image,
    "hunyuanvideo-community/HunyuanVideo-1.5-480p_t2v": pipelines.hunyuan_video,
    "openai/clip-vit-base-patch32": judges.clip_patch32,
    "openai/clip-vit-base-patch16": judges.clip_patch16,
    "facebook/dino-vits16": judges.dino,
    "facebook/dinov2-base": judges.dinov2,
    "IDEA-Research/grounding-dino-base": judges.grounding_dino,
    "facebook/sam2.1-hiera-large": judges.sam2,
    "depth-anything/Depth-Anything-V2-Small-hf": judges.depth_anything,
}


def make(cache: Path, repositories: Iterable[str] = REPOSITORIES) -> Path:
    """The cache folder with these repositories in it. Their weights are the same in every call."""
    for repository in repositories:
        with TemporaryDirectory(dir=cache.parent) as folder, torch.random.fork_rng(devices=[]), without_bars():
            torch.manual_seed(sum(repository.encode()))
            REPOSITORIES[repository](Path(folder))
            publish(Path(folder), cache, repository)
    return cache
