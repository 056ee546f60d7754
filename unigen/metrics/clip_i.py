"""CLIP-I: likeness of two pictures to CLIP (DreamBooth, arXiv:2208.12242, section 4.1)."""

from unigen.metrics.clip import Clip


class ClipI(Clip):
    """cos(f(output), f(truth)), f CLIP's vision tower."""

    name = "clip_i"
