"""Turns images of runs into data inside the page, up to a size that a browser can open."""

import base64
import io
from pathlib import Path

EMBEDDED_BYTES = 48 * 2**20  # images beyond this are counted but not embedded
SIDE, PLAIN_BYTES = 256, 48 * 2**10  # a larger file is embedded as a JPEG with at most this many pixels a side


class Embedder:
    """Turns images into data for the page until `room` bytes are used; counts what is left out, and says why."""

    def __init__(self, room: int | None = None) -> None:
        self.room, self.left_out = EMBEDDED_BYTES if room is None else room, 0

    def __call__(self, path: Path, whole: bool = False) -> tuple[str, str]:
        """Return (address of the data, ""), or ("", a sentence) for an image that cannot be embedded.

        Files of more than PLAIN_BYTES are made smaller, unless `whole`.
        """
        try:
            data = path.read_bytes()
            if not data.startswith(b"\x89PNG"):
                raise OSError
            kind, data = ("png", data) if whole or len(data) <= PLAIN_BYTES else ("jpeg", _smaller(data))
        except (OSError, SyntaxError, ValueError):
            return "", f"{path.name} is not a readable PNG."
        if len(data) > self.room:
            self.left_out += 1
            return "", f"{path.name} is not embedded: the page would be too large."
        self.room -= len(data)
        return f"data:image/{kind};base64,{base64.b64encode(data).decode()}", ""


def _smaller(data: bytes) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("RGB")
        small.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        small.save(file, "JPEG", quality=88)
    return file.getvalue()
