"""Reads image files from anywhere, and refuses bad ones. Nothing here knows a task or a dataset.

Shapes: H and W pixels. Everything is uint8 numpy, because it is made in worker processes that should not import torch.

Files come from anywhere, so nothing in them is trusted: only the decoders of `formats` can be reached (not, say, EPS,
for which Pillow starts ghostscript), pickles are never loaded, and sizes are checked in the header, before decoding.
Whatever cannot be read is a BadImage. Colour profiles are ignored. While a file is read, Pillow's settings and
Python's warning filters, which the threads of a process share, are changed: read in one thread of a process.
"""

from __future__ import annotations

import os
import posixpath
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff")  # the suffixes of FORMATS
HEIC, AVIF = (".heic", ".heif", ".hif"), (".avif",)  # formats whose decoders may be absent
READABLE = "it must be a readable PNG, JPEG, WebP, GIF, BMP or TIFF"
RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw")  # raw formats of cameras
DRAWN = (".svg", ".psd", ".xcf", ".eps", ".pdf", ".ico")
UNREAD = (".jxl", ".jp2", ".j2k", ".tga", ".exr", ".hdr", ".ppm", ".pgm", *RAW, *DRAWN)
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")  # formats of which one file may be an animation
FIRST_FRAME = "an animation, of which the first frame alone is used"
NPY = b"\x93NUMPY"
ORIENTATION = 0x0112  # the tag of EXIF and TIFF
UPRIGHT = {  # the transposition that turns an image upright, by its orientation (EXIF 2.3, section 4.6.4)
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


class BadImage(ValueError):
    """An image that cannot be used: the message says which one, why, and what would be legal, in one sentence.

    `name` and `reason` are parts of the message, for reports. A message alone makes one too, as torch does when it
    raises in the main process what a worker raised.
    """

    def __init__(self, message: str, name: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.name, self.reason = name, reason

    @classmethod
    def of(cls, name: str | Path, reason: str, legal: str) -> BadImage:
        """One that says what is wrong with `name` (a file, or 'parquet row 17, column canny')."""
        return cls(f"cannot read image {str(name)!r}: {reason}; {legal}", str(name), reason)


class Limits(NamedTuple):
    """The sizes of images that are read.

    megapixels: at most so many 10^6 pixels; the largest usual cameras have 102. Decoding takes 10 bytes a pixel (20
        with alpha, measured), so at most 1.3 (2.6) GB in each loader worker.
    aspect: the longer side over the shorter one is at most this; a web banner has 8, a panorama 10.
    side: the shorter side is at least so many pixels.
    """

    megapixels: float = 128.0
    aspect: float = 32.0
    side: int = 1

    def check(self, width: int, height: int) -> None:
        """Check a size. Raises ValueError, saying what is legal, for a size outside the limits."""
        size, (short, long) = f"it has {width} x {height} pixels", sorted((width, height))
        if short < max(self.side, 1):
            raise ValueError(f"{size}, but its sides must have at least {max(self.side, 1)}")
        if width * height > 1e6 * self.megapixels:
            raise ValueError(f"{size}, but it must have at most {self.megapixels:g} megapixels")
        if long > self.aspect * short:
            raise ValueError(f"{size}, but its sides must be within 1 : {self.aspect:g}")


LIMITS = Limits()


def inside(root: str | Path, relative: str | Path) -> Path:
    """The path in the folder `root` that a table names without '..'.

    Raises BadImage if the name leaves the folder by '..' or as an absolute path. A link that lies in the folder is
    followed, wherever it leads: the user put it there, as the Hugging Face Hub's cache does for every file.
    """
    legal = f"it must be a path in '{root}'"
    if "\0" in str(relative):
        raise BadImage.of(relative, "it has a null byte", legal)
    base = os.path.abspath(root)
    path = os.path.normpath(posixpath.join(base, str(relative)))
    if not Path(path).is_relative_to(base):
        raise BadImage.of(relative, "it leads out of its folder", legal)
    return Path(path)


@cache
def formats() -> tuple[str, ...]:
    """The formats that are read: FORMATS, AVIF if this Pillow can, and HEIF if pillow-heif is installed."""
    from PIL import features

    found = (*FORMATS, "AVIF") if features.check("avif") else FORMATS
    try:
        import pillow_heif
    except ImportError:
        return found
    pillow_heif.register_heif_opener()
    return (*found, "HEIF")


def image_suffixes() -> tuple[str, ...]:
    """The suffixes, in small letters, of the files that are taken for images."""
    return (*SUFFIXES, *(AVIF if "AVIF" in formats() else ()), *(HEIC if "HEIF" in formats() else ()))


def undecodable(suffix: str) -> str:
    """Explain why an image with this suffix (in small letters) cannot be read; '' if it can, or is no image."""
    if suffix in image_suffixes():
        return ""
    if suffix in HEIC:
        return "no decoder: pip install pillow-heif"
    if suffix in AVIF:
        return "no decoder: this Pillow was built without AVIF"
    return "an image format that is not read: save it as PNG or JPEG" if suffix in UNREAD else ""


def looked_at(file: Path, limits: Limits = LIMITS) -> tuple[str, bool]:
    """Return why a file is no image within the limits ('' if it is one), and whether it is an animation.

    Only headers are read; no pixel is decoded.
    """
    from PIL import Image

    try:
        with _strict(limits), _stream(file) as stream, Image.open(stream, formats=formats()) as image:
            limits.check(*image.size)
            return "", _is_animated(image)
    except Exception as error:  # as in `_read`
        return _reason(file, error), False


def _is_animated(image: Image.Image) -> bool:
    try:
        return image.format in ANIMATED and bool(getattr(image, "is_animated", False))
    except Exception:  # a GIF looks for its second frame, and what follows the first one may be broken
        return False


def warn_of_animations(files: Iterable[str | Path]) -> None:
    """Warn of each file that is an animation where a still is wanted. Files that cannot be read are passed over."""
    for file in dict.fromkeys(files):
        if looked_at(Path(file))[1]:
            warnings.warn(f"'{file}' is {FIRST_FRAME}", stacklevel=3)


def why_unreadable(file: Path, limits: Limits = LIMITS) -> str:
    """Explain why a file is no image within the limits, by its header alone; '' if it is one. No pixel is decoded."""
    return looked_at(file, limits)[0]


def decode_image(source: str | Path | bytes, name: str = "", limits: Limits = LIMITS) -> np.ndarray:
    """Read a file or its bytes as uint8 (3, H, W) of its own size: upright, alpha over white, the first frame of an
    animation.

    Levels: 16-bit grey is scaled by its full range, float from [0, 1], or from [0, its maximum] if that is above 1.
    CMYK becomes RGB without a profile; in JPEG it is taken as Adobe writes it, inverted, as browsers do.
    `name` is what refusals call it, by default the path. Raises BadImage if it is missing, empty, truncated, of no
    format in `formats` or outside the `limits`.
    """
    return _read(source, name, limits, lambda image: np.array(np.asarray(_to_rgb(image)).transpose(2, 0, 1), order="C"))


def read_map(source: str | Path | bytes, name: str = "", limits: Limits = LIMITS) -> np.ndarray:
    """Read a map of one channel (depth, a mask), an image or .npy, as uint8 (H, W) of its own size.

    8-bit values stay as they are (colour becomes luma, alpha is laid over white, bool becomes 0 and 255). Deeper
    values have no common unit (millimetres, disparity), so they are stretched: their smallest to 0, their largest to
    255, as depth estimators draw them; values that are not finite, and maps of one value, become 0.
    An .npy holds (H, W), (1, H, W) or (H, W, 1) numbers. Otherwise, and in what is refused, as `decode_image`.
    """
    if source.startswith(NPY) if isinstance(source, bytes) else Path(source).suffix.lower() == ".npy":
        try:
            return _npy(source, limits)
        except Exception as error:  # numpy's parser raises ValueError, SyntaxError, RecursionError and more
            legal = "it must be an .npy of (H, W) numbers, without pickled objects"
            raise BadImage.of(_name(source, name), _reason(source, error), legal) from error
    return _read(source, name, limits, _levels)


def _read(
    source: str | Path | bytes, name: str, limits: Limits, finish: Callable[[Image.Image], np.ndarray]
) -> np.ndarray:
    """Apply `finish` to the upright image. Raises BadImage for any fault."""
    from PIL import Image

    try:
        with _strict(limits), _stream(source) as file, Image.open(file, formats=formats()) as image:
            limits.check(*image.size)
            image.load()
            return finish(_upright(image))
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, EOFError and more
        raise _bad_image(source, name, error) from error


def stated_size(source: Path | bytes, name: str = "") -> tuple[int, int]:
    """(width, height) of the upright image, from its header. Raises BadImage as `decode_image` does."""
    from PIL import Image

    try:
        with _strict(LIMITS), _stream(source) as file, Image.open(file, formats=formats()) as image:
            turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
            return image.size[::-1] if turned else image.size
    except Exception as error:  # as in `_read`
        raise _bad_image(source, name, error) from error


def _bad_image(source: str | Path | bytes, name: str, error: Exception) -> BadImage:
    """The BadImage for an image that `error` kept from being read."""
    legal = "make it smaller" if _is_bomb(error) else READABLE
    return BadImage.of(_name(source, name), _reason(source, error), legal)


def _is_bomb(error: Exception) -> bool:
    return type(error).__name__ == "DecompressionBombError"


def _stream(source: str | Path | bytes) -> BinaryIO:
    """The source as an open file. Raises OSError for what is no regular file: opening a pipe would wait for ever."""
    if isinstance(source, bytes):
        return BytesIO(source)
    if not os.path.isfile(source):
        raise OSError("not a regular file")
    return open(source, "rb")


@contextmanager
def _strict(limits: Limits) -> Iterator[None]:
    """Make Pillow refuse, without a warning, images above the pixel limit and truncated ones."""
    from PIL import Image, ImageFile

    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    half = round(min(5e5 * limits.megapixels, 1e15))  # it refuses what has twice as many
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = max(1, half), False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def _name(source: str | Path | bytes, name: str) -> str:
    """The name of the source in a refusal."""
    return name or ("the given bytes" if isinstance(source, bytes) else str(source))


def _reason(source: str | Path | bytes, error: Exception) -> str:
    """The reason of a failure to read, in plain words."""
    if isinstance(source, bytes):
        empty = not source
    else:
        if not os.path.exists(source):
            return "there is no such file"
        if not os.path.isfile(source):
            return "it is a folder" if os.path.isdir(source) else "it is not a regular file"
        empty = os.path.getsize(source) == 0
    if empty:
        return "the file is empty"
    if _is_bomb(error):
        found = [int(number) / 1e6 for number in re.findall(r"(\d+) pixels", str(error))]
        return f"it has {found[0]:.0f} million pixels, and at most {found[1]:.0f} million are read"
    return "no known image format" if type(error).__name__ == "UnidentifiedImageError" else _words(error)


def _words(error: Exception) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    """A loaded image turned as its orientation says (loading turns TIFFs, and takes the tag away)."""
    from PIL import Image

    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION))
    except Exception:  # broken metadata says nothing about the pixels, which have been read
        return image
    return image.transpose(Image.Transpose[turn]) if turn else image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to RGB: alpha is laid over white; 16-bit, 32-bit or float grey is scaled, not clipped."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
        top = max(65535.0 if image.mode.startswith("I") else 1.0, float(values.max()))
        image = Image.fromarray(np.clip(values * (255.0 / top), 0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # converting copies


def _levels(image: Image.Image) -> np.ndarray:
    """Convert any Pillow mode to the uint8 (H, W) of `read_map`."""
    if image.mode.startswith(("I", "F")):
        return _stretched(np.asarray(image))
    return np.array(_to_rgb(image).convert("L"))


def _npy(source: str | Path | bytes, limits: Limits) -> np.ndarray:
    """The uint8 (H, W) of `read_map` from an .npy; its header is checked before memory is asked for."""
    with _strict(limits), _stream(source) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        sides = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape[:2] if shape[2:] == (1,) else shape
        if len(sides) != 2 or dtype.kind not in "biuf":
            raise ValueError(f"it has {dtype} values of shape {shape}")
        limits.check(sides[1], sides[0])
        file.seek(0)
        values = np.load(file, allow_pickle=False).reshape(sides)
        if dtype == np.bool_:
            return np.where(values, np.uint8(255), np.uint8(0))
        return np.ascontiguousarray(values) if dtype == np.uint8 else _stretched(values)


def _stretched(values: np.ndarray) -> np.ndarray:
    """Numbers (H, W) to uint8, the smallest finite one to 0 and the largest to 255."""
    values = values.astype(np.float64)
    finite = np.isfinite(values)
    low, high = values.min(where=finite, initial=np.inf), values.max(where=finite, initial=-np.inf)
    if not 0 < high / 2 - low / 2 < np.inf:
        return np.zeros(values.shape, np.uint8)
    share = (np.where(finite, values, low) / 2 - low / 2) / (high / 2 - low / 2)  # halves do not overflow
    return (255 * share).round().astype(np.uint8)
