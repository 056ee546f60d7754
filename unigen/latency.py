"""How long a picture takes: wall seconds of sampling, kept beside how many were sampled at once and on what device."""

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unigen.header import device
from unigen.pipeline import Pipeline
from unigen.types import Batch


class Draw(NamedTuple):
    """Wall seconds a sample of one batch, how many samples were drawn at once, and the device in words."""

    seconds: float
    together: int
    device: str


def timed_sample(pipeline: Pipeline, batch: Batch, seed: int) -> tuple[dict[str, Tensor], Draw]:
    """What `Pipeline.sample` gives, encoding and decoding included, and the time it took until a GPU was done."""
    _finish(pipeline)
    start = time.perf_counter()
    outputs = pipeline.sample(batch, seed)
    _finish(pipeline)
    return outputs, Draw((time.perf_counter() - start) / len(batch), len(batch), device())


def sampling(draws: Sequence[Draw]) -> dict[str, Any]:
    """{"seconds_per_picture", "batch_size", "device"}: the median over samples of the most usual setting; {} of none.

    The first batch on a machine takes longer, as does one that others disturb: so the median, and not the mean.
    """
    if not draws:
        return {}
    (together, where), _ = Counter((draw.together, draw.device) for draw in draws).most_common(1)[0]
    seconds = statistics.median(draw.seconds for draw in draws if (draw.together, draw.device) == (together, where))
    return {"seconds_per_picture": round(seconds, 5), "batch_size": together, "device": where}


def _finish(pipeline: Pipeline) -> None:
    if pipeline.device.type == "cuda":
        torch.cuda.synchronize(pipeline.device)
