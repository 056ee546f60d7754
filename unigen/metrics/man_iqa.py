"""MAN-IQA (arXiv:2204.08958): quality of a picture without a reference, 0 to 1."""

from unigen.metrics.quality import Quality


class MANIQA(Quality):
    """pyiqa's MAN-IQA; releases before 0.1.16 drew its crops at random."""

    name = "man_iqa"
    metric = "maniqa"
