"""Captions of any kind become visible text; files and tables of text are read or refused."""

import random
import unicodedata

import pytest

from datamodules.reading.captions import (
    CAPTION,
    CAPTION_BYTES,
    Row,
    caption_in,
    clean_caption,
    decoded,
    table_rows,
    text_of,
)

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  a cat,\r\n\ton a mat \x00\x07\x1b[0m", "a cat, on a mat [0m"),
        ("cafe\u0301", "caf\u00e9"),
        ("\ufeffa\u200bb\u202ec\u00add", "abcd"),
        ("lone \ud83d and \ude00", "lone and"),
        ("pair \ud83d\ude00", "pair \U0001f600"),
        ("\u0928\u092e\u0938\u094d\u0924\u0947 \u0645\u0631\u062d\u0628\u0627 \u732b \u05d7\u05ea\u05d5\u05dc", None),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", None),  # Persian needs its zero-width non-joiner
        (FAMILY, None),
        ("\u3000\u2028 \x85\x1f", ""),
        ("", ""),
    ],
)
def test_captions_become_visible_text(text, cleaned):
    assert clean_caption(text) == (text if cleaned is None else cleaned)


@pytest.mark.parametrize(
    "letter",
    ["a", "\u0928\u093f", "q\u0323\u0307", FAMILY, "\U0001f1e9\U0001f1ea", "\U0001f44d\U0001f3fd", "\u2764\ufe0f"],
)
def test_long_captions_are_cut_between_letters(letter):
    for most in range(1, 40):
        cut = clean_caption(letter * 50, most)
        whole, rest = divmod(len(cut), len(letter))
        if most >= len(letter):
            assert rest == 0 and whole == most // len(letter) and cut == letter * whole
        assert len(cut) <= most
    assert clean_caption(letter * 50) == letter * 50


def test_captions_are_cut_at_the_limit_and_words_keep_no_space():
    assert clean_caption("x" * 10_000) == "x" * CAPTION
    assert clean_caption("ab cd", 3) == "ab" and clean_caption("abc d", 3) == "abc"


def test_any_string_is_cleaned_in_no_time():
    """The result is NFC, can be encoded, holds no control character, and cleaning it again changes nothing."""
    rng = random.Random(0)
    worst = ["\u0301", "\ud800", "\u200d", "\U0001f1e9", " ", "\x00", "\u1100", "\u0344"]
    strings = [c * 10_000 for c in worst] + ["a" * 2_000_000]
    strings += ["".join(rng.choices("\u0316\u0301\u0345\u0323a", k=10_000))]
    planes = (0x80, 0x800, 0x3000, 0x10000, 0x110000)
    strings += ["".join(chr(rng.randrange(rng.choice(planes))) for _ in range(rng.randrange(60))) for _ in range(1000)]
    changed = 0
    for text in strings:
        most = rng.choice((7, 20, CAPTION))
        cleaned = clean_caption(text, most)
        assert unicodedata.is_normalized("NFC", cleaned) and cleaned.encode("utf-8") is not None
        assert len(cleaned) <= most and clean_caption(cleaned, most) == cleaned
        assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in cleaned)
        changed += cleaned != text
    assert 500 < changed


def test_text_files_are_read_or_refused_by_name(tmp_path):
    file = tmp_path / "a.txt"
    for data, text in (
        ("\ufeffa caf\u00e9\r\n".encode(), "a caf\u00e9\r\n"),
        (b"caf\xe9", "caf\u00e9"),
        ("caf\u00e9".encode("utf-16"), "caf\u00e9"),
    ):
        file.write_bytes(data)
        assert text_of(file) == text
    for data, words in ((b"\xff\x00\x01", "it is no text"), (b"x" * (CAPTION_BYTES + 1), "more than 1048576")):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=words) as caught:
            text_of(file)
        assert str(file) in str(caught.value)


def test_the_encoding_of_a_text_is_told():
    assert decoded(b"plain") == ("plain", "UTF-8") and decoded(b"\x93a\x94") == ("\u201ca\u201d", "Windows-1252")
    for bad in (b"\xff\xfea", b"\x89PNG\r\n\x1a\n\0", b"\x81"):
        with pytest.raises(ValueError, match="it is no text"):
            decoded(bad)


def test_json_lines_have_rows_and_faults():
    lines = [
        '{"file_name": "a.png", "text": "a", "n": 1}',
        "",
        '{"file_name": "b.png", "text": null}',
        '{"image": "c.png", "prompt": "c"}',
        '{"text": "d"}',
    ]
    good = [Row(1, "a.png", "a"), Row(4, "c.png", "c"), Row(5, fault="it has no file_name")]
    assert table_rows("\n".join(lines), ".jsonl") == good
    for bad in ("{", "[1]", "3", '{"file_name": 3, "text": "a"}', '{"file_name": "a", "text": ["b"]}', "[" * 99_999):
        *same, last = table_rows("\n".join([*lines, bad]), ".jsonl")
        assert same == good and last.line == 6 and last.fault and not last.text


@pytest.mark.parametrize("comma", [",", ";", "\t"])
def test_csv_has_rows_and_faults(comma):
    rows = [("File_Name", "n", "caption"), ("a.png", "1", '"two\r\nlines"'), ("b.png", "2"), ("", "3", "x")]
    text = "".join(f"{comma.join(row)}\r\n" for row in rows)
    good = [Row(3, "a.png", "two\r\nlines"), Row(5, fault="it has no file_name")]
    assert table_rows(text, ".csv") == table_rows(text, ".tsv") == good
    *same, last = table_rows(f"{text}c.png{comma}4{comma}{'x' * 200_000}", ".csv")
    assert same == good and last.fault.startswith("it and what follows cannot be read")


@pytest.mark.parametrize(
    ("text", "suffix"),
    [("a,b\n1,2", ".csv"), ("", ".csv"), ('{"file_name": "a"}', ".jsonl"), ("x", ".jsonl"), ("text\na", ".csv")],
)
def test_what_is_no_table_of_captions_is_told(text, suffix):
    with pytest.raises(ValueError, match="it is no table of captions: no row has file_name and text, c"):
        table_rows(text, suffix)


def test_the_caption_of_a_json_object_is_the_first_of_its_names():
    assert caption_in('{"prompt": "p", "caption": "c"}') == "c" and caption_in('{"text": "", "prompt": "p"}') == "p"
    assert caption_in('{"text": null}') == ""
    bad = {"{": "no JSON", "[]": "no JSON object", '{"tags": "x"}': "no text, caption or", '{"text": 3}': "no string"}
    for text, words in bad.items():
        with pytest.raises(ValueError, match=words):
            caption_in(text)
