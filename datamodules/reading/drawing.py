"""Reading and drawing images. Everything is uint8; nothing here knows a model, a task or a dataset.

Shapes: C = 3 channels, H and W pixels. Arrays drawn here are numpy, because they are made in worker processes
that should not import torch; `read_image` alone returns a tensor.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datamodules.reading.images import LIMITS, decode_image

if TYPE_CHECKING:
    from torch import Tensor

CANNY_THRESHOLDS = (100, 200)  # the usual OpenCV pair, as in ControlNet's canny condition


def read_image(path: str | Path, size: int) -> Tensor:
    """A user's own image as uint8 (1, 3, size, size): turned upright, over white, centre-cropped, LANCZOS.

    What can be read says `datamodules.reading.images.decode_image`; of an animation it is the first frame. Raises
    BadImage, a ValueError that names the file, for what cannot be read, and ValueError for a size below 1.
    """
    import torch
    from PIL import Image, ImageOps

    if size < 1:
        raise ValueError(f"cannot read image '{path}' at size {size}: the size is in pixels and at least 1")
    limits = LIMITS._replace(aspect=math.inf)  # any shape has a centre
    pixels = decode_image(path, limits=limits).transpose(1, 2, 0)
    square = ImageOps.fit(Image.fromarray(np.ascontiguousarray(pixels)), (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].contiguous()


def read_clip(path: str | Path, size: int, frames: int) -> Tensor:
    """A user's own clip as uint8 (frames, 3, size, size): evenly spread frames of an animated GIF, WebP or PNG.

    Each is turned over white, centre-cropped and scaled (LANCZOS). Raises BadImage, a ValueError that names the file,
    for what cannot be read, and ValueError for a file of fewer frames.
    """
    import torch
    from PIL import Image, ImageOps

    first = read_image(path, size)
    if frames == 1:
        return first
    with Image.open(path) as clip:
        count = getattr(clip, "n_frames", 1)
        if count < frames:
            raise ValueError(f"'{path}' has {count} frame{'s' * (count > 1)}, but a clip of this run has {frames}")
        if count > frames:
            warnings.warn(f"'{path}' has {count} frames, of which {frames}, evenly spread, are used", stacklevel=2)
        found = []
        for i in range(frames):
            clip.seek(i * (count - 1) // (frames - 1))
            over = Image.alpha_composite(Image.new("RGBA", clip.size, "white"), clip.convert("RGBA")).convert("RGB")
            found.append(np.array(ImageOps.fit(over, (size, size), Image.Resampling.LANCZOS)))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()


def draw_svg(svg: str | Path, size: int) -> np.ndarray:
    """Rasterise SVG (a path, or the markup itself if the text holds '<') to uint8 RGBA (size, size, 4).

    A drawing that is not square is scaled to fit and centred. Pixels depend on the pinned resvg-py and on nothing
    else: no system font is loaded. Raises ValueError if the markup cannot be drawn.
    """
    import cv2
    import resvg_py

    text = str(svg)
    source = {"svg_string": text} if "<" in text else {"svg_path": text}
    try:
        png = resvg_py.svg_to_bytes(**source, width=size, height=size, skip_system_fonts=True)
    except Exception as error:
        name = "markup" if "<" in text else f"'{text}'"
        raise ValueError(f"cannot draw SVG {name}: {error}; it must be valid SVG") from error
    bgra = cv2.imdecode(np.frombuffer(bytes(png), np.uint8), cv2.IMREAD_UNCHANGED)
    height, width = bgra.shape[:2]
    canvas = np.zeros((size, size, 4), np.uint8)
    y, x = (size - height) // 2, (size - width) // 2
    canvas[y : y + height, x : x + width] = bgra[..., [2, 1, 0, 3]]
    return canvas


def over_white(rgba: np.ndarray) -> np.ndarray:
    """uint8 RGBA (H, W, 4) with straight alpha, laid over white: uint8 (3, H, W), rounded to nearest."""
    colour, alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:].astype(np.uint16)
    mixed = (colour * alpha + 255 * (255 - alpha) + 127) // 255
    return np.ascontiguousarray(mixed.astype(np.uint8).transpose(2, 0, 1))


def canny(rgb: np.ndarray) -> np.ndarray:
    """Edges of uint8 (3, H, W), white on black, as uint8 (3, H, W): `cv2.Canny` of the grey at CANNY_THRESHOLDS."""
    import cv2

    return _repeated(cv2.Canny(_luma(rgb), *CANNY_THRESHOLDS))


def grey(rgb: np.ndarray) -> np.ndarray:
    """The luma (Rec. 601, as OpenCV computes it) of uint8 (3, H, W), repeated over the three channels."""
    return _repeated(_luma(rgb))


def _luma(rgb: np.ndarray) -> np.ndarray:
    """Grey pixels (H, W) of (3, H, W)."""
    import cv2

    return cv2.cvtColor(np.ascontiguousarray(rgb.transpose(1, 2, 0)), cv2.COLOR_RGB2GRAY)


def _repeated(plane: np.ndarray) -> np.ndarray:
    """(H, W) to a contiguous (3, H, W)."""
    return np.ascontiguousarray(np.broadcast_to(plane, (3, *plane.shape)))
