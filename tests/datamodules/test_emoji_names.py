"""Captions, subject keywords and split keys of every glyph."""

import re

import pytest

from datamodules.emoji.cache import glyphs
from datamodules.emoji.names import base_of, caption, subject


@pytest.fixture(scope="module")
def names() -> tuple[str, ...]:
    return glyphs()


def test_every_caption_is_short_and_holds_its_subject(names):
    for glyph in names:
        text = caption(glyph)
        assert subject(glyph) and subject(glyph) in text, glyph
        assert len(text) <= 100 and text == text.strip() and "  " not in text, glyph


def test_captions_are_lower_case_but_for_country_letters(names):
    style = re.compile(r"(flag [A-Z]{2}(-[A-Z]+)?|keycap [0-9#*]|[a-z0-9 ,\-’.]+)")
    assert [caption(glyph) for glyph in names if not style.fullmatch(caption(glyph))] == []
    assert not style.fullmatch("Grinning face")


def test_captions_tell_nearly_all_glyphs_apart(names):
    assert len({caption(glyph) for glyph in names}) >= len(names) - 5
    assert len({subject(glyph) for glyph in names}) < len(names) - 1000  # the subject alone does not


@pytest.mark.parametrize(
    ("glyph", "text", "keyword"),
    [
        ("1f600", "grinning face", "grinning face"),
        ("2764", "red heart", "red heart"),
        ("1f469-1f3fd-200d-1f4bb", "woman technologist, medium skin tone", "technologist"),
        ("1f9d1-200d-1f4bb", "technologist", "technologist"),
        ("1f468-200d-1f9af-200d-27a1", "man with white cane, facing right", "white cane"),
        ("1f469-200d-1f9b0", "woman, red hair", "woman"),
        ("1f468-200d-1f469-200d-1f467", "family, man, woman, girl", "family"),
        ("1f9d1-1f3fb-200d-1f91d-200d-1f9d1-1f3ff", None, "people holding hands"),
        ("1faf1-1f3fb-200d-1faf2-1f3ff", "handshake, light and dark skin tone", "handshake"),
        ("1f1e9-1f1ea", "flag DE", "flag DE"),
        ("1f3f4-e0067-e0062-e0073-e0063-e0074-e007f", "flag GB-SCT", "flag GB-SCT"),
        ("23-20e3", "keycap #", "keycap #"),
        ("1f3fd", "medium skin tone", "medium skin tone"),
        ("1faea", "distorted face", "distorted face"),  # Unicode 17
    ],
)
def test_captions_of_each_kind(glyph, text, keyword):
    assert subject(glyph) == keyword
    assert text is None or caption(glyph) == text


def test_an_unknown_code_point_names_the_table():
    with pytest.raises(ValueError, match=r"'e000'.*NAMES"):
        caption("e000")


@pytest.mark.parametrize(
    "same",
    [
        ("1f44b", "1f44b-1f3fb", "1f44b-1f3ff"),
        ("1f468", "1f469", "1f9d1-1f3fd", "1f469-200d-1f9b0", "1f471-200d-2640", "1f64e"),
        ("1f468-200d-1f4bb", "1f469-1f3fd-200d-1f4bb", "1f9d1-200d-1f4bb"),
        ("1f46b", "1f46c-1f3fb", "1f9d1-200d-1f91d-200d-1f9d1", "1f469-1f3fb-200d-1f91d-200d-1f468-1f3fc"),
        ("1f46a", "1f468-200d-1f466", "1f468-200d-1f469-200d-1f467-200d-1f466", "1f9d1-200d-1f9d2"),
        ("1f93c", "1f93c-1f3fb-200d-2642", "1f468-1f3fb-200d-1faef-200d-1f468-1f3fc"),
        ("1f3c3", "1f3c3-200d-27a1", "1f3c3-1f3ff-200d-2640-200d-27a1"),
        ("1f1f3-1f1f4", "1f1f8-1f1ef"),  # Svalbard flies the flag of Norway
        ("1f408", "1f408-200d-2b1b"),
    ],
)
def test_variants_share_a_base(same):
    assert len({base_of(glyph) for glyph in same}) == 1


def test_different_drawings_have_different_bases():
    different = (
        "1f44b",
        "1f468",
        "1f468-200d-1f4bb",
        "1f46b",
        "1f46a",
        "1f3fb",
        "2640",
        "1f9b0",
        "27a1",
        "1f1f3-1f1f4",
    )
    assert len({base_of(glyph) for glyph in different}) == len(different)
