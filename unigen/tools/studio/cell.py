"""A cell of the grid: Gradio's image, whose file is passed on as it was given; and files that are lent to the page."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import component_meta
from gradio.processing_utils import save_file_to_cache


def lent(path: str | Path) -> str:
    """Copy a file to the uploads' folder, the only one that files are served from and taken from; return its path."""
    return save_file_to_cache(path, os.environ["GRADIO_TEMP_DIR"])


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
