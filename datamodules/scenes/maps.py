"""Annotations of a scene: maps that are known exactly, and those that are computed of its image.

Shapes: every map is uint8 (3, H, W), as images are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from datamodules.reading.drawing import canny, grey
from datamodules.scenes.render import Rendered, box_of, depth_of

SEGMENTS = {"background": (40, 40, 60), "ground": (90, 160, 90), "subject": (240, 70, 70), "second": (80, 150, 255)}


def three(plane_HW: np.ndarray) -> np.ndarray:
    """A plane as an image of three equal channels."""
    return np.ascontiguousarray(np.broadcast_to(plane_HW, (3, *plane_HW.shape)))


def sketch(image: np.ndarray) -> np.ndarray:
    """Line art of any image, dark lines on white: where colours change within three pixels, thin and soft."""
    import cv2

    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    kernel = np.ones((2, 2), np.uint8)
    steep = (cv2.dilate(pixels, kernel).astype(np.int16) - cv2.erode(pixels, kernel)).max(2)
    return three((255 - np.clip((steep - 24) * 2, 0, 255)).astype(np.uint8))


def sobel(image: np.ndarray) -> np.ndarray:
    """The steepness of the luma, white where it changes by 255 within a pixel or more."""
    from datamodules.emoji.images import sobel as steepness

    return steepness(image, image)


def depth(rendered: Rendered) -> np.ndarray:
    """Depth in layers as an image."""
    return three(depth_of(rendered))


def normal(rendered: Rendered) -> np.ndarray:
    """Normals as colours (x right, y up, z to the viewer): flat walls, level ground, and objects round at the rim."""
    import cv2

    side = rendered.masks.shape[-1]
    height = np.zeros((side, side), np.float32)
    for mask in rendered.masks:
        inside = cv2.distanceTransform((mask >= 128).astype(np.uint8), cv2.DIST_L2, 3)
        height += np.sqrt(np.clip(inside, 0, 8) * 8)
    x, y = -cv2.Sobel(height, cv2.CV_32F, 1, 0) / 8, cv2.Sobel(height, cv2.CV_32F, 0, 1) / 8
    z = np.ones_like(x)
    floor = ~rendered.covered
    floor[: rendered.horizon] = False
    x[floor], y[floor], z[floor] = 0.0, 1.0, 0.35
    length = np.sqrt(x * x + y * y + z * z)
    return np.rint(np.stack([x, y, z]) / length * 127 + 128).clip(0, 255).astype(np.uint8)


def mask(rendered: Rendered, number: int) -> np.ndarray:
    """The visible part of an object, white on black."""
    return three(rendered.masks[number])


def box(rendered: Rendered, number: int) -> np.ndarray:
    """The smallest box around the visible part of an object, white on black."""
    plane = np.zeros(rendered.masks.shape[1:], np.uint8)
    if found := box_of(rendered.masks[number]):
        left, top, right, bottom = found
        plane[top:bottom, left:right] = 255
    return three(plane)


def segmentation(rendered: Rendered, subject: int) -> np.ndarray:
    """Background, ground, subject and second object in the colours of SEGMENTS."""
    pixels = np.empty((*rendered.masks.shape[1:], 3), np.uint8)
    pixels[:] = SEGMENTS["background"]
    pixels[rendered.horizon :] = SEGMENTS["ground"]
    for number, found in enumerate(rendered.masks):
        pixels[found >= 128] = SEGMENTS["subject" if number == subject else "second"]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def layout(rendered: Rendered, subject: int) -> np.ndarray:
    """The boxes of the objects in the colours of SEGMENTS on black, the subject's above the other's."""
    pixels = np.zeros((*rendered.masks.shape[1:], 3), np.uint8)
    for number in sorted(range(len(rendered.masks)), key=lambda number: number == subject):
        if found := box_of(rendered.masks[number]):
            left, top, right, bottom = found
            pixels[top:bottom, left:right] = SEGMENTS["subject" if number == subject else "second"]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def foreground(rendered: Rendered) -> np.ndarray:
    """The objects over black instead of their background."""
    return np.where(rendered.covered, rendered.image, 0).astype(np.uint8)


# Kinds of clips, each of them throughout: what a moment of a clip is turned into, and the words that say so.
KINDS: dict[str, tuple[Callable[[Rendered], np.ndarray], str]] = {
    "image": (lambda rendered: rendered.image, ""),
    "canny": (lambda rendered: canny(rendered.image), "edges"),
    "sobel": (lambda rendered: sobel(rendered.image), "soft edges"),
    "sketch": (lambda rendered: sketch(rendered.image), "line art"),
    "grey": (lambda rendered: grey(rendered.image), "grey"),
    "depth": (depth, "depth"),
    "silhouette": (lambda rendered: three(255 * rendered.covered.astype(np.uint8)), "mask"),
}
