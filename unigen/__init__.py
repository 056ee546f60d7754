"""unigen: unified image generation by visual in-context learning (RealGeneral, VisualCloze and their crosses)."""

import os

__version__ = "0.1.0"

# OpenMP's default is to spin at barriers: on two cores, with one of them busy, a training step then took 10 to 100
# times as long. Must be set before torch is imported; the user's own setting wins.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
