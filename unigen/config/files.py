"""Writes files atomically: a full disk or a killed process never leaves half of a file."""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGES = {  # the formats of images by the endings of file names
    ".png": "PNG",
    **dict.fromkeys((".jpg", ".jpeg"), "JPEG"),
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
}
CLIPS = (".png", ".webp", ".gif")  # those that hold several frames
FRAME_MS = 250  # duration of a frame of a clip


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`; when the block ends well, flush it to the disk and rename it to `path`.

    If it does not, or the disk is full, the neighbour is removed, what was at `path` stays, and an
    OSError says which file could not be written.
    """
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        part = Path(name)
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        part.chmod(0o644)
        os.replace(part, path)
    except OSError as error:
        raise OSError(
            f"{path} could not be written: {error.strerror or error}; what was there before is unharmed"
        ) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what killed writers left below `folder`; nobody may be writing there."""
    for part in folder.rglob(".*.part"):
        part.unlink(missing_ok=True)


def unused(path: Path) -> Path:
    """Return `path`, or if it exists the first of name_2.suffix, name_3.suffix, ... that does not exist."""
    found, number = path, 1
    while found.exists():
        number += 1
        found = path.with_stem(f"{path.stem}_{number}")
    return found


def stand_in(path: Path) -> str | None:
    """Say in half a sentence that a file holds no weights at all but a Git LFS pointer or a web page; else return None.

    It returns None as well for a file that cannot be opened: whoever reads that file says more about it.
    """
    try:
        with open(path, "rb") as file:
            begin = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    except OSError:
        return None
    if begin.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer and not the file: `git lfs pull` brings it"
    if begin.startswith((b"<!doctype html", b"<html")):
        return "is a web page, saved in place of the file"
    return None


@contextmanager
def whole_tensors(path: Path) -> Iterator[Path]:
    """The same as `whole_file`, but an error of safetensors, such as a full disk, becomes an OSError."""
    from safetensors import SafetensorError

    with whole_file(path) as part:
        try:
            yield part
        except SafetensorError as error:
            raise OSError(str(error)) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text through `whole_file`."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def user_cache(name: str) -> Path:
    """The folder ~/.cache/unigen/`name`, for files of this user that can be made again.

    XDG_CACHE_HOME stands for ~/.cache as everywhere. A user without a home folder (a container's, by number alone) has
    a folder among the temporary files.
    """
    home = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if home.startswith("~"):
        home = os.path.join(tempfile.gettempdir(), f"cache-{os.getuid()}")
    return Path(home) / "unigen" / name


def require_folder(folder: Path, what: str, key: str) -> None:
    """Make `folder` and check that files can be written there; if not, raise an OSError that names `what` and `key`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{what} cannot be kept in folder '{folder}': {reason}; name another: {key}=<folder>") from error


def json_lines(lines: Sequence[bytes]) -> list[Any] | None:
    """Parse lines of JSON all at once, which is several times faster; None if any line is not exactly one value."""
    try:
        found = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        return None
    return found if len(found) == len(lines) else None


def write_png(path: Path, image: "Image") -> None:
    """Write a PIL image as a PNG through `whole_file`."""
    with whole_file(path) as part:
        image.save(part, format="PNG")


def write_image(path: Path, frames: "Sequence[Image]") -> None:
    """Write a PIL image, or a clip of several frames, through `whole_file`, in the format of the path's ending.

    The ending is one of IMAGES, of a clip one of CLIPS. Formats that lose detail do so as little as they can.
    """
    options = {"quality": 95, "subsampling": 0} if IMAGES[path.suffix.lower()] == "JPEG" else {}
    options |= {"lossless": True} if IMAGES[path.suffix.lower()] == "WEBP" else {}
    if len(frames) > 1:
        options |= {"save_all": True, "append_images": frames[1:], "duration": FRAME_MS, "loop": 0}
    with whole_file(path) as part:
        frames[0].save(part, format=IMAGES[path.suffix.lower()], **options)
