"""unigen: unified image generation by visual in-context learning (RealGeneral, VisualCloze and their crosses)."""

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# OpenMP threads spin at barriers for milliseconds before they sleep. On two cores, one of them busy with something
# else, a mini training step then took minutes instead of 0.05 s; after a short spin it takes 0.14 s, and loses nothing
# on an idle machine. Read when torch is imported, so it stands here; the user's own setting wins.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def __getattr__(name: str) -> Any:
    """`unigen.train` and `unigen.sample`, for notebooks: the top floor of this house, imported when they are used."""
    if name in ("train", "sample"):
        return getattr(importlib.import_module("unigen.tools.notebook"), name)
    raise AttributeError(f"module 'unigen' has no attribute '{name}'")
