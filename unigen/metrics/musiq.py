"""MUSIQ (arXiv:2108.05997): quality of a picture without a reference, 0 to 100."""

from unigen.metrics.quality import Quality


class MUSIQ(Quality):
    """pyiqa's MUSIQ, trained on KonIQ-10k."""

    name = "musiq"
    metric = "musiq"
