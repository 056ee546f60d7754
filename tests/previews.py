"""What tests of previews share: a preview of a small experiment, what a page or table says, and the command."""

import re
from html import unescape

import pytest
from small_runs import command, line
from tiny import composed

from unigen.tools.forms.tables import Table
from unigen.tools.preview.gathering import Preview, preview


def made(*words: str, samples: int = 2) -> Preview:
    """The preview of a small run."""
    return preview(composed(*line(*words)), samples)


def texts(table: Table) -> list[list[str]]:
    """The rows of a table."""
    return [[cell.text for cell in row] for row in table.rows]


def figures(html: str) -> list[str]:
    """The words under every image."""
    found = re.findall(r'<figure class="(\w+)[^"]*">.*?<figcaption>(.*?)</figcaption>', html)
    return [f"{kind}| {' '.join(unescape(re.sub('<[^>]+>', ' ', words)).split())}" for kind, words in found]


def run(capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str, str]:
    """(exit code, output, errors) of `preview.py words`."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        code = command("preview.py", *words)
    return code, *capsys.readouterr()
