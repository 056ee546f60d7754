"""unigen: unified image generation by visual in-context learning (RealGeneral, VisualCloze and their crosses)."""

import os

__version__ = "0.1.0"

# OpenMP threads spin at barriers for milliseconds before they sleep. On two cores, one of them busy with something
# else, a mini training step then took minutes instead of 0.05 s; after a short spin it takes 0.14 s, and loses nothing
# on an idle machine. Read when torch is imported, so it stands here; the user's own setting wins.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
