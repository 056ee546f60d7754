"""Simulated sweeps for tests of statistics: four arms, three metrics, 128 items in 73 clusters, seeds that arms share.

The shape is that of RealGeneral's Table 4 on the bundled glyphs. Shapes: S seeds, N items.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from unigen.evaluation.clusters import Clusters
from unigen.evaluation.verdicts import Arm

ITEMS, BASES, ARMS, METRICS = 128, 73, 4, 3
OWNERS = np.random.default_rng(7).permutation(np.r_[np.arange(BASES), np.random.default_rng(8).integers(0, BASES, 55)])
CLUSTERS = Clusters(("base glyph",), (tuple(map(str, OWNERS)),))


class Case(NamedTuple):
    """Standard deviations: of what a seed does to an arm, of what a cluster does in an arm (`lasting`: under all seeds,
    `passing`: under one), of each score. `unequal` is how many times more the last arm's seeds vary."""

    seeds: float = 0.0
    lasting: float = 0.0
    passing: float = 0.0
    noise: float = 0.05
    unequal: float = 1.0


CASES = {
    "seeds": Case(seeds=0.02, noise=0.02),
    "items": Case(passing=0.1, noise=0.1),
    "arms x items": Case(seeds=0.002, lasting=0.1),
    "seeds, one arm more": Case(seeds=0.01, noise=0.02, unequal=5.0),
    "all": Case(seeds=0.01, lasting=0.03, passing=0.03),
}


def sweep(draw: np.random.Generator, case: Case, seeds: int, lead: float = 0.0) -> Iterator[list[np.ndarray]]:
    """For each metric the arms' scores, (S, N); the first arm is the reference, and the others lead it by `lead`."""
    for _ in range(METRICS):
        hard_N, common_S1 = draw.normal(0.5, 0.2, ITEMS), draw.normal(0, 0.03, (seeds, 1))
        arms = []
        for arm in range(ARMS):
            own_S1 = draw.normal(0, case.seeds * (case.unequal if arm == ARMS - 1 else 1), (seeds, 1))
            lasting_N = draw.normal(0, case.lasting, BASES)[OWNERS]
            passing_SN = draw.normal(0, case.passing, (seeds, BASES))[:, OWNERS]
            noise_SN = draw.normal(0, case.noise, (seeds, ITEMS))
            arms.append(hard_N + common_S1 + own_S1 + lasting_N + passing_SN + noise_SN + lead * (arm > 0))
        yield arms


def as_arm(scores_SN: np.ndarray) -> Arm:
    return Arm({s: float(x.mean()) for s, x in enumerate(scores_SN)}, dict(enumerate(scores_SN)), CLUSTERS)


def pairs(draw: np.random.Generator, case: Case, seeds: int, lead: float = 0.0) -> list[tuple[Arm, Arm]]:
    """All that a sweep compares: each arm against the reference by each metric, nine differences."""
    found = []
    for arms in sweep(draw, case, seeds, lead):
        reference, *others = map(as_arm, arms)
        found += [(other, reference) for other in others]
    return found
