"""Distance of two sets of pictures to the mini judge: KID's part at mini scale."""

from unigen.metrics.extractors import JudgeFeatures
from unigen.metrics.kid import KID


class MiniKID(KID):
    """KID in the features of the mini judge's `dino`. `judge` as in the metrics mini_*."""

    name = "mini_kid"

    def __init__(self, judge: str, subsets: int, subset_size: int) -> None:
        super().__init__(JudgeFeatures(judge, "metric.mini_kid.judge"), subsets, subset_size)
