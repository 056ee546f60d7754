"""A cell of the grid: Gradio's image, whose file is passed on as it was given."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio import component_meta


@contextmanager
def _without_stubs() -> Iterator[None]:
    """Keep Gradio from writing a .pyi file beside the source of a component's subclass."""
    write, component_meta.create_or_modify_pyi = component_meta.create_or_modify_pyi, lambda *_: None
    try:
        yield
    finally:
        component_meta.create_or_modify_pyi = write


with _without_stubs():

    class Cell(gr.Image):
        """Gradio would open the file and show an error of its own for a bad one; here sample.py says what is wrong.

        The path is one of this studio's uploads: Gradio has refused every other before it asks for this.
        """

        is_template = True  # its part of the page is gr.Image's

        def preprocess(self, payload: Any) -> str | None:
            return None if payload is None else payload.path
