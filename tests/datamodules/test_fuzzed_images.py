"""Ten thousand broken image files are read or refused, and nothing else."""

import random
import time
import warnings
from collections import Counter
from io import BytesIO

import numpy as np
from made_images import coloured, npy, saved, tagged
from PIL import Image

from datamodules.reading.images import BadImage, decode_image, read_map


def valid() -> list[bytes]:
    image, other = coloured(), coloured().rotate(90)
    depth = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    exif = tagged(6)
    return [
        saved(image, "PNG", exif=exif),
        saved(image.convert("P"), "PNG", transparency=b"\0\x80"),
        saved(image.convert("1"), "PNG", transparency=1),
        saved(depth, "PNG"),
        saved(image, "JPEG", exif=exif),
        saved(image, "JPEG", progressive=True),
        saved(image.convert("CMYK"), "JPEG"),
        saved(image, "MPO", save_all=True, append_images=[other]),
        saved(image, "WEBP", exif=exif),
        saved(image.convert("RGBA"), "WEBP", lossless=True),
        saved(image, "GIF", save_all=True, append_images=[other]),
        saved(image.convert("P"), "GIF", transparency=3),
        saved(image, "BMP"),
        saved(image.convert("P"), "BMP"),
        saved(image, "TIFF", exif=exif),
        saved(image, "TIFF", compression="tiff_lzw"),
        saved(image, "TIFF", compression="jpeg"),
        saved(Image.fromarray(np.asarray(depth, np.float32)), "TIFF"),
        saved(image.convert("1"), "TIFF", compression="group4"),
        npy(np.asarray(depth)),
    ]


def mutated(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """One to three of: cut short, some bytes changed, a piece of another file put in, a piece taken out."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        what, at = rng.randrange(4), rng.randrange(len(changed) + 1)
        if what == 0:
            del changed[at:]
        elif what == 1 and changed:
            for _ in range(rng.randint(1, 8)):
                changed[rng.randrange(len(changed))] = rng.choice((0, 127, 255, rng.randrange(256)))
        elif what == 2:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            changed[at : at + rng.choice((0, 20))] = other[start : start + rng.randrange(64)]
        else:
            del changed[at : at + rng.randrange(16)]
    return bytes(changed)


def plain(data: bytes) -> None:
    """What one would write without this module."""
    with Image.open(BytesIO(data)) as image:
        image.convert("RGB")


def test_ten_thousand_broken_files_are_read_or_refused(capfd):
    """Nothing else is raised, nothing warns, nothing takes long. Without the module both would happen."""
    rng, sources = random.Random(0), valid()
    outcomes, slowest, unguarded = Counter(), 0.0, Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(10_000):
            data = mutated(rng, sources[i % len(sources)], sources)
            start = time.perf_counter()
            try:
                pixels = (decode_image if i % 4 else read_map)(data, f"file {i}")
            except BadImage as error:
                assert str(error).startswith(f"cannot read image 'file {i}': ") and "\n" not in str(error)
                outcomes["refused"] += 1
            else:
                assert pixels.dtype == np.uint8 and min(pixels.shape) >= 1 and pixels.flags.c_contiguous
                assert pixels.ndim == (3 if i % 4 else 2) and (pixels.ndim == 2 or len(pixels) == 3)
                outcomes["read"] += 1
            slowest = max(slowest, time.perf_counter() - start)
            if i < 3000:
                try:
                    plain(data)
                except Exception as error:
                    unguarded["warning" if isinstance(error, Warning) else type(error).__name__] += 1
    capfd.readouterr()  # libtiff writes to stderr itself
    assert outcomes["read"] > 1000 < outcomes["refused"] and slowest < 5
    assert unguarded["warning"] and len(unguarded) > 3, "the check could not fail"
