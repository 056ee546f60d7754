"""A page in headless Chromium: what a script finds in it."""

import json
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ANSWER = "data-said"


def in_browser(page: str, folder: Path, script: str) -> object:
    """What the asynchronous function body `script` returns in `page`; skips the test where there is no Chromium."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    asking = (
        f"<script>(async () => {{ {script} }})().then(said =>"
        f" document.body.setAttribute('{ANSWER}', JSON.stringify(said)))</script></body>"
    )
    file = folder / "page.html"
    file.write_text(page.replace("</body>", asking))
    words = [program, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    words += ["--virtual-time-budget=60000", "--dump-dom", file.as_uri()]
    dom = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
    assert f'{ANSWER}="' in dom, "the script ended with an error"
    return json.loads(unescape(dom.partition(f'{ANSWER}="')[2].partition('"')[0]))
