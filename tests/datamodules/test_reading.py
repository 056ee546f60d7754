"""Reading image files and maps of any kind."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from made_images import BLUE, GREEN, RED, coloured, npy, saved, tagged
from PIL import Image

from datamodules.reading import images as reading
from datamodules.reading.images import BadImage, Limits, decode_image, formats, image_suffixes, read_map, undecodable


def raw(image: Image.Image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1)


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
def test_a_lossless_image_is_read_exactly_at_its_own_size(tmp_path, form, mode, options):
    data = saved(coloured().convert(mode), form, **options)
    (tmp_path / "picture").write_bytes(data)  # the content says what it is, not the suffix
    pixels = decode_image(data)
    assert pixels.dtype == np.uint8 and pixels.shape == (3, 9, 12) and pixels.flags.c_contiguous
    assert np.array_equal(pixels, raw(coloured()))
    assert np.array_equal(decode_image(str(tmp_path / "picture")), pixels)
    assert not np.array_equal(decode_image(saved(coloured().rotate(180).convert(mode), form, **options)), pixels)
    pixels[:] = 0  # they are the caller's own


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"save_all": True, "append_images": [coloured()]}])
def test_jpeg_is_read(options):
    form = "MPO" if "save_all" in options else "JPEG"  # phones write several images into a JPEG
    pixels = decode_image(saved(coloured(24, 16).resize((96, 64), 0), form, quality=95, **options))
    assert pixels.shape == (3, 64, 96)
    assert np.abs(pixels[:, 5, 5] - np.array(RED)).max() < 12 < np.abs(pixels[:, 5, 90] - np.array(RED)).max()


# where (row, column) of the stored image the visual top left and top right are: EXIF 2.3, section 4.6.4
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
def test_an_image_is_turned_upright(orientation, form):
    left, right = CORNERS[orientation]
    stored = np.zeros((16, 32, 3), np.uint8)
    for (row, column), colour in ((left, RED), (right, GREEN)):
        stored[slice(0, 8) if row == 0 else slice(-8, None), slice(0, 8) if column == 0 else slice(-8, None)] = colour
    options = {"lossless": True} if form == "WEBP" else {"quality": 95} if form == "JPEG" else {}
    pixels = decode_image(saved(Image.fromarray(stored), form, exif=tagged(orientation), **options)).astype(int)
    assert pixels.shape == ((3, 16, 32) if orientation < 5 else (3, 32, 16))
    assert pixels[0, 1, 1] > 200 > 80 > pixels[1, 1, 1] and pixels[1, 1, -2] > 200 > 80 > pixels[0, 1, -2]
    assert pixels[:, -2].max() < 80
    plain = decode_image(saved(Image.fromarray(stored), form, **options)).astype(int)
    assert plain.shape == (3, 16, 32) and (orientation == 1) is np.array_equal(plain, pixels)


def test_broken_metadata_does_not_spoil_whole_pixels():
    exif = tagged(6).tobytes()
    whole = saved(coloured(), "PNG", exif=exif)
    broken = saved(coloured(), "PNG", exif=b"Exif\0\0" + b"\xff" * 40)
    assert decode_image(whole).shape == (3, 12, 9) and np.array_equal(decode_image(broken), raw(coloured()))


def test_alpha_is_laid_over_white():
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[:, 0], rgba[:, 1], rgba[:, 2] = (*RED, 255), (*RED, 0), (0, 0, 0, 51)
    for form, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        pixels = decode_image(saved(Image.fromarray(rgba), form, **options))
        assert pixels[:, 0].T.tolist() == [[255, 0, 0], [255, 255, 255], [204, 204, 204]]
    grey = Image.merge("LA", [Image.new("L", (2, 2), 100), Image.new("L", (2, 2), 0)])
    assert (decode_image(saved(grey, "PNG")) == 255).all()


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_palette_with_transparency_is_laid_over_white(form):
    image = coloured().convert("P", palette=Image.Palette.ADAPTIVE)
    clear = image.getpixel((1, 1))
    pixels = decode_image(saved(image, form, transparency=clear))
    assert pixels[:, 1, 1].tolist() == [255, 255, 255] and pixels[:, 8, 1].tolist() == list(BLUE)
    assert decode_image(saved(image, form))[:, 1, 1].tolist() == list(RED)


def test_deep_grey_is_scaled_and_not_clipped():
    levels = np.arange(0, 256, 5, dtype=np.uint16).reshape(4, 13)
    for data in (saved(Image.fromarray(levels * 257), form) for form in ("PNG", "TIFF")):
        assert np.array_equal(decode_image(data), np.stack([levels] * 3))
    big_endian = Image.frombytes("I;16B", (13, 4), (levels * 257).astype(">u2").tobytes())
    assert np.array_equal(decode_image(saved(big_endian, "TIFF"))[1], levels)
    values = np.array([[0.0, 0.5, 1.0], [np.nan, -np.inf, np.inf]], np.float32)
    assert decode_image(saved(Image.fromarray(values), "TIFF"))[0].tolist() == [[0, 128, 255], [0, 0, 0]]
    values[0, 2] = 2.0  # more than 1: the maximum is white
    assert decode_image(saved(Image.fromarray(values), "TIFF"))[0, 0].tolist() == [0, 64, 255]
    assert decode_image(saved(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF")).max() == 0


def test_cmyk_has_its_colours_with_and_without_adobes_marker():
    """Adobe writes CMYK JPEGs inverted, and so does everyone who left the marker out."""
    adobe = saved(coloured(24, 16).resize((96, 64), 0).convert("CMYK"), "JPEG", quality=95)
    start = adobe.index(b"\xff\xee")
    bare = adobe[:start] + adobe[start + 2 + int.from_bytes(adobe[start + 2 : start + 4], "big") :]
    assert b"Adobe" in adobe and b"Adobe" not in bare
    for data in (adobe, bare):
        pixels = decode_image(data).astype(int)
        assert np.abs(pixels[:, 4, 4] - np.array(RED)).max() < 20
        assert np.abs(pixels[:, 60, 4] - np.array(BLUE)).max() < 20


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_an_animation_the_first_frame_is_read(form):
    options = {"lossless": True} if form == "WEBP" else {}
    first, second = coloured(), coloured().rotate(180)
    for one, other in ((first, second), (second, first)):
        data = saved(one, form, save_all=True, append_images=[other], **options)
        assert np.array_equal(decode_image(data), raw(one)) and not np.array_equal(decode_image(data), raw(other))


def test_one_pixel_is_an_image_unless_the_limits_say_otherwise():
    data = saved(Image.new("RGB", (1, 1), RED), "PNG")
    assert decode_image(data).tolist() == [[[255]], [[0]], [[0]]]
    with pytest.raises(BadImage, match="1 x 1 pixels, but its sides must have at least 16"):
        decode_image(data, limits=Limits(side=16))


# --- maps ----------------------------------------------------------------------------------------------------------


def test_deep_maps_are_stretched_and_others_stay_as_they_are():
    depth = np.array([[1000, 3000], [2000, 1000]], np.uint16)  # millimetres
    assert read_map(saved(Image.fromarray(depth), "PNG")).tolist() == [[0, 255], [128, 0]]
    assert decode_image(saved(Image.fromarray(depth), "PNG"))[0].tolist() == [[4, 12], [8, 4]]  # its full range instead
    assert read_map(saved(Image.fromarray(depth.astype(np.float32)), "TIFF")).tolist() == [[0, 255], [128, 0]]
    assert read_map(saved(Image.fromarray(np.full((2, 2), 7, np.uint16)), "PNG")).max() == 0
    mask = np.array([[0, 1], [200, 255]], np.uint8)
    assert np.array_equal(read_map(saved(Image.fromarray(mask), "PNG")), mask)
    assert read_map(saved(Image.fromarray(mask > 100), "PNG")).tolist() == [[0, 0], [255, 255]]
    luma = read_map(saved(coloured(), "PNG"))
    assert luma.shape == (9, 12) and luma[1, 1] == 76 and luma[8, 1] == 29  # 0.299 and 0.114 of 255
    turned = read_map(saved(Image.fromarray(np.array([[0, 255]], np.uint8)), "PNG", exif=tagged(6)))
    assert turned.tolist() == [[0], [255]]


def test_npy_maps_are_read(tmp_path):
    depth = np.array([[0.5, 1.5], [np.nan, 1.0]], np.float16)
    assert read_map(npy(depth)).tolist() == [[0, 255], [0, 128]]
    np.save(tmp_path / "depth.npy", depth[None])
    assert read_map(tmp_path / "depth.npy").tolist() == read_map(npy(depth[..., None])).tolist() == [[0, 255], [0, 128]]
    assert read_map(npy(np.array([[True, False]]))).tolist() == [[255, 0]]
    assert read_map(npy(np.array([[3, 7]], np.uint8))).tolist() == [[3, 7]]
    assert read_map(npy(np.array([[-1e308, 1e308, np.inf]]))).tolist() == [[0, 255, 0]]
    for bad in (np.zeros(4), np.zeros((2, 2, 3)), np.zeros((2, 2), complex), np.zeros((0, 2)), np.zeros((2, 2), "U3")):
        with pytest.raises(BadImage, match=r"'row 3': .* \.npy of \(H, W\) numbers"):
            read_map(npy(bad), "row 3")
    with pytest.raises(BadImage, match=r"no such file"):
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
        with pytest.raises(BadImage, match="without pickled objects"):
            read_map(source)
    assert read_map(data.replace(b"'|O'", b"'f8'")).shape == (1, 1)  # bytes like any others
    assert not (tmp_path / "harm").exists()
    np.load(tmp_path / "bad.npy", allow_pickle=True)
    assert (tmp_path / "harm").exists(), "the check could not fail"


def test_an_array_of_a_huge_shape_is_refused_before_memory_is_asked_for():
    huge = npy(np.zeros((10, 10))).replace(b"(10, 10), }        ", b"(900000, 900000), }")
    assert b"900000" in huge
    with pytest.raises(BadImage, match="at most 128 megapixels"):
        read_map(huge)


def test_avif_is_read_where_pillow_can(tmp_path):
    if "AVIF" not in formats():
        pytest.skip("this Pillow was built without AVIF")
    coloured(32, 32).save(tmp_path / "a.avif", quality=100)
    assert decode_image(tmp_path / "a.avif").shape == (3, 32, 32) and ".avif" in image_suffixes()


def test_heic_is_read_where_its_decoder_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    heif.from_pillow(coloured(64, 48)).save(tmp_path / "a.heic")
    assert decode_image(tmp_path / "a.heic").shape == (3, 48, 64) and undecodable(".heic") == ""


def test_what_cannot_be_decoded_says_what_to_do(monkeypatch):
    monkeypatch.setattr(reading, "formats", lambda: reading.FORMATS)
    assert undecodable(".heic") == "no decoder: pip install pillow-heif" and "without AVIF" in undecodable(".avif")
    assert undecodable(".nef").endswith("save it as PNG or JPEG") and not undecodable(".png") + undecodable(".md")


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_an_animation_among_stills_is_said_by_its_name(tmp_path, form):
    moving, still = tmp_path / f"moving.{form.lower()}", tmp_path / f"still.{form.lower()}"
    moving.write_bytes(saved(coloured(), form, save_all=True, append_images=[coloured().rotate(180)]))
    still.write_bytes(saved(coloured(), form))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        reading.warn_of_animations([str(still), str(moving), str(moving), str(tmp_path / "none.png")])
    (one,) = [str(warning.message) for warning in said]
    assert one == f"'{moving}' is an animation, of which the first frame alone is used"
    assert reading.looked_at(moving) == ("", True) and reading.looked_at(still) == ("", False)


def test_a_photo_with_a_second_image_in_it_is_no_animation(tmp_path):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(saved(coloured(), "MPO", save_all=True, append_images=[coloured()]))
    assert reading.looked_at(photo) == ("", False)
