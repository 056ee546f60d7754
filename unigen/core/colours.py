"""Twelve named colours, far apart from each other, and the nearest of them to a pixel.

Scenes are drawn in them, and measures ask which of them an output shows. Shapes: N colours; RGB in [0, 255].
"""

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (218, 38, 45),
    "orange": (247, 136, 30),
    "yellow": (252, 220, 66),
    "green": (58, 168, 76),
    "turquoise": (64, 206, 200),
    "blue": (42, 92, 214),
    "purple": (128, 58, 176),
    "pink": (250, 154, 196),
    "brown": (128, 78, 42),
    "grey": (142, 144, 148),
    "black": (24, 24, 28),
    "white": (250, 250, 250),
}
NAMED = tuple(COLOURS)
_TABLE = np.array(list(COLOURS.values()), np.float32)


def nearest_colours(colours_N3: np.ndarray) -> np.ndarray:
    """The nearest named colour of each, as its number in NAMED (N,), by the "redmean" distance of RGB."""
    found, table = colours_N3.astype(np.float32)[:, None], _TABLE[None]
    red = (found[..., 0] + table[..., 0]) / 2
    squares = (found - table) ** 2
    distance = (2 + red / 256) * squares[..., 0] + 4 * squares[..., 1] + (2 + (255 - red) / 256) * squares[..., 2]
    return distance.argmin(1)
