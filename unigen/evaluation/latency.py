"""The latency of sampling: wall seconds an image, with the size of the batch and the device."""

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unigen.core.types import Batch
from unigen.pipeline.header import device
from unigen.pipeline.pipeline import Pipeline


class Draw(NamedTuple):
    """The latency of one batch: wall seconds a sample, the number of samples drawn together, the device in words."""

    seconds: float
    together: int
    device: str


def timed_sample(pipeline: Pipeline, batch: Batch, seed: int) -> tuple[dict[str, Tensor], Draw]:
    """Sample a batch; return the outputs and the latency, from encoding to decoding, until the GPU has finished."""
    _finish(pipeline)
    start = time.perf_counter()
    outputs = pipeline.sample(batch, seed)
    _finish(pipeline)
    return outputs, Draw((time.perf_counter() - start) / len(batch), len(batch), device())


def sampling(draws: Sequence[Draw]) -> dict[str, Any]:
    """Return {"seconds_per_image", "batch_size", "device"} for the most frequent batch size and device; {} if empty.

    It is the median over samples and not the mean, because the first batch on a machine takes longer, and so does one
    that other processes disturb.
    """
    if not draws:
        return {}
    (together, where), _ = Counter((draw.together, draw.device) for draw in draws).most_common(1)[0]
    seconds = statistics.median(draw.seconds for draw in draws if (draw.together, draw.device) == (together, where))
    return {"seconds_per_image": round(seconds, 5), "batch_size": together, "device": where}


def _finish(pipeline: Pipeline) -> None:
    if pipeline.device.type == "cuda":
        torch.cuda.synchronize(pipeline.device)
