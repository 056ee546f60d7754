"""unigen: unified image generation by visual in-context learning (RealGeneral, VisualCloze and their crosses)."""

__version__ = "0.1.0"
