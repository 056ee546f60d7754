"""The node "unigen sample": images of ComfyUI to the files that sample.py takes, and its files back to images.

ComfyUI imports every node when it starts, so what takes seconds to import is imported at the first call.

Shapes: B batch, H and W pixels, C channels. ComfyUI's IMAGE is float (B, H, W, C) in 0..1.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from unigen.config.values import ConfigError
from unigen.tools.studio.calls import results_of
from unigen.weights.repositories import run_folder

if TYPE_CHECKING:
    from unigen.pipeline.pipeline import Watch
    from unigen.tools.studio.models import Models

OWN = -1.0  # a guidance that stands for the run's own
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, by the number of channels


class UnigenSample:
    """Samples with a run as sample.py does, one call for each image of the batch, all with the same seed."""

    CATEGORY = "unigen"
    FUNCTION = "sample"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    DESCRIPTION = (
        "Samples with a run of unigen: with its masks, its modulation by role, its embeddings and its grids of "
        "examples, which a LoRA cannot hold. Without examples the condition is that of a task; examples are rows of "
        "condition and result, and the condition is then the query."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:
        """Return the inputs as ComfyUI's first form of node definitions has them."""

        def image(tooltip: str) -> tuple[str, dict[str, Any]]:
            return "IMAGE", {"tooltip": tooltip}

        def text(default: str, tooltip: str, lines: bool = False) -> tuple[str, dict[str, Any]]:
            return "STRING", {"default": default, "multiline": lines, "tooltip": tooltip}

        seed = {"default": 0, "min": 0, "max": 2**63 - 1, "control_after_generate": True}
        steps = {"default": 0, "min": 0, "max": 1000, "tooltip": "0: as the run was measured"}
        guidance = {"default": OWN, "min": OWN, "max": 100.0, "step": 0.1, "tooltip": "-1: as the run was measured"}
        prepared = {"default": False, "tooltip": "the image is the condition already, such as a map of edges"}
        return {
            "required": {
                "run": text("shipped:universal", "a finished run folder, or shipped:NAME"),
                "task": text("canny>target", "a task of the run; empty for a run of one task; examples say it instead"),
                "prompt": text("", "the content of the result", lines=True),
                "seed": ("INT", seed),
                "steps": ("INT", steps),
            },
            "optional": {
                "condition": image("what the result is made from; each image of a batch gives a result"),
                "condition_2": image("the second condition of a task or a row that has two"),
                "example_condition": image("in-context examples: their conditions, a batch"),
                "example_condition_2": image("their second conditions"),
                "example_target": image("their results, as many"),
                "guidance": ("FLOAT", guidance),
                "negative": text("", "a prompt that guidance leads away from; empty: as the run was measured"),
                "subject": text("", "the prompt's word for the subject (UCE); empty: the whole prompt"),
                "prepared": ("BOOLEAN", prepared),
            },
        }

    @classmethod
    def IS_CHANGED(cls, run: str, **others: Any) -> int:
        """Return when the run's export was written: a run that was trained further is sampled again."""
        about = run_folder(run) / "export" / "unigen.json"
        return about.stat().st_mtime_ns if about.is_file() else 0

    def sample(
        self,
        run: str,
        task: str,
        prompt: str,
        seed: int,
        steps: int,
        condition: Tensor | None = None,
        condition_2: Tensor | None = None,
        example_condition: Tensor | None = None,
        example_condition_2: Tensor | None = None,
        example_target: Tensor | None = None,
        guidance: float = OWN,
        negative: str = "",
        subject: str = "",
        prepared: bool = False,
    ) -> tuple[Tensor]:
        """Return the results as an IMAGE, those of the first condition first; of a clip, all of its frames.

        Raises:
            ValueError: what sample.py says in one sentence; images that are none, or not as many as their partners;
                and results of several sizes, which no batch can hold.
        """
        words = {"run": run, "task": task, "prompt": prompt, "seed": seed, "negative": negative, "subject": subject}
        words |= {"steps": steps or "", "guidance": "" if guidance < 0 else guidance, "prepared": prepared or ""}
        words = {key: value for key, value in words.items() if value != ""}
        with tempfile.TemporaryDirectory(prefix="unigen-comfyui-") as name:
            folder = Path(name)
            queries = columns(folder, condition=condition, condition_2=condition_2)
            examples = columns(
                folder,
                example_condition=example_condition,
                example_condition_2=example_condition_2,
                example_target=example_target,
            )
            given = [words | image_words(query, examples) for query in queries or [()]]
            results = [
                made
                for k, each in enumerate(given)
                for made in drawn(each, folder / f"result_{k}.png", watch(k, len(given)))
            ]
        if len({result.shape[1:] for result in results}) > 1:
            sizes = " and ".join(f"{w}x{h}" for _, h, w, _ in dict.fromkeys(tuple(x.shape) for x in results))
            raise ConfigError(f"the results are of several sizes, {sizes}, which one batch of images cannot hold")
        return (torch.cat(results),)


def columns(folder: Path, **given: Tensor | None) -> list[tuple[Path, ...]]:
    """Write the images of several inputs, and return the files of each row: the k-th image of each input.

    An input of one image stands in every row. Raises ValueError for inputs of unequal numbers of images.
    """
    files = {name: written(folder, name, images) for name, images in given.items() if images is not None}
    rows = max(map(len, files.values()), default=0)
    for name, paths in files.items():
        if len(paths) not in (1, rows):
            first = next(other for other, found in files.items() if len(found) == rows)
            raise ConfigError(f"{name} has {len(paths)} images and {first} has {rows}; give as many, or one for all")
    return list(zip(*(paths if len(paths) == rows else paths * rows for paths in files.values()), strict=True))


def written(folder: Path, name: str, images_BHWC: Tensor) -> list[Path]:
    """Write each image of a batch as a PNG, rounded to 8 bits. Raises ValueError for a tensor that is no IMAGE."""
    if images_BHWC.ndim != 4 or images_BHWC.shape[-1] not in MODES or not len(images_BHWC):
        raise ConfigError(f"{name} is of shape {tuple(images_BHWC.shape)}; an IMAGE is (images, height, width, 3)")
    if not images_BHWC.is_floating_point() or not images_BHWC.isfinite().all():
        held = "numbers that are not finite" if images_BHWC.is_floating_point() else f"{images_BHWC.dtype}"
        raise ConfigError(f"{name} holds {held}; an IMAGE holds floating-point numbers from 0 to 1")
    pixels = (images_BHWC.float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    paths = [folder / f"{name}_{k}.png" for k in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(path, compress_level=1)
    return paths


def image_words(query: Sequence[Path], examples: Sequence[Sequence[Path]]) -> dict[str, Any]:
    """Return condition= for a query alone, rows= for one with examples, nothing for a task from text.

    Raises ValueError for examples that are not rows of the query's conditions and a result.
    """
    if not examples:
        return {"condition": query[0] if len(query) == 1 else list(query)} if query else {}
    if len(examples[0]) != len(query) + 1 or not query:
        raise ConfigError(
            f"the query has {len(query)} conditions and an example {len(examples[0])} images; connect "
            "example_condition for condition, example_condition_2 for condition_2, and example_target"
        )
    return {"rows": [*map(list, examples), [*query, None]]}


@cache
def models() -> Models:
    """Return what keeps the run that was sampled last loaded, for all nodes of this process."""
    from unigen.tools.studio.models import Models

    return Models(room=1)


def drawn(words: dict[str, Any], out: Path, watch: Watch) -> list[Tensor]:
    """Sample with the words of sample.py, and return an IMAGE for each target."""
    from unigen.tools.notebook import spelt
    from unigen.tools.sample import sampled

    line = [f"{key}={spelt(value)}" for key, value in (words | {"out": out}).items()]
    return [read(path) for path in results_of(sampled(line, load=models().loader(watch)))]


def read(path: Path) -> Tensor:
    """Return the frames of an image file as an IMAGE."""
    with Image.open(path) as image:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    return torch.from_numpy(np.stack(frames)).float() / 255


def watch(call: int, calls: int) -> Watch:
    """Return what is told of each step: it moves ComfyUI's bar, and ends when ComfyUI was told to stop.

    Outside of ComfyUI it does nothing.
    """
    utils, management = (sys.modules.get(f"comfy.{name}") for name in ("utils", "model_management"))
    bar = utils.ProgressBar(calls) if utils else None

    def told(number: int, count: int, estimate: Callable[[], dict[str, Any]]) -> None:
        if management:
            management.throw_exception_if_processing_interrupted()
        if bar:
            bar.update_absolute(call * count + number, calls * count)

    return told
