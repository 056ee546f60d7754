"""Annotations that models of transformers compute of images that have none, each once: depth, segments, poses.

Images and annotations are uint8 (3, H, W) of the same size. The models run on the CPU, where loaders' workers are;
what they drew is kept in a folder of PNGs, named after the image's file content, the model and VERSION, so only the
first epoch is slow. Nothing is written beside the images.
"""

from __future__ import annotations

import colorsys
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.reading.images import decode_image
from unigen.config.files import require_folder, user_cache, write_png

VERSION = 1  # version of the drawings: raise it when the code below changes them
NEAR_IS_MORE = ("dpt", "depth_anything")  # model types whose numbers grow towards the camera, as MiDaS trained DPT
FAR_IS_MORE = ("zoedepth", "depth_pro", "glpn")  # and those that say metres, as Depth Anything's metric ones do
RELIEF = 0.25  # depth range of the relief for normals, as a share of the longer side
# Pairs of the 17 keypoints of COCO: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles, left before right
LIMBS = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10)),
    *((0, 1), (0, 2), (1, 3), (2, 4), (0, 5), (0, 6)),
)
KEYPOINTS = 17
SURE = 0.3  # the score that both ends of a limb must have


class Annotator:
    """One annotation of any image by one model: a folder or repository id, which config key `key` names.

    Nothing is loaded before it is needed. cache: the folder of what was computed.
    Raises ValueError, on use, naming the key and the model, if there are no weights, or they are for something else.
    """

    task = ""  # the task of the model's class

    def __init__(self, model: str, key: str, cache: Path) -> None:
        self.source, self.key, self.cache = model, key, cache

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The annotation of an image, uint8 (3, H, W) both."""
        raise NotImplementedError

    def load(self) -> None:
        """Load the model now, so that a missing model or cache is noticed before training."""
        self.check(self.model)
        table = self.key.partition(".computed.")[0]
        require_folder(self.cache, "what models compute of your images", f"{table}.cache")

    def check(self, model: Any) -> None:
        """Check the model; a subclass raises ValueError for one whose numbers it cannot interpret."""

    def kept(self, content: bytes, read: Callable[[], np.ndarray]) -> np.ndarray:
        """The annotation of the image in a file of this content, which `read` decodes; computed unless kept."""
        from PIL import Image

        name = hashlib.sha256(f"{VERSION}{type(self).__name__}{self._weights}".encode() + content).hexdigest()
        found = self.cache / f"{name}.png"
        if not found.is_file():
            drawn = np.ascontiguousarray(self(read()).transpose(1, 2, 0))
            write_png(found, Image.fromarray(drawn))
        return decode_image(found)

    @cached_property
    def model(self) -> Any:
        """The model in evaluation mode."""
        import transformers

        from unigen.weights.loading import load_pretrained

        stored = load_pretrained(transformers.AutoConfig, self.source, self.key).architectures or ["an unnamed model"]
        ending = "Model" if self.task == "MaskGeneration" else f"For{self.task}"
        if not any(name.endswith(ending) for name in stored):  # the backbone would load, the rest be random
            raise ValueError(
                f"the weights of '{self.source}' (config key {self.key}) are of {', '.join(stored)}; legal are those "
                f"of a model for {self.task}"
            )
        return load_pretrained(getattr(transformers, f"AutoModelFor{self.task}"), self.source, self.key).eval()

    @cached_property
    def processor(self) -> Any:
        """The processor that scales images as the model needs them."""
        from transformers import AutoImageProcessor

        from unigen.weights.loading import load_pretrained

        return load_pretrained(AutoImageProcessor, self.source, self.key)

    @cached_property
    def _weights(self) -> str:
        """The model's name and, for a folder, a value that distinguishes these files from earlier ones."""
        files = sorted(Path(self.source).expanduser().glob("*"))
        return f"{self.source}{[(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]}"


class Depth(Annotator):
    """Draws nearness, the nearest point of the image white and the farthest black, as Depth Anything is drawn."""

    task = "DepthEstimation"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The nearness in all three channels."""
        return np.repeat(np.rint(self.nearness(image) * 255).astype(np.uint8)[None], 3, axis=0)

    def check(self, model: Any) -> None:
        """Check the model. Raises ValueError if it is unknown whether its numbers grow with distance or nearness."""
        if model.config.model_type not in (*NEAR_IS_MORE, *FAR_IS_MORE):
            raise ValueError(
                f"'{self.source}' (config key {self.key}) is a {model.config.model_type}, and whether its numbers grow "
                f"towards the camera is not known; legal are {', '.join((*NEAR_IS_MORE, *FAR_IS_MORE))}"
            )

    def nearness(self, image: np.ndarray) -> np.ndarray:
        """(H, W) in [0, 1], linear in 1 / distance: 0 the farthest, 1 the nearest; all 0 if nothing differs."""
        from transformers import pipeline

        self.check(self.model)
        estimate = pipeline("depth-estimation", model=self.model, image_processor=self.processor, device="cpu")
        near = estimate(_pil(image))["predicted_depth"].squeeze().double().numpy()
        config = self.model.config
        if config.model_type in FAR_IS_MORE or getattr(config, "depth_estimation_type", "") == "metric":
            near = 1 / np.maximum(near, 1e-3)
        low, high = near.min(), near.max()
        return (near - low) / (high - low) if high > low else np.zeros_like(near)


class NormalsOfDepth(Depth):
    """Computes normals from estimated depth, not by a normal model: of a relief that is RELIEF times its side high.

    Red grows to the right, green upwards, blue towards the viewer: (n + 1) / 2, and a flat image is (.5, .5, 1).
    """

    def __call__(self, image: np.ndarray) -> np.ndarray:
        height = self.nearness(image) * RELIEF * max(image.shape)
        down, right = np.gradient(height)
        normal = np.stack([-right, down, np.ones_like(height)])  # rows grow downwards
        normal /= np.linalg.norm(normal, axis=0)
        return np.rint((normal + 1) / 2 * 255).astype(np.uint8)


class Segments(Annotator):
    """Draws semantic segments, one fixed colour for each of the model's classes."""

    task = "SemanticSegmentation"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            outputs = self.model(**self.processor(images=_pil(image), return_tensors="pt"))
        (classes,) = self.processor.post_process_semantic_segmentation(outputs, target_sizes=[image.shape[1:]])
        return class_colours(self.model.config.num_labels)[classes.numpy()].transpose(2, 0, 1)


class Masks(Annotator):
    """Draws all masks that a SAM finds on a grid of points, each in a colour of its own, smaller ones on top."""

    task = "MaskGeneration"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        from transformers import pipeline

        generate = pipeline("mask-generation", model=self.model, image_processor=self.processor, device="cpu")
        return layered([np.asarray(mask) for mask in generate(_pil(image))["masks"]], *image.shape[1:])


class Pose(Annotator):
    """Draws the skeleton of one person, searched in the whole image, on black in OpenPose's manner."""

    task = "PoseEstimation"

    def check(self, model: Any) -> None:
        """Check the model. Raises ValueError if its keypoints are not COCO's."""
        if model.config.num_labels != KEYPOINTS:
            raise ValueError(
                f"'{self.source}' (config key {self.key}) finds {model.config.num_labels} keypoints; legal are models "
                f"that find the {KEYPOINTS} of COCO, such as usyd-community/vitpose-base-simple"
            )

    def __call__(self, image: np.ndarray) -> np.ndarray:
        import torch

        self.check(self.model)
        height, width = image.shape[1:]
        boxes = [[[0.0, 0.0, float(width), float(height)]]]
        inputs = dict(self.processor(images=_pil(image), boxes=boxes, return_tensors="pt"))
        if getattr(self.model.config.backbone_config, "num_experts", 1) > 1:
            inputs["dataset_index"] = torch.zeros(1, dtype=torch.long)  # ViTPose++: the expert for COCO
        with torch.inference_mode():
            outputs = self.model(**inputs)
        ((found,),) = self.processor.post_process_pose_estimation(outputs, boxes=boxes)
        return skeleton(found["keypoints"].numpy(), found["scores"].numpy(), height, width)


# By the names of conf/graph/graph200k; there `uniformer` are the semantic segments of that model.
ANNOTATORS: Mapping[str, type[Annotator]] = {
    "depth": Depth,
    "normal": NormalsOfDepth,
    "uniformer": Segments,
    "sam2_mask": Masks,
    "openpose": Pose,
}


def annotators(models: Mapping[str, str | None], where: str, cache: str | Path | None) -> dict[str, Annotator]:
    """The annotators of {annotation: model, null for none}; `where` is the config key of that table, for errors.

    Raises ValueError for an annotation that no model here computes, and for what is no name of a model.
    """
    folder = Path(cache or user_cache("annotations")).expanduser()
    for name, model in models.items():
        if name not in ANNOTATORS:
            raise ValueError(f"{where}: '{name}' cannot be computed by a model; legal are {', '.join(ANNOTATORS)}")
        if model is not None and (not isinstance(model, str) or not model):
            raise ValueError(f"{where}.{name}={model!r} must be the folder or repository id of a model, or null")
    return {name: ANNOTATORS[name](model, f"{where}.{name}", folder) for name, model in models.items() if model}


def class_colours(count: int) -> np.ndarray:
    """uint8 (count, 3): a colour for each class, neighbours far apart in hue (steps of the golden ratio)."""
    hues = (np.arange(count) * 0.618034) % 1
    shades = [(1.0, 1.0), (0.6, 1.0), (1.0, 0.6), (0.5, 0.7)]
    made = [colorsys.hsv_to_rgb(hue, *shades[i // 40 % len(shades)]) for i, hue in enumerate(hues)]
    return np.rint(np.array(made).reshape(count, 3) * 255).astype(np.uint8)


def layered(masks: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """uint8 (3, H, W): boolean masks (H, W) from the largest to the smallest over each other, on black."""
    drawn = np.zeros((height, width, 3), np.uint8)
    for mask, colour in zip(sorted(masks, key=lambda m: -m.sum()), class_colours(len(masks)), strict=True):
        drawn[mask] = colour
    return drawn.transpose(2, 0, 1)


def skeleton(keypoints: np.ndarray, scores: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (3, H, W): LIMBS between keypoints (17, 2) in pixels (x, y) whose scores (17,) are SURE, on black."""
    import cv2

    canvas = np.zeros((height, width, 3), np.uint8)
    thickness = max(1, round(max(height, width) / 128))
    for (a, b), colour in zip(LIMBS, class_colours(len(LIMBS)).tolist(), strict=True):
        if min(scores[a], scores[b]) >= SURE:
            ends = [tuple(int(v) for v in np.rint(keypoints[i])) for i in (a, b)]
            cv2.line(canvas, *ends, colour, thickness, cv2.LINE_AA)
    return canvas.transpose(2, 0, 1)


def _pil(image: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
