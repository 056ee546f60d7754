"""Bad image files are refused with one exception that says what and why."""

import os
import pickle
import subprocess
import sys
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from made_images import coloured, png_header, saved
from PIL import Image, ImageFile

from datamodules.reading.images import LIMITS, BadImage, Limits, decode_image, read_map


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncated_images_are_refused_whatever_others_told_pillow(form, monkeypatch):
    data = saved(Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3), np.uint8)), form)
    decode_image(data)
    for strict in (True, False):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", not strict)
        for share in (0.2, 0.5, 0.9):
            with pytest.raises(BadImage, match="'row 17, column canny'"):
                decode_image(data[: int(share * len(data))], "row 17, column canny")
        assert ImageFile.LOAD_TRUNCATED_IMAGES is not strict  # theirs again
    if form == "JPEG":
        Image.open(BytesIO(data[: len(data) // 2])).load()  # so Pillow was told to read half images


@pytest.mark.parametrize("side", [12_000, 20_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_by_its_header(side):
    """There is nothing to decode behind it, so whoever decoded first would call the file truncated."""
    with pytest.raises(BadImage, match=r"million pixels, and at most 128 million are read; make it smaller$"):
        decode_image(png_header(side, side))
    with pytest.raises(BadImage, match=r"[tT]runcated"):
        decode_image(png_header(100, 100))


def test_the_limit_of_megapixels_is_exact_and_silent():
    data = saved(coloured(), "PNG")  # 108 pixels
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(data, limits=Limits(megapixels=108e-6)).shape == (3, 9, 12)
        assert decode_image(data, limits=Limits(megapixels=float("inf"))).shape == (3, 9, 12)
        for megapixels in (107e-6, 70e-6, 10e-6):
            with pytest.raises(BadImage, match="pixels"):
                decode_image(data, limits=Limits(megapixels=megapixels))
    assert Image.MAX_IMAGE_PIXELS == before and LIMITS.megapixels == 128


def test_absurd_shapes_are_refused():
    long = saved(Image.new("RGB", (330, 10)), "PNG")
    with pytest.raises(BadImage, match=r"330 x 10 pixels, but its sides must be within 1 : 32"):
        decode_image(long)
    assert decode_image(long, limits=Limits(aspect=33)).shape == (3, 10, 330)
    with pytest.raises(BadImage, match="within 1 : 32"):
        read_map(saved(Image.new("L", (1, 33)), "PNG"))


def test_only_the_decoders_of_the_list_are_reached():
    for form in ("EPS", "PPM", "ICO", "TGA"):
        data = saved(coloured().resize((16, 16)), form)
        assert Image.open(BytesIO(data)).format == form
        with pytest.raises(BadImage, match="no known image format; it must be a readable PNG, JPEG, WebP, GIF, BMP"):
            decode_image(data)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "there is no such file"),
        ("empty", "the file is empty"),
        ("text", "no known image format"),
        ("folder", "it is a folder"),
        ("pipe", "it is not a regular file"),
        ("n" * 300, "there is no such file"),
        ("null\0byte", "there is no such file"),
        ("line\nbreak", "there is no such file"),
        ("byte\udc80", "there is no such file"),
    ],
)
@pytest.mark.parametrize("read", [decode_image, read_map])
def test_a_refusal_is_one_sentence_that_names_the_file(tmp_path, read, name, words):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("not a picture")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadImage, match=words) as caught:
        read(f"{tmp_path}/{name}")
    message = str(caught.value)
    assert isinstance(caught.value, ValueError) and "\n" not in message and message.encode("utf-8")
    assert repr(name)[1:-1] in message and caught.value.reason == words and caught.value.name.endswith(name)


def test_a_refusal_travels_between_processes():
    with pytest.raises(BadImage) as caught:
        decode_image(b"", "a.png")
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), copied.name, copied.reason) == (str(caught.value), "a.png", "the file is empty")
    assert str(BadImage("of a worker")) == "of a worker"  # what torch makes of it


def test_importing_it_is_cheap():
    for first, there in (("sys", "[]"), ("PIL", "['PIL']")):  # the second: the check can fail
        code = (
            f"import sys, {first}, datamodules.reading.images; print([m for m in ('torch', 'PIL') if m in sys.modules])"
        )
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
        )
        assert run.stdout.strip() == there
