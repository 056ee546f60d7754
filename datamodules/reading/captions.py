"""Captions: visible text from any string, and the files that hold captions of images."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

CAPTION = 4096  # characters; T5 reads 226 (CogVideoX) or 512 tokens (FLUX), about 4 characters each in English
FLAGS = "".join(map(chr, range(0x1F1E6, 0x1F200)))  # a flag is two of these letters
CLUSTER = 32  # characters that are looked at for the end of a letter with its marks

# control characters that are no white space, and invisible ones that no script needs: soft hyphen, zero-width space,
# bidirectional overrides, invisible operators, byte order mark, interlinear annotation. Joiners (200C, 200D) stay.
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u200b\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")  # characters that no text in an old encoding holds
CAPTION_BYTES = 2**20  # a longer text file holds no caption
UTF_8, OLD = "UTF-8", "Windows-1252"
BOMS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
TEXT_KEYS = ("text", "caption", "prompt")  # keys of captions in JSON and tables; the first one present counts
FILE_KEYS = ("file_name", "filename", "file", "image", "path")
LEGAL = f"file_name and {', '.join(TEXT_KEYS[:-1])} or {TEXT_KEYS[-1]}"


class Row(NamedTuple):
    """A row of a table of captions: its line, the image's file name, its text; `fault` says why it is of no use."""

    line: int
    name: str = ""
    text: str = ""
    fault: str = ""


def clean_caption(text: str, most: int = CAPTION) -> str:
    """Turn any string into one line of visible text: NFC, single spaces, at most `most` characters; '' if nothing is
    left.

    Lone surrogates and control characters are left out. What is too long is cut, never between a letter and its
    marks nor inside a joined emoji or a flag. Of a text 16 times as long the rest is not looked at.
    """
    text = text[: 16 * most].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
    text = " ".join(_INVISIBLE.sub("", text).split())
    text = unicodedata.normalize("NFC", text)
    if len(text) <= most:
        return text
    ends = (end for end in range(most, max(most - CLUSTER, 0), -1) if not _continues(text, end))
    return text[: next(ends, most)].rstrip()


def _continues(text: str, i: int) -> bool:
    """True if character i belongs to the one before it (the common cases of Unicode's annex 29)."""
    after, joiner = text[i], "\u200d"
    if unicodedata.category(after)[0] == "M" or joiner in text[i - 1 : i + 1]:
        return True
    if "\U0001f3fb" <= after <= "\U0001f3ff" or "\U000e0020" <= after <= "\U000e007f":  # skin tones and tags
        return True
    return after in FLAGS and (i - len(text[:i].rstrip(FLAGS))) % 2 == 1


def decoded(data: bytes) -> tuple[str, str]:
    """The text of a file's bytes, and its encoding: UTF-8, UTF-16 if it begins with a byte order mark, or else OLD.

    Raises ValueError for bytes that no text has.
    """
    for mark, encoding in BOMS.items():
        if data.startswith(mark):
            try:
                return data.decode(encoding), "UTF-16"
            except UnicodeDecodeError as error:
                raise ValueError("it is no text") from error
    try:
        return data.decode("utf-8-sig"), UTF_8
    except UnicodeDecodeError as error:
        text = data.decode("cp1252", "replace")
        if _CONTROL.search(text) or "\ufffd" in text:
            raise ValueError(f"it is no text (byte {error.start} is not UTF-8)") from error
        return text, OLD


def text_of(file: Path) -> str:
    """The text of a file. Raises ValueError, naming it, if it is none or longer than CAPTION_BYTES."""
    try:
        return decoded(content_of(file))[0]
    except ValueError as error:
        raise ValueError(f"cannot read caption '{file}': {error}; save it as UTF-8 text") from error


def content_of(file: Path) -> bytes:
    """The bytes of a caption's file. Raises ValueError if it cannot be read or is longer than CAPTION_BYTES."""
    try:
        with open(file, "rb") as stream:
            data = stream.read(CAPTION_BYTES + 1)
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from error
    if len(data) > CAPTION_BYTES:
        raise ValueError(f"it has more than {CAPTION_BYTES} bytes")
    return data


def caption_in(text: str) -> str:
    """The caption in the JSON object of an image. Raises ValueError, saying what is wrong, if it holds none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is no JSON") from error
    return said_in(found)


def said_in(row: Any) -> str:
    """The caption of a JSON object, '' for null. Raises ValueError, saying what is wrong, if it has none."""
    if not isinstance(row, Mapping):
        raise ValueError(f"it is no JSON object with {_any(TEXT_KEYS)}")
    key = next((key for key in TEXT_KEYS if row.get(key)), None) or next((key for key in TEXT_KEYS if key in row), None)
    if key is None:
        raise ValueError(f"it has no {_any(TEXT_KEYS)}")
    if row[key] is None:
        return ""
    if not isinstance(row[key], str):
        raise ValueError(f"its {key} is no string")
    return row[key]


def table_rows(text: str, suffix: str) -> list[Row]:
    """The rows of a table of captions, without those whose text is empty or null: JSON lines, or CSV (also .tsv).

    The form is that of Hugging Face's imagefolder: a row has a file name (FILE_KEYS) and a text (TEXT_KEYS).
    Raises ValueError if no row has both: then it is no table of captions.
    """
    rows = list(_json_lines(text) if suffix == ".jsonl" else _csv_lines(text))
    if not any(row.name for row in rows):
        raise ValueError(f"it is no table of captions: no row has {LEGAL}")
    return [row for row in rows if row.text.strip() or row.fault]


def _json_lines(text: str) -> Iterator[Row]:
    for line, written in enumerate(text.split("\n"), start=1):
        if not written.strip():
            continue
        try:
            found = json.loads(written)
            told = said_in(found)
            name = _name_in(found)
        except (ValueError, RecursionError) as error:
            no_json = not isinstance(error, ValueError) or isinstance(error, json.JSONDecodeError)
            yield Row(line, fault="it is no JSON" if no_json else str(error))
        else:
            yield Row(line, name, told)


def _csv_lines(text: str) -> Iterator[Row]:
    head = text.lstrip().partition("\n")[0]
    table = csv.DictReader(io.StringIO(text.lstrip(), newline=""), delimiter=max(",;\t", key=head.count))
    try:
        table.fieldnames = [str(name).strip().lower() for name in table.fieldnames or ()]
        if not {*table.fieldnames} & {*TEXT_KEYS} or not {*table.fieldnames} & {*FILE_KEYS}:
            return
        for row in table:
            try:
                yield Row(table.line_num, _name_in(row), said_in(row))
            except ValueError as error:
                yield Row(table.line_num, fault=str(error))
    except csv.Error as error:
        yield Row(table.line_num, fault=f"it and what follows cannot be read: {error}")


def _name_in(row: Mapping[str, Any]) -> str:
    name = next((row[key] for key in FILE_KEYS if row.get(key)), None)
    if not isinstance(name, str):
        raise ValueError(f"it has no {FILE_KEYS[0]}")
    return name.strip()


def _any(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
