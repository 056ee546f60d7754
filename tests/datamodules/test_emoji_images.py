"""Reading a user's image, and drawing."""

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.reading.drawing import canny, draw_svg, grey, over_white, read_image

RED = '<rect x="2" y="2" width="4" height="4" fill="red"/>'
SQUARE = f'<svg viewBox="0 0 8 8" xmlns="http://www.w3.org/2000/svg">{RED}</svg>'


def halves(mode: str = "RGB", width: int = 80, height: int = 80) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), "red")
    image.paste("blue", (width // 2, 0, width, height))
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "ending"), [("RGB", "png"), ("P", "gif"), ("CMYK", "tif"), ("RGBA", "webp"), ("RGB", "jpg")]
)
def test_reads_modes_and_formats(tmp_path, mode, ending):
    path = tmp_path / f"picture.{ending}"
    halves(mode).save(path)
    pixels = read_image(path, 16)
    assert pixels.shape == (1, 3, 16, 16) and pixels.dtype == torch.uint8 and pixels.is_contiguous()
    left, right = pixels[0, :, 8, 3].tolist(), pixels[0, :, 8, 12].tolist()
    assert left[0] > 200 > 80 > left[2] and right[2] > 200 > 80 > right[0]


@pytest.mark.parametrize(("mode", "top"), [("L", 255), ("1", 255), ("I;16", 65535)])
def test_reads_grey_at_every_depth(tmp_path, mode, top):
    dtype = np.uint16 if top > 255 else np.uint8
    image = Image.fromarray(np.full((8, 8), top // 2, dtype)) if mode != "1" else Image.new("1", (8, 8), 1)
    image.save(tmp_path / "grey.png")
    value = read_image(tmp_path / "grey.png", 4).unique().tolist()
    assert value == [255] if mode == "1" else value in ([127], [128])


def test_lays_alpha_over_white_and_turns_and_crops(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png", 4).min() == 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise: left becomes top
    halves().save(tmp_path / "turned.png", exif=exif)
    pixels = read_image(tmp_path / "turned.png", 16)[0]
    assert pixels[0, 2, 8] > 200 and pixels[2, 13, 8] > 200
    halves().save(tmp_path / "upright.png")
    assert read_image(tmp_path / "upright.png", 16)[0, 0, 13, 3] > 200  # without the tag, left stays left
    halves(width=240).crop((0, 0, 240, 80)).save(tmp_path / "wide.png")
    wide = read_image(tmp_path / "wide.png", 16)[0]
    assert wide[0, 8, 3] > 200 and wide[2, 8, 12] > 200  # the centre: both halves are there


def bad_files(folder):
    halves().save(folder / "whole.png")
    whole = (folder / "whole.png").read_bytes()
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    (folder / "short.png").write_bytes(whole[: len(whole) // 2])
    (folder / "folder.png").mkdir()
    return {
        "missing": "no such file",
        "empty": "empty",
        "text": "no known",
        "short": "cannot read",
        "folder": "a folder",
    }


@pytest.mark.parametrize("name", ["missing", "empty", "text", "short", "folder"])
def test_bad_input_is_one_sentence_naming_the_file(tmp_path, name):
    words = bad_files(tmp_path)[name]
    with pytest.raises(ValueError, match=words) as caught:
        read_image(tmp_path / f"{name}.png", 16)
    assert f"{name}.png" in str(caught.value) and "\n" not in str(caught.value)
    assert read_image(tmp_path / "whole.png", 16).shape == (1, 3, 16, 16)


def test_a_size_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="size 0"):
        read_image(tmp_path / "any.png", 0)


def test_draws_svg_over_white(tmp_path):
    (tmp_path / "square.svg").write_text(SQUARE)
    rgba = draw_svg(tmp_path / "square.svg", 32)
    assert rgba.shape == (32, 32, 4) and rgba.dtype == np.uint8
    assert np.array_equal(rgba, draw_svg(SQUARE, 32))
    pixels = over_white(rgba)
    assert pixels[:, 0, 0].tolist() == [255, 255, 255] and pixels[:, 16, 16].tolist() == [255, 0, 0]
    flat = draw_svg(SQUARE.replace("0 0 8 8", "0 2 8 4"), 32)  # twice as wide as high: centred, not stretched
    assert flat.shape == (32, 32, 4) and flat[:8, :, 3].max() == 0 and flat[16, 16].tolist() == [255, 0, 0, 255]


def test_over_white_rounds_to_nearest():
    rgba = np.random.RandomState(0).randint(0, 256, (16, 16, 4), dtype=np.uint8)
    alpha = rgba[..., 3:] / 255.0
    exact = (rgba[..., :3] * alpha + 255 * (1 - alpha)).transpose(2, 0, 1)
    assert np.abs(over_white(rgba) - exact).max() <= 0.51
    assert np.abs(rgba[..., :3].transpose(2, 0, 1) - exact).max() > 1


@pytest.mark.parametrize("svg", ["<svg", "nowhere.svg"])
def test_bad_svg_is_refused(svg):
    with pytest.raises(ValueError, match="cannot draw SVG"):
        draw_svg(svg, 8)


def test_canny_and_grey():
    pixels = over_white(draw_svg(SQUARE, 32))
    edges, luma = canny(pixels), grey(pixels)
    assert edges.shape == luma.shape == (3, 32, 32) and edges.dtype == luma.dtype == np.uint8
    assert set(np.unique(edges)) == {0, 255} and edges[:, 16, 16].max() == 0 and edges[:, 16, 6:10].max() == 255
    assert np.array_equal(luma[0], luma[2]) and luma[0, 16, 16] == 76  # 0.299 * 255
    assert canny(np.full((3, 32, 32), 200, np.uint8)).max() == 0
