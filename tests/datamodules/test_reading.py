"""Reading picture files of any kind, and refusing the bad ones with one exception that says what and why."""

import os
import pickle
import random
import struct
import subprocess
import sys
import time
import warnings
import zlib
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from datamodules.reading import LIMITS, BadPicture, Limits, inside, read_map, read_picture

ROOT = Path(__file__).parents[2]
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def coloured(width: int = 12, height: int = 9) -> Image.Image:
    """Blue, with a red 3 x 3 block in the top left and a green one in the top right."""
    image = Image.new("RGB", (width, height), BLUE)
    image.paste(RED, (0, 0, 3, 3))
    image.paste(GREEN, (width - 3, 0, width, 3))
    return image


def saved(image: Image.Image, form: str, **options) -> bytes:
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def raw(image: Image.Image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1)


def tagged(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png_header(width: int, height: int) -> bytes:
    """The header of a PNG and nothing else."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + b"\0\0\0\0IDAT"


# --- what is read --------------------------------------------------------------------------------------------------

LOSSLESS = [
    ("PNG", "RGB", {}),
    ("PNG", "P", {}),
    ("PNG", "RGBA", {}),
    ("BMP", "RGB", {}),
    ("BMP", "P", {}),
    ("GIF", "P", {}),
    ("TIFF", "RGB", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "CMYK", {"compression": "tiff_adobe_deflate"}),
    ("WEBP", "RGB", {"lossless": True}),
]


@pytest.mark.parametrize(("form", "mode", "options"), LOSSLESS)
def test_a_lossless_picture_is_read_exactly_at_its_own_size(tmp_path, form, mode, options):
    data = saved(coloured().convert(mode), form, **options)
    (tmp_path / "picture").write_bytes(data)  # the content says what it is, not the suffix
    pixels = read_picture(data)
    assert pixels.dtype == np.uint8 and pixels.shape == (3, 9, 12) and pixels.flags.c_contiguous
    assert np.array_equal(pixels, raw(coloured()))
    assert np.array_equal(read_picture(str(tmp_path / "picture")), pixels)
    assert not np.array_equal(read_picture(saved(coloured().rotate(180).convert(mode), form, **options)), pixels)
    pixels[:] = 0  # they are the caller's own


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"save_all": True, "append_images": [coloured()]}])
def test_jpeg_is_read(options):
    form = "MPO" if "save_all" in options else "JPEG"  # phones write several pictures into a JPEG
    pixels = read_picture(saved(coloured(24, 16).resize((96, 64), 0), form, quality=95, **options))
    assert pixels.shape == (3, 64, 96)
    assert np.abs(pixels[:, 5, 5] - np.array(RED)).max() < 12 < np.abs(pixels[:, 5, 90] - np.array(RED)).max()


# where (row, column) of the stored picture the visual top left and top right are: EXIF 2.3, section 4.6.4
CORNERS = {
    1: ((0, 0), (0, -1)),
    2: ((0, -1), (0, 0)),
    3: ((-1, -1), (-1, 0)),
    4: ((-1, 0), (-1, -1)),
    5: ((0, 0), (-1, 0)),
    6: ((-1, 0), (0, 0)),
    7: ((-1, -1), (0, -1)),
    8: ((0, -1), (-1, -1)),
}


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", CORNERS)
def test_a_picture_is_turned_upright(orientation, form):
    left, right = CORNERS[orientation]
    stored = np.zeros((16, 32, 3), np.uint8)
    for (row, column), colour in ((left, RED), (right, GREEN)):
        stored[slice(0, 8) if row == 0 else slice(-8, None), slice(0, 8) if column == 0 else slice(-8, None)] = colour
    options = {"lossless": True} if form == "WEBP" else {"quality": 95} if form == "JPEG" else {}
    pixels = read_picture(saved(Image.fromarray(stored), form, exif=tagged(orientation), **options)).astype(int)
    assert pixels.shape == ((3, 16, 32) if orientation < 5 else (3, 32, 16))
    assert pixels[0, 1, 1] > 200 > 80 > pixels[1, 1, 1] and pixels[1, 1, -2] > 200 > 80 > pixels[0, 1, -2]
    assert pixels[:, -2].max() < 80
    plain = read_picture(saved(Image.fromarray(stored), form, **options)).astype(int)
    assert plain.shape == (3, 16, 32) and (orientation == 1) is np.array_equal(plain, pixels)


def test_broken_metadata_does_not_spoil_whole_pixels():
    exif = tagged(6).tobytes()
    whole = saved(coloured(), "PNG", exif=exif)
    broken = saved(coloured(), "PNG", exif=b"Exif\0\0" + b"\xff" * 40)
    assert read_picture(whole).shape == (3, 12, 9) and np.array_equal(read_picture(broken), raw(coloured()))


def test_alpha_is_laid_over_white():
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[:, 0], rgba[:, 1], rgba[:, 2] = (*RED, 255), (*RED, 0), (0, 0, 0, 51)
    for form, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        pixels = read_picture(saved(Image.fromarray(rgba), form, **options))
        assert pixels[:, 0].T.tolist() == [[255, 0, 0], [255, 255, 255], [204, 204, 204]]
    grey = Image.merge("LA", [Image.new("L", (2, 2), 100), Image.new("L", (2, 2), 0)])
    assert (read_picture(saved(grey, "PNG")) == 255).all()


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_palette_with_transparency_is_laid_over_white(form):
    image = coloured().convert("P", palette=Image.Palette.ADAPTIVE)
    clear = image.getpixel((1, 1))
    pixels = read_picture(saved(image, form, transparency=clear))
    assert pixels[:, 1, 1].tolist() == [255, 255, 255] and pixels[:, 8, 1].tolist() == list(BLUE)
    assert read_picture(saved(image, form))[:, 1, 1].tolist() == list(RED)


def test_deep_grey_is_scaled_and_not_clipped():
    levels = np.arange(0, 256, 5, dtype=np.uint16).reshape(4, 13)
    for data in (saved(Image.fromarray(levels * 257), form) for form in ("PNG", "TIFF")):
        assert np.array_equal(read_picture(data), np.stack([levels] * 3))
    big_endian = Image.frombytes("I;16B", (13, 4), (levels * 257).astype(">u2").tobytes())
    assert np.array_equal(read_picture(saved(big_endian, "TIFF"))[1], levels)
    values = np.array([[0.0, 0.5, 1.0], [np.nan, -np.inf, np.inf]], np.float32)
    assert read_picture(saved(Image.fromarray(values), "TIFF"))[0].tolist() == [[0, 128, 255], [0, 0, 0]]
    values[0, 2] = 2.0  # more than 1: the maximum is white
    assert read_picture(saved(Image.fromarray(values), "TIFF"))[0, 0].tolist() == [0, 64, 255]
    assert read_picture(saved(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF")).max() == 0


def test_cmyk_has_its_colours_with_and_without_adobes_marker():
    """Adobe writes CMYK JPEGs inverted, and so does everyone who left the marker out."""
    adobe = saved(coloured(24, 16).resize((96, 64), 0).convert("CMYK"), "JPEG", quality=95)
    start = adobe.index(b"\xff\xee")
    bare = adobe[:start] + adobe[start + 2 + int.from_bytes(adobe[start + 2 : start + 4], "big") :]
    assert b"Adobe" in adobe and b"Adobe" not in bare
    for data in (adobe, bare):
        pixels = read_picture(data).astype(int)
        assert np.abs(pixels[:, 4, 4] - np.array(RED)).max() < 20
        assert np.abs(pixels[:, 60, 4] - np.array(BLUE)).max() < 20


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_an_animation_the_first_frame_is_read(form):
    options = {"lossless": True} if form == "WEBP" else {}
    first, second = coloured(), coloured().rotate(180)
    for one, other in ((first, second), (second, first)):
        data = saved(one, form, save_all=True, append_images=[other], **options)
        assert np.array_equal(read_picture(data), raw(one)) and not np.array_equal(read_picture(data), raw(other))


def test_one_pixel_is_a_picture_unless_the_limits_say_otherwise():
    data = saved(Image.new("RGB", (1, 1), RED), "PNG")
    assert read_picture(data).tolist() == [[[255]], [[0]], [[0]]]
    with pytest.raises(BadPicture, match="1 x 1 pixels, but its sides must have at least 16"):
        read_picture(data, limits=Limits(side=16))


# --- maps ----------------------------------------------------------------------------------------------------------


def test_deep_maps_are_stretched_and_others_stay_as_they_are():
    depth = np.array([[1000, 3000], [2000, 1000]], np.uint16)  # millimetres
    assert read_map(saved(Image.fromarray(depth), "PNG")).tolist() == [[0, 255], [128, 0]]
    assert read_picture(saved(Image.fromarray(depth), "PNG"))[0].tolist() == [[4, 12], [8, 4]]  # its full range instead
    assert read_map(saved(Image.fromarray(depth.astype(np.float32)), "TIFF")).tolist() == [[0, 255], [128, 0]]
    assert read_map(saved(Image.fromarray(np.full((2, 2), 7, np.uint16)), "PNG")).max() == 0
    mask = np.array([[0, 1], [200, 255]], np.uint8)
    assert np.array_equal(read_map(saved(Image.fromarray(mask), "PNG")), mask)
    assert read_map(saved(Image.fromarray(mask > 100), "PNG")).tolist() == [[0, 0], [255, 255]]
    luma = read_map(saved(coloured(), "PNG"))
    assert luma.shape == (9, 12) and luma[1, 1] == 76 and luma[8, 1] == 29  # 0.299 and 0.114 of 255
    turned = read_map(saved(Image.fromarray(np.array([[0, 255]], np.uint8)), "PNG", exif=tagged(6)))
    assert turned.tolist() == [[0], [255]]


def npy(values: np.ndarray) -> bytes:
    file = BytesIO()
    np.save(file, values)
    return file.getvalue()


def test_npy_maps_are_read(tmp_path):
    depth = np.array([[0.5, 1.5], [np.nan, 1.0]], np.float16)
    assert read_map(npy(depth)).tolist() == [[0, 255], [0, 128]]
    np.save(tmp_path / "depth.npy", depth[None])
    assert read_map(tmp_path / "depth.npy").tolist() == read_map(npy(depth[..., None])).tolist() == [[0, 255], [0, 128]]
    assert read_map(npy(np.array([[True, False]]))).tolist() == [[255, 0]]
    assert read_map(npy(np.array([[3, 7]], np.uint8))).tolist() == [[3, 7]]
    assert read_map(npy(np.array([[-1e308, 1e308, np.inf]]))).tolist() == [[0, 255, 0]]
    for bad in (np.zeros(4), np.zeros((2, 2, 3)), np.zeros((2, 2), complex), np.zeros((0, 2)), np.zeros((2, 2), "U3")):
        with pytest.raises(BadPicture, match=r"'row 3': .* \.npy of \(H, W\) numbers"):
            read_map(npy(bad), "row 3")
    with pytest.raises(BadPicture, match=r"no such file"):
        read_map(tmp_path / "nothing.npy")


class Touches:
    """What is unpickled writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_is_never_loaded(tmp_path):
    array = np.array([[Touches(tmp_path / "harm")]], dtype=object)
    np.save(tmp_path / "bad.npy", array, allow_pickle=True)
    data = (tmp_path / "bad.npy").read_bytes()
    (tmp_path / "plain.npy").write_bytes(pickle.dumps(Touches(tmp_path / "harm")))
    for source in (tmp_path / "bad.npy", data, tmp_path / "plain.npy"):
        with pytest.raises(BadPicture, match="without pickled objects"):
            read_map(source)
    assert read_map(data.replace(b"'|O'", b"'f8'")).shape == (1, 1)  # bytes like any others
    assert not (tmp_path / "harm").exists()
    np.load(tmp_path / "bad.npy", allow_pickle=True)
    assert (tmp_path / "harm").exists(), "the check could not fail"


def test_an_array_of_a_huge_shape_is_refused_before_memory_is_asked_for():
    huge = npy(np.zeros((10, 10))).replace(b"(10, 10), }        ", b"(900000, 900000), }")
    assert b"900000" in huge
    with pytest.raises(BadPicture, match="at most 128 megapixels"):
        read_map(huge)


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncated_pictures_are_refused_whatever_others_told_pillow(form, monkeypatch):
    data = saved(Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3), np.uint8)), form)
    read_picture(data)
    for strict in (True, False):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", not strict)
        for share in (0.2, 0.5, 0.9):
            with pytest.raises(BadPicture, match="'row 17, column canny'"):
                read_picture(data[: int(share * len(data))], "row 17, column canny")
        assert ImageFile.LOAD_TRUNCATED_IMAGES is not strict  # theirs again
    if form == "JPEG":
        Image.open(BytesIO(data[: len(data) // 2])).load()  # so Pillow was told to read half pictures


@pytest.mark.parametrize("side", [12_000, 20_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_by_its_header(side):
    """There is nothing to decode behind it, so whoever decoded first would call the file truncated."""
    with pytest.raises(BadPicture, match=r"pixels.* 128( megapixels|000000 pixels)"):
        read_picture(png_header(side, side))
    with pytest.raises(BadPicture, match=r"[tT]runcated"):
        read_picture(png_header(100, 100))


def test_the_limit_of_megapixels_is_exact_and_silent():
    data = saved(coloured(), "PNG")  # 108 pixels
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(data, limits=Limits(megapixels=108e-6)).shape == (3, 9, 12)
        assert read_picture(data, limits=Limits(megapixels=float("inf"))).shape == (3, 9, 12)
        for megapixels in (107e-6, 70e-6, 10e-6):
            with pytest.raises(BadPicture, match="pixels"):
                read_picture(data, limits=Limits(megapixels=megapixels))
    assert Image.MAX_IMAGE_PIXELS == before and LIMITS.megapixels == 128


def test_absurd_shapes_are_refused():
    long = saved(Image.new("RGB", (330, 10)), "PNG")
    with pytest.raises(BadPicture, match=r"330 x 10 pixels, but its sides must be within 1 : 32"):
        read_picture(long)
    assert read_picture(long, limits=Limits(aspect=33)).shape == (3, 10, 330)
    with pytest.raises(BadPicture, match="within 1 : 32"):
        read_map(saved(Image.new("L", (1, 33)), "PNG"))


def test_only_the_decoders_of_the_list_are_reached():
    for form in ("EPS", "PPM", "ICO", "TGA"):
        data = saved(coloured().resize((16, 16)), form)
        assert Image.open(BytesIO(data)).format == form
        with pytest.raises(
            BadPicture, match="no known picture format; it must be a readable PNG, JPEG, WebP, GIF, BMP"
        ):
            read_picture(data)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "there is no such file"),
        ("empty", "the file is empty"),
        ("text", "no known picture format"),
        ("folder", "it is a folder"),
        ("pipe", "it is not a regular file"),
        ("n" * 300, "there is no such file"),
        ("null\0byte", "there is no such file"),
        ("line\nbreak", "there is no such file"),
        ("byte\udc80", "there is no such file"),
    ],
)
@pytest.mark.parametrize("read", [read_picture, read_map])
def test_a_refusal_is_one_sentence_that_names_the_file(tmp_path, read, name, words):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("not a picture")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadPicture, match=words) as caught:
        read(f"{tmp_path}/{name}")
    message = str(caught.value)
    assert isinstance(caught.value, ValueError) and "\n" not in message and message.encode("utf-8")
    assert repr(name)[1:-1] in message and caught.value.reason == words and caught.value.name.endswith(name)


def test_a_refusal_travels_between_processes():
    with pytest.raises(BadPicture) as caught:
        read_picture(b"", "a.png")
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), copied.name, copied.reason) == (str(caught.value), "a.png", "the file is empty")
    assert str(BadPicture("of a worker")) == "of a worker"  # what torch makes of it


def test_importing_it_is_cheap():
    for first, there in (("sys", "[]"), ("PIL", "['PIL']")):  # the second: the check can fail
        code = f"import sys, {first}, datamodules.reading; print([m for m in ('torch', 'PIL') if m in sys.modules])"
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == there


# --- paths ---------------------------------------------------------------------------------------------------------


def test_paths_stay_inside_the_root(tmp_path):
    root = tmp_path / "data"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "database").mkdir()  # begins as the root does
    saved_at = root / "sub" / "a.png"
    coloured().save(saved_at)
    (root / "near.png").symlink_to(saved_at)
    (root / "far.png").symlink_to(tmp_path / "secret.png")
    (root / "out").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    assert inside(root, "sub/a.png") == inside(root, "sub/../sub/a.png") == inside(root, "near.png")
    assert inside(root, saved_at) == saved_at.resolve()
    assert inside(root, "new.png") == (root / "new.png").resolve()
    for bad in (
        "../secret.png",
        "sub/../../secret.png",
        "/etc/passwd",
        "far.png",
        "out/x.png",
        "../database/x",
        "..\0",
    ):
        with pytest.raises(BadPicture, match="it must be a path in") as caught:
            inside(root, bad)
        assert repr(bad) in str(caught.value)
    (tmp_path / "link").symlink_to(root)
    assert inside(tmp_path / "link", "sub/a.png") == saved_at.resolve()  # the root itself may be one


def test_a_loop_of_links_is_refused(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(BadPicture):
        read_picture(inside(tmp_path, "loop"))


# --- fuzzing -------------------------------------------------------------------------------------------------------


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
                pixels = (read_picture if i % 4 else read_map)(data, f"file {i}")
            except BadPicture as error:
                assert str(error).startswith(f"cannot read picture 'file {i}': ") and "\n" not in str(error)
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
