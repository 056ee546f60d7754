"""Captions: visible text from any string, and the files that hold captions of pictures."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

CAPTION = 4096  # characters; T5 reads 226 (CogVideoX) or 512 tokens (FLUX), about 4 characters each in English
FLAGS = "".join(map(chr, range(0x1F1E6, 0x1F200)))  # a flag is two of these letters
CLUSTER = 32  # characters that are looked at for the end of a letter with its marks

# control characters that are no white space, and invisible ones that no script needs: soft hyphen, zero-width space,
# bidirectional overrides, invisible operators, byte order mark, interlinear annotation. Joiners (200C, 200D) stay.
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u200b\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")
CAPTION_BYTES = 2**20  # of a text file; what is longer is no caption


def clean_caption(text: str, most: int = CAPTION) -> str:
    """Any string as one line of visible text: NFC, single spaces, at most `most` characters; '' if nothing is left.

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
    """Whether character i belongs to what is written before it (the common cases of Unicode's annex 29)."""
    after, joiner = text[i], "\u200d"
    if unicodedata.category(after)[0] == "M" or joiner in text[i - 1 : i + 1]:
        return True
    if "\U0001f3fb" <= after <= "\U0001f3ff" or "\U000e0020" <= after <= "\U000e007f":  # skin tones and tags
        return True
    return after in FLAGS and (i - len(text[:i].rstrip(FLAGS))) % 2 == 1


def text_of(file: Path) -> str:
    """The UTF-8 text of a file. Raises ValueError, naming it, if it is none or longer than CAPTION_BYTES."""
    with open(file, "rb") as stream:
        data = stream.read(CAPTION_BYTES + 1)
    if len(data) > CAPTION_BYTES:
        raise ValueError(f"caption '{file}' has more than {CAPTION_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"caption '{file}' is not UTF-8 text (byte {error.start}): save it as UTF-8") from error


def rows_of(file: Path) -> Iterator[tuple[int, str, str]]:
    """(line, file name, text) of the rows of a .jsonl that have a text which is not null.

    The form is that of Hugging Face's imagefolder. Raises ValueError, naming file and line, for a line that is not
    {"file_name": string, "text": string or null}; other keys are ignored.
    """
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
                name, text = row["file_name"], row["text"]
                if not isinstance(name, str) or not isinstance(text, str | None):
                    raise TypeError("file_name must be a string, text a string or null")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                why = f"it has no {error} but {', '.join(row)}" if isinstance(error, KeyError) else str(error)
                legal = 'it must be {"file_name": "...", "text": "..."}'
                raise ValueError(f"'{file}', line {number}: {why}; {legal}") from error
            if text is not None:
                yield number, name, text
