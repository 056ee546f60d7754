"""Where a named subject is in a picture: Grounding DINO finds its box by the word, SAM 2 its outline in the box.

Grounding DINO: arXiv:2303.05499. SAM 2: arXiv:2408.00714. Shapes: N items, C = 3 channels, H and W pixels.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unigen.metrics.pretrained import load, model_folder
from unigen.weights import Unavailable, weights_hash

DETECTOR, OUTLINER = "GroundingDinoForObjectDetection", "Sam2Model"  # classes of transformers


class GroundedSam:
    """Masks of subjects. `key`, where it stands in the configuration, is for what is said of absent weights.

    detector, outliner: a repository id of the Hugging Face cache, or a folder. threshold: the least score of a box, in
    [0, 1]; the best box counts. download: whether repositories that are not in the cache may be fetched.
    """

    def __init__(self, detector: str, outliner: str, threshold: float, download: bool) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold} of a metric's cutout must be from 0 to 1")
        self.sources = {"detector": detector, "outliner": outliner}
        self.threshold, self.download, self.key = threshold, download, "cutout"

    @property
    def protocol(self) -> Mapping[str, str]:
        """Names both models by their weights. Raises Unavailable if they are absent."""
        return {
            "detector": f"{DETECTOR}, SHA-256 {weights_hash(self._folder('detector'))}, best box from {self.threshold}",
            "outliner": f"{OUTLINER}, SHA-256 {weights_hash(self._folder('outliner'))}, one mask of the box",
        }

    def __call__(self, picture_3HW: Tensor, words: Sequence[str]) -> Tensor | None:
        """Booleans (H, W), True on the subject, of a uint8 picture; None where no box is found, or without words.

        Raises Unavailable if the weights are absent.
        """
        said = [word.strip().lower() for word in words if word.strip()]
        box = self._box(picture_3HW, " . ".join(said) + " .") if said else None
        mask = None if box is None else self._outline(picture_3HW, box)
        return mask if mask is not None and mask.any() else None

    @torch.no_grad()
    def _box(self, picture_3HW: Tensor, text: str) -> list[float] | None:
        """The best box, [left, top, right, bottom] in pixels."""
        folder = self._folder("detector")
        processor, model = _processor("GroundingDinoProcessor", folder), load(DETECTOR, folder)
        inputs = processor(images=_channels_last(picture_3HW), text=text, return_tensors="pt").to(model.device)
        sizes = [tuple(picture_3HW.shape[1:])]
        [found] = processor.post_process_grounded_object_detection(
            model(**inputs), inputs["input_ids"], threshold=self.threshold, target_sizes=sizes
        )
        return found["boxes"][found["scores"].argmax()].tolist() if len(found["scores"]) else None

    @torch.no_grad()
    def _outline(self, picture_3HW: Tensor, box: list[float]) -> Tensor:
        folder = self._folder("outliner")
        processor, model = _processor("Sam2Processor", folder), load(OUTLINER, folder)
        inputs = processor(images=_channels_last(picture_3HW), input_boxes=[[box]], return_tensors="pt")
        sizes = inputs["original_sizes"]
        outputs = model(**inputs.to(model.device), multimask_output=False)
        [masks] = processor.post_process_masks(outputs.pred_masks.cpu(), sizes)
        return masks[0, 0].bool()

    def _folder(self, which: str) -> Path:
        """Raises Unavailable, naming the model, its key and what to do, if it is not here."""
        folder = model_folder(self.sources[which], self.key, self.download, source_key=which)
        try:
            weights_hash(folder)
        except FileNotFoundError as error:
            raise Unavailable(f"{error}, which {self.key}.{which} names") from None
        return folder


def _channels_last(picture_3HW: Tensor) -> Any:
    return picture_3HW.cpu().permute(1, 2, 0).numpy()


@lru_cache(maxsize=4)
def _processor(name: str, folder: Path) -> Any:
    import transformers

    try:
        return getattr(transformers, name).from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise Unavailable(f"{folder} holds no {name}: {str(error).splitlines()[0]}") from error
