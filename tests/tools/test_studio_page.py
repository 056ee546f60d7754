"""The studio's page in a real browser: an example, an upload, two users at once, and what is never shown."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from live_browser import Browser, Page, browsing
from made_runs import EVIL, make_run
from PIL import Image
from visual_prompts import image_file

pytest.importorskip("gradio", reason="no Gradio: pip install 'unigen[studio]'")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
DONE = "!!document.querySelector('#status .studio-good')"


class Studio:
    """A studio in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.runs = folder / "runs"
        make_run(self.runs / "old")
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
        words = [sys.executable, str(ROOT / "experiments" / "studio.py"), f"runs={self.runs}", "port=0"]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
        lines = iter(self.process.stdout.readline, "")
        self.address = next(match[0] for line in lines if (match := re.search(r"http://127\S+key=\S+", line)))

    def open(self, browser: Browser) -> Page:
        page = browser.page()
        page.ask("Network.enable")
        page.open(self.address)
        page.wait(
            "!!document.querySelector('#about') && document.querySelector('#about').innerText.includes('It takes')"
        )
        return page

    def results(self) -> list[Path]:
        return sorted((self.runs / "studio").glob("*/result.png"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def studio(browser, tmp_path_factory) -> Iterator[Studio]:
    found = Studio(tmp_path_factory.mktemp("studio"))
    yield found
    found.process.send_signal(signal.SIGTERM)
    found.process.wait(timeout=60)


def click(page: Page, selector: str) -> None:
    page.run(f"document.querySelector({json.dumps(selector)}).click()")


def example(page: Page, title: str) -> None:
    named = (
        f"[...document.querySelectorAll('.studio-example')].find(each => each.innerText.includes({json.dumps(title)}))"
    )
    page.run(f"{named}.click()")


def write(page: Page, selector: str, text: str) -> None:
    """Type into a text field, as far as the page's script can tell."""
    page.run(
        f"(() => {{ const field = document.querySelector('{selector} textarea, {selector} input');"
        "const set = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), 'value').set;"
        f"set.call(field, {json.dumps(text)}); field.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
    )


def tab(page: Page, name: str) -> None:
    page.run(f"[...document.querySelectorAll('button[role=tab]')].find(e => e.innerText.trim() == '{name}').click()")


def shown(page: Page, cell: str) -> np.ndarray:
    """The pixels that an image of the page has, (H, W, 3)."""
    said = page.run(
        f"(async () => {{ const image = document.querySelector('{cell} img'); await image.decode();"
        "const canvas = document.createElement('canvas'); canvas.width = image.naturalWidth;"
        "canvas.height = image.naturalHeight; const pen = canvas.getContext('2d'); pen.drawImage(image, 0, 0);"
        "const data = [...pen.getImageData(0, 0, canvas.width, canvas.height).data];"
        "return [canvas.height, canvas.width, data]; })()"
    )
    return np.array(said[2], np.uint8).reshape(said[0], said[1], 4)[..., :3]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def sharpened(page: Page, seed: str) -> None:
    """Load an example and fill in its settings; nothing is drawn yet."""
    example(page, "Sharpen")
    page.wait("!!document.querySelector('#cell-2-0 img') && !!document.querySelector('#cell-1-1 img')")
    write(page, "#seed", seed)
    write(page, "#steps", "3")


def folder_of(page: Page) -> Path:
    return Path(re.search(r"files are in (\S+)", page.run("document.querySelector('#status').innerText"))[1])


def test_an_example_becomes_an_image_while_one_looks(studio, browser):
    page = studio.open(browser)
    sharpened(page, "0")
    click(page, "#generate")
    page.wait("document.querySelector('#status').innerText.includes('step ')")
    page.wait(DONE)
    made = pixels(folder_of(page) / "result.png")
    page.wait("document.querySelector('#cell-2-1 img').src.includes('result.png')")
    assert np.array_equal(shown(page, "#cell-2-1"), made)
    assert not np.array_equal(shown(page, "#cell-0-1"), made[: len(made)]), "negative control: another cell"
    command = page.run("document.querySelector('#command').innerText")
    assert "sample.py" in command and "rows=" in command and "seed=0" in command

    click(page, "#compose")
    page.wait("document.querySelector('#cell-2-0 img').src.includes('result.png')")
    assert np.array_equal(shown(page, "#cell-2-0"), made), "the result is the next input"
    assert page.run("document.querySelector('#cell-2-1 img') === null")


def test_two_users_at_once_do_not_mix(studio, browser):
    pages = [studio.open(browser), studio.open(browser)]
    for seed, page in enumerate(pages):
        sharpened(page, str(seed + 1))
    for page in pages:
        click(page, "#generate")
    for page in pages:
        page.wait(DONE)
        page.wait("document.querySelector('#cell-2-1 img').src.includes('result.png')")
    folders = [folder_of(page) for page in pages]
    assert folders[0] != folders[1]
    for seed, (page, folder) in enumerate(zip(pages, folders, strict=True)):
        assert f"seed={seed + 1}" in (folder / "command.txt").read_text()
        assert np.array_equal(shown(page, "#cell-2-1"), pixels(folder / "result.png"))
        assert page.run("document.querySelectorAll('#results img').length") == 1, "results of the other page"
    assert not np.array_equal(*(pixels(folder / "result.png") for folder in folders)), "negative control"


def test_an_upload_a_bad_file_and_a_prompt_that_would_be_a_script(studio, browser, tmp_path):
    page = studio.open(browser)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"<script>window.evil = 1</script>")
    for cell in ("0-0", "0-1"):
        page.upload(f"#cell-{cell} input[type=file]", image_file(tmp_path / f"{cell}.png"))
        page.wait(f"!!document.querySelector('#cell-{cell} img')")
    page.upload("#cell-1-0 input[type=file]", bad)
    page.wait("!!document.querySelector('#cell-1-0 img')")
    write(page, "#steps", "2")
    script = '<img src=x onerror="window.evil=1"><script>window.evil=1</script>'
    write(page, "#prompt", script)
    click(page, "#generate")
    page.wait("!!document.querySelector('#status .studio-bad')")
    said = page.run("document.querySelector('#status').innerText")
    assert "bad.png" in said and str(studio.runs) not in said

    example(page, "Sharpen")
    page.wait(
        "document.querySelector('#cell-1-0 img') && document.querySelector('#cell-1-0 img').src.includes('mushroom')"
    )
    write(page, "#prompt", script)
    click(page, "#generate")
    page.wait(DONE)
    page.wait("document.querySelectorAll('#results img').length == 1")
    assert page.run("window.evil === undefined")
    assert page.run("document.querySelector('#results').innerText.includes('<script>')"), "the caption is text"


def test_no_file_outside_is_served_and_no_other_host_is_asked(studio, browser, tmp_path):
    page = studio.open(browser)
    (tmp_path / "secret.png").write_bytes(b"secret")
    wanted = ["/etc/hostname", str(ROOT / "pyproject.toml"), str(tmp_path / "secret.png"), str(studio.runs / "old")]
    wanted += [f"{studio.runs}/old/../../../../etc/hostname", str(studio.runs / "old" / "config.yaml")]
    for path in wanted:
        for route in ("/gradio_api/file=", "/file="):
            status = page.run(f"fetch({json.dumps(route + path)}).then(answer => answer.status)")
            assert status in (403, 404), (route, path, status)
    assert page.run("fetch('/config').then(answer => answer.status)") == 200, "negative control"
    assert page.run("fetch('/config', {credentials: 'omit'}).then(answer => answer.status)") == 401
    asked = [
        event["params"]["request"]["url"] for event in browser.events if event["method"] == "Network.requestWillBeSent"
    ]
    assert asked and all(url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:")) for url in asked)


CALL = """(async () => {
    const config = await (await fetch('/config')).json();
    const button = config.components.find(each => each.props.elem_id == 'compose').id;
    const fn = config.dependencies.find(each => each.targets.some(target => target[0] == button)).id;
    const cells = Array(16).fill(null);
    cells[4] = cells[5] = {path: PATH, meta: {_type: 'gradio.FileData'}};
    const body = {data: ['rows', 2, 2, [1], null, ...cells], fn_index: fn, session_hash: HASH};
    const said = {method: 'POST', headers: {'content-type': 'application/json'}, body: JSON.stringify(body)};
    const joined = await fetch('/gradio_api/queue/join', said);
    if (!joined.ok) return 'refused ' + joined.status;
    return await (await fetch('/gradio_api/queue/data?session_hash=' + HASH)).text();
})()"""


def test_a_call_by_hand_takes_no_file_from_elsewhere(studio, browser):
    page = studio.open(browser)

    def told(path: str, mark: str) -> str:
        return page.run(CALL.replace("PATH", json.dumps(path)).replace("HASH", json.dumps(mark)))

    for number, path in enumerate(
        ("/etc/hostname", str(ROOT / "pyproject.toml"), str(studio.runs / "old/config.yaml"))
    ):
        said = told(path, f"byhand{number}")
        assert "process_completed" in said and '"success":true' not in said, said
    example(page, "Sharpen")
    page.wait("!!document.querySelector('#cell-1-0 img')")
    own = page.run("decodeURI(document.querySelector('#cell-1-0 img').src.split('file=')[1])")
    assert '"success":true' in told(own, "byhand9"), "negative control: a file that the page was lent"


def test_a_mask_is_edited_by_clicking_and_saved(studio, browser):
    page = studio.open(browser)
    tab(page, "Preview and plan")
    page.wait("!!document.querySelector('#show')")
    write(page, "#words", "data.limit=200")
    click(page, "#show")
    page.wait("!!document.querySelector('#plan-said .studio-good')")
    page.wait("document.querySelector('#facts').innerText.includes('attended pairs')")
    assert "hours of 1,800 steps" in page.run("document.querySelector('#estimated').innerText")
    assert page.run("!!document.querySelector('#preview iframe[sandbox=allow-scripts]')")
    assert page.run("document.querySelector('#word-2-1').innerText") == "condition: all"
    click(page, "#word-2-1")
    page.wait("document.querySelector('#word-2-1').innerText == 'condition: same'")
    page.wait("document.querySelector('#facts').innerText.includes('edited')")
    write(page, "#mask-name", "mine")
    click(page, "#save-mask")
    page.wait("document.querySelector('#plan-said').innerText.includes('mine.yaml')")
    assert "condition: same" in (studio.runs / "studio" / "conf" / "mask" / "mine.yaml").read_text().splitlines()[6]

    write(page, "#words", "data.limt=200")
    click(page, "#show")
    page.wait("!!document.querySelector('#plan-said .studio-bad')")
    assert "did you mean 'data.limit'?" in page.run("document.querySelector('#plan-said').innerText")


def test_a_run_is_looked_at_and_its_names_are_text(studio, browser):
    page = studio.open(browser)
    evil = make_run(studio.runs / "a<img src=x onerror=window.evil=1>")
    evil.with_name(f"{evil.name}.log").write_text(EVIL)
    tab(page, "Runs")
    page.wait("document.querySelector('#overview').innerText.includes('onerror')")
    page.wait("document.querySelector('#progress').innerText.includes('finished, step 30')")
    page.wait("!!document.querySelector('#grids img') && !!document.querySelector('#plot svg')")
    assert page.run("window.evil === undefined")
    click(page, "#stop-run")
    page.wait("!!document.querySelector('#said .studio-bad')")
    assert "is not running on this machine" in page.run("document.querySelector('#said').innerText")
