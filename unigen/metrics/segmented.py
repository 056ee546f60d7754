"""Likeness of the subject alone: a metric of two pictures after everything but the subject is blanked in both.

RealGeneral measures CLIP-I and DINO so ("after segmenting the subject"); which models, thresholds and background it
takes, it does not say: these are ours, and on the card. Shapes: N items, C = 3 channels, H and W pixels.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unigen import canvas
from unigen.metrics.cutout import GroundedSam
from unigen.metrics.pictures import SUBJECT
from unigen.metrics.pretrained import Likeness

Parted = tuple[Tensor, list[Sequence[str]], list[Sequence[str]]]  # see `unigen.metrics.pictures.Subjects`


class Segmented:
    """`metric` of outputs and truths, each on `background` (a grey from 0 to 255) outside of its own subject.

    A picture in which the subject is not found counts whole; how many outputs those are is told by `counts`.
    """

    against = SUBJECT

    def __init__(self, name: str, metric: Likeness, cutout: GroundedSam, background: int) -> None:
        if not 0 <= background <= 255:
            raise ValueError(f"metric.{name}.background={background} must be from 0 to 255")
        self.name, self.metric, self.cutout, self.background = name, metric, cutout, background
        self.better = metric.better
        metric.name, cutout.key = f"{name}.metric", f"metric.{name}.cutout"  # for what is said of absent weights
        self._masks: dict[tuple[bytes, tuple[str, ...]], Tensor | None] = {}  # truths come back for every bound

    @property
    def protocol(self) -> Mapping[str, str]:
        """The metric's own, and what the subject is found by. Raises Unavailable if any weights are absent."""
        blank = f"grey {self.background} outside of the subject; a picture without a detection counts whole"
        return {**self.metric.protocol, **self.cutout.protocol, "segmentation": blank}

    def __call__(self, output: Tensor, reference: Parted) -> Tensor:
        """Scores (N,)."""
        truth, words, own = reference
        return self.metric(self.alone(output, own), self.alone(truth, words))

    def alone(self, pictures_N3HW: Tensor, words: Sequence[Sequence[str]]) -> Tensor:
        """uint8 pictures with nothing but their subjects."""
        return torch.stack([self._blanked(picture, said) for picture, said in zip(pictures_N3HW, words, strict=True)])

    def counts(self, output: Tensor, reference: Parted) -> dict[str, int]:
        """{"undetected": outputs in which the subject was not found}."""
        own = reference[2]
        return {"undetected": sum(self._mask(x, said) is None for x, said in zip(output, own, strict=True))}

    def _blanked(self, picture_3HW: Tensor, words: Sequence[str]) -> Tensor:
        mask = self._mask(picture_3HW, words)
        return picture_3HW if mask is None else picture_3HW.where(mask, torch.tensor(self.background).to(picture_3HW))

    def _mask(self, picture_3HW: Tensor, words: Sequence[str]) -> Tensor | None:
        key = canvas.digest(picture_3HW), tuple(words)
        if key not in self._masks:
            self._masks[key] = self.cutout(picture_3HW, words)
        mask = self._masks[key]
        return None if mask is None else mask.to(picture_3HW.device)
