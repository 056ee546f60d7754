"""Similarity of the subjects alone: a metric of two images in which everything but the subject is blanked.

Grounding DINO (arXiv:2303.05499) finds the box of a subject by its name, and SAM 2 (arXiv:2408.00714) finds the outline
in the box. RealGeneral measures CLIP-I and DINO in this way ("after segmenting the subject"), but does not name the
models, thresholds and background: those here are our choice, and the protocol card names them.

Shapes: N items, C = 3 channels, H and W pixels.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unigen.core import canvas
from unigen.metrics.images import SUBJECT
from unigen.metrics.pretrained import Likeness, load, model_folder
from unigen.weights.loading import Unavailable, weights_hash

DETECTOR, OUTLINER = "GroundingDinoForObjectDetection", "Sam2Model"  # classes of transformers


class GroundedSam:
    """Segments named subjects. `key` is its place in the configuration, which errors about absent weights name.

    `detector` and `outliner` are repository ids of the Hugging Face cache, or folders. `threshold`, in [0, 1], is the
    least score of a box; the best box is taken. If `download` is true, repositories that are not in the cache are
    downloaded.
    """

    def __init__(self, detector: str, outliner: str, threshold: float, download: bool) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold} of a metric's cutout must be from 0 to 1")
        self.sources = {"detector": detector, "outliner": outliner}
        self.threshold, self.download, self.key = threshold, download, "cutout"

    @property
    def protocol(self) -> Mapping[str, str]:
        """The protocol, which names both models by their weights. Raises Unavailable if they are absent."""
        return {
            "detector": f"{DETECTOR}, SHA-256 {weights_hash(self._folder('detector'))}, best box from {self.threshold}",
            "outliner": f"{OUTLINER}, SHA-256 {weights_hash(self._folder('outliner'))}, one mask of the box",
        }

    def __call__(self, image_3HW: Tensor, words: Sequence[str]) -> Tensor | None:
        """Return the mask of the subject in a uint8 image, booleans (H, W); None without a box or without words.

        Raises Unavailable if the weights are absent.
        """
        said = [word.strip().lower() for word in words if word.strip()]
        box = self._box(image_3HW, " . ".join(said) + " .") if said else None
        mask = None if box is None else self._outline(image_3HW, box)
        return mask if mask is not None and mask.any() else None

    @torch.no_grad()
    def _box(self, image_3HW: Tensor, text: str) -> list[float] | None:
        """Return the box with the best score, [left, top, right, bottom] in pixels, or None."""
        folder = self._folder("detector")
        processor, model = _processor("GroundingDinoProcessor", folder), load(DETECTOR, folder)
        inputs = processor(images=_channels_last(image_3HW), text=text, return_tensors="pt").to(model.device)
        sizes = [tuple(image_3HW.shape[1:])]
        [found] = processor.post_process_grounded_object_detection(
            model(**inputs), inputs["input_ids"], threshold=self.threshold, target_sizes=sizes
        )
        return found["boxes"][found["scores"].argmax()].tolist() if len(found["scores"]) else None

    @torch.no_grad()
    def _outline(self, image_3HW: Tensor, box: list[float]) -> Tensor:
        folder = self._folder("outliner")
        processor, model = _processor("Sam2Processor", folder), load(OUTLINER, folder)
        inputs = processor(images=_channels_last(image_3HW), input_boxes=[[box]], return_tensors="pt")
        sizes = inputs["original_sizes"]
        outputs = model(**inputs.to(model.device), multimask_output=False)
        [masks] = processor.post_process_masks(outputs.pred_masks.cpu(), sizes)
        return masks[0, 0].bool()

    def _folder(self, which: str) -> Path:
        """Return a model's folder. Raises Unavailable, naming the model, its key and the remedy, if there is none."""
        folder = model_folder(self.sources[which], self.key, self.download, source_key=which)
        try:
            weights_hash(folder)
        except FileNotFoundError as error:
            raise Unavailable(f"{error}, which {self.key}.{which} names") from None
        return folder


def _channels_last(image_3HW: Tensor) -> Any:
    return image_3HW.cpu().permute(1, 2, 0).numpy()


@lru_cache(maxsize=4)
def _processor(name: str, folder: Path) -> Any:
    import transformers

    try:
        return getattr(transformers, name).from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise Unavailable(f"{folder} holds no {name}: {str(error).splitlines()[0]}") from error


Parted = tuple[Tensor, list[Sequence[str]], list[Sequence[str]]]  # see `unigen.metrics.images.Subjects`


class Segmented:
    """`metric` of outputs and truths, each filled with `background` (a grey from 0 to 255) outside its own subject.

    An image in which the subject is not found is compared whole; `counts` returns the number of such outputs.
    """

    against = SUBJECT

    def __init__(self, name: str, metric: Likeness, cutout: GroundedSam, background: int) -> None:
        if not 0 <= background <= 255:
            raise ValueError(f"metric.{name}.background={background} must be from 0 to 255")
        self.name, self.metric, self.cutout, self.background = name, metric, cutout, background
        self.better = metric.better
        metric.name, cutout.key = f"{name}.metric", f"metric.{name}.cutout"  # for errors about absent weights
        self._masks: dict[tuple[bytes, tuple[str, ...]], Tensor | None] = {}  # each bound compares the same truths

    @property
    def protocol(self) -> Mapping[str, str]:
        """The protocols of the metric and of the segmentation. Raises Unavailable if any weights are absent."""
        blank = f"grey {self.background} outside of the subject; a picture without a detection counts whole"
        return {**self.metric.protocol, **self.cutout.protocol, "segmentation": blank}

    def __call__(self, output: Tensor, reference: Parted) -> Tensor:
        """Return scores (N,)."""
        truth, words, own = reference
        return self.metric(self.alone(output, own), self.alone(truth, words))

    def alone(self, images_N3HW: Tensor, words: Sequence[Sequence[str]]) -> Tensor:
        """Return the uint8 images with everything but their subjects blanked."""
        return torch.stack([self._blanked(image, said) for image, said in zip(images_N3HW, words, strict=True)])

    def counts(self, output: Tensor, reference: Parted) -> dict[str, int]:
        """Return {"undetected": number of outputs in which the subject was not found}."""
        own = reference[2]
        return {"undetected": sum(self._mask(x, said) is None for x, said in zip(output, own, strict=True))}

    def _blanked(self, image_3HW: Tensor, words: Sequence[str]) -> Tensor:
        mask = self._mask(image_3HW, words)
        return image_3HW if mask is None else image_3HW.where(mask, torch.tensor(self.background).to(image_3HW))

    def _mask(self, image_3HW: Tensor, words: Sequence[str]) -> Tensor | None:
        key = canvas.digest(image_3HW), tuple(words)
        if key not in self._masks:
            self._masks[key] = self.cutout(image_3HW, words)
        mask = self._masks[key]
        return None if mask is None else mask.to(image_3HW.device)
