"""A live page in headless Chromium, driven over its debugging pipe: no port, no driver and no package are needed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import NAMES

PATIENCE = 120.0  # seconds that a condition is waited for


class Page:
    """One page of a browser; pages of different contexts share no cookies, as those of two users."""

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self.browser, self.target, self.session = browser, target, session

    def ask(self, method: str, **words: Any) -> dict[str, Any]:
        return self.browser.ask(method, words, self.session)

    def open(self, address: str) -> None:
        self.ask("Page.enable")
        self.ask("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """What an expression gives, which may be a promise. Raises AssertionError with the error of the page."""
        said = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def wait(self, script: str, patience: float = PATIENCE) -> Any:
        """Wait until an expression is true, and return it."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            with contextlib.suppress(AssertionError):  # the page is not there yet
                if found := self.run(script):
                    return found
            time.sleep(0.2)
        raise AssertionError(f"never true: {script}\n{self.run('document.body.innerText.slice(0, 3000)')}")

    def upload(self, selector: str, file: Path) -> None:
        """Choose a file in the first <input type=file> that matches."""
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        assert node, f"no {selector}"
        self.ask("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def shot(self, file: Path, whole: bool = False) -> None:
        said = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(said["data"]))


class Browser:
    """A Chromium that reads commands from one pipe and answers into another (--remote-debugging-pipe)."""

    def __init__(self, program: str, profile: Path, size: tuple[int, int]) -> None:
        mine_in, its_out = os.pipe()
        its_in, mine_out = os.pipe()
        # Chromium reads from descriptor 3 and writes to 4; the shell puts the pipes there, whatever their numbers are.
        words = [program, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
        words += [f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", "about:blank"]
        shell = ["bash", "-c", f'exec "$@" 3<&{its_in} 4>&{its_out}', "bash", *words]
        with open(os.devnull, "w") as nothing:
            self.process = subprocess.Popen(
                shell, pass_fds=(its_in, its_out), stdout=nothing, stderr=nothing, start_new_session=True
            )
        os.close(its_in)
        os.close(its_out)
        self._in, self._out, self._rest, self._number = mine_in, mine_out, b"", 0
        self.events: list[dict[str, Any]] = []

    def ask(self, method: str, words: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        self._number += 1
        said = {"id": self._number, "method": method, "params": words} | ({"sessionId": session} if session else {})
        os.write(self._out, json.dumps(said).encode() + b"\0")
        while True:
            answer = self._answer()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _answer(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = os.read(self._in, 1 << 20)
            assert read, "the browser has ended"
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def page(self) -> Page:
        """A page of a user of its own."""
        context = self.ask("Target.createBrowserContext", {})["browserContextId"]
        target = self.ask("Target.createTarget", {"url": "about:blank", "browserContextId": context})["targetId"]
        session = self.ask("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        return Page(self, target, session)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._in)
        os.close(self._out)


@contextlib.contextmanager
def browsing(folder: Path, size: tuple[int, int] = (1400, 1000)) -> Iterator[Browser]:
    """A browser for the block; skips the test where there is no Chromium."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    browser = Browser(program, folder / "profile", size)
    try:
        yield browser
    finally:
        browser.close()
