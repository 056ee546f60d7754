"""Draws one call in a thread, and tells of its steps as they come. Shapes: H and W pixels."""

import contextlib
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unigen.config.values import sentence
from unigen.tools.studio.models import Models

EVERY = 0.15  # seconds between two images on the way, so that drawing them costs little

Sampled = Callable[..., dict[str, Path]]  # `unigen.tools.sample.sampled`


class Stopped(Exception):
    """The user has stopped the drawing."""


class Step(NamedTuple):
    """A step is done. `images`, uint8 (H, W, 3) by target, are what is expected; {} where none were drawn.

    `count` steps make one pass; upsampling is a second one.
    """

    number: int
    count: int
    images: dict[str, np.ndarray]


class Done(NamedTuple):
    """The files by what they hold, and the lines that sample.py would have printed."""

    files: dict[str, Path]
    said: list[str]
    seconds: float


class Failed(NamedTuple):
    """Why nothing was drawn, in a sentence."""

    reason: str


def draw(sampled: Sampled, words: list[str], models: Models, stop: threading.Event) -> Iterator[Step | Done | Failed]:
    """Yield the steps of a call, then its end. `stop` ends it after the step that it is at.

    The iterator may be closed at any time; the drawing then ends too.
    """
    told: queue.Queue[Step | Done | Failed] = queue.Queue()
    last = 0.0

    def watch(number: int, count: int, estimate: Callable[[], dict[str, Any]]) -> None:
        nonlocal last
        if stop.is_set():
            raise Stopped
        if time.monotonic() - last < EVERY and number < count:
            told.put(Step(number, count, {}))
            return
        # The first frame stands for a clip.
        told.put(
            Step(
                number,
                count,
                {name: x_BF3HW[0, 0].permute(1, 2, 0).cpu().numpy() for name, x_BF3HW in estimate().items()},
            )
        )
        last = time.monotonic()

    def work() -> None:
        began, said = time.monotonic(), []
        try:
            files = sampled(words, load=models.loader(watch), say=said.append)
            told.put(Done(files, said, time.monotonic() - began))
        except Stopped:
            told.put(Failed("stopped"))
        except (ValueError, OSError) as error:
            told.put(Failed(sentence(error)))
        except Exception as error:  # a defect: the page names it, the terminal has its traceback
            traceback.print_exc()
            told.put(Failed(f"{type(error).__name__}: {sentence(error)} (the studio's terminal says more)"))

    thread = threading.Thread(target=work, name="drawing", daemon=True)
    thread.start()
    try:
        while True:
            with contextlib.suppress(queue.Empty):
                event = told.get(timeout=0.5)
                yield event
                if not isinstance(event, Step):
                    return
    finally:
        stop.set()
        thread.join()
