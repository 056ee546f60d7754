"""What held-out items and seeds of training leave open: a bootstrap over both, of means and of paired differences.

Items and seeds are crossed: every run of a protocol is measured on the same items with the same noise. Each resample
draws seeds and items with replacement, independently, and averages the crossing (the pigeonhole bootstrap; Owen 2007,
arXiv:0712.1111). Shapes: R resamples, S seeds, N items.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from unigen.report_arms import HASH, Arm, by_seed, incomparable, metric_directions
from unigen.report_evaluations import scores_of
from unigen.report_tables import ARROWS, Cell, Table, decimals

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 2000
Scores = Mapping[int, "np.ndarray"]  # seed -> (N,)
HOW = (
    f"Intervals: 2.5 % and 97.5 % of {RESAMPLES:,} resamples, each with items and seeds drawn with replacement and "
    "independently; the same draws for all arms, and the same items and seeds on both sides of a difference."
)
FEW = (
    "Where seeds of training matter more than items, this interval is too narrow: a resample of n seeds has (n - 1) / "
    "n of their variance, and takes it for known. Where it disagrees with the smallest resolvable difference of the "
    "seeds, the wider one counts."
)
INSIDE = "≈: 0 lies inside the interval of the difference, so these runs do not tell the two arms apart."
ONE = "One seed: the interval is over items only and says nothing of other seeds of training."


class Bounds(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    def cells(self, sign: str = "") -> list[Cell]:
        places = decimals(self.high - self.low) if self.high > self.low else 3
        show = f"{sign}.{places}f"
        return [Cell(f"{self.value:{show}}", self.value), Cell(f"[{self.low:{show}}, {self.high:{show}}]", self.low)]


@functools.cache
def shares(count: int, stream: int) -> np.ndarray:
    """(R, count) of how large a share each of `count` has in each resample; `stream` keeps items and seeds apart."""
    import numpy as np

    draw = np.random.default_rng([count, stream])
    return draw.multinomial(count, [1 / count] * count, size=RESAMPLES) / count


def resampled(scores: Scores, stream: int = 1) -> np.ndarray:
    """(R,) means over resampled seeds and items."""
    import numpy as np

    x_SN = np.stack([scores[seed] for seed in sorted(scores)])
    return ((shares(x_SN.shape[1], 0) @ x_SN.T) * shares(len(x_SN), stream)).sum(axis=1)


def bounds(value: float, means_R: np.ndarray) -> Bounds:
    import numpy as np

    low, high = np.quantile(means_R, (0.025, 0.975))
    return Bounds(value, float(low), float(high))


def mean(scores: Scores) -> Bounds:
    """The mean over seeds and items."""
    return bounds(float(sum(x.mean() for x in scores.values()) / len(scores)), resampled(scores))


def difference(first: Scores, second: Scores) -> tuple[Bounds, int]:
    """First minus second, item by item over the seeds that both have, and how many those are.

    Without a shared seed (0) seeds are drawn for each arm by itself; items stay paired.
    """
    shared = sorted(set(first) & set(second))
    if shared:
        return mean({seed: first[seed] - second[seed] for seed in shared}), len(shared)
    means_R = resampled(first) - resampled(second, stream=2)
    return bounds(mean(first).value - mean(second).value, means_R), 0


# tables ---------------------------------------------------------------------------------------------------------------


def bootstrap_table(arms: list[Arm], reference: int) -> Table:
    """Every metric of every arm with scores, and its difference to the arm `reference`; no row without any scores."""
    kept, notes = usable(arms)
    flagged = {i for i in incomparable(arms) if i != reference}
    if flagged:
        names = ", ".join(arms[i].label for i in sorted(flagged))
        notes.append(f"Under another protocol than {arms[reference].label} or among themselves, not compared: {names}.")
    if reference in incomparable(arms):
        notes.append(f"{arms[reference].label} has no protocol that other arms share: nothing is compared with it.")
        flagged = set(range(len(arms)))
    rows, counts = [], set()
    for name, better in metric_directions(arms).items():
        for i, arm in enumerate(arms):
            if scores := kept.get((i, name)):
                other = None if i in flagged or i == reference else kept.get((reference, name))
                counts.add(len(scores))
                rows.append([Cell(name + ARROWS.get(better, "")), Cell(arm.label), *row(scores, other, better)])
                if i == reference:
                    rows[-1][-1] = Cell("reference")
    header = ["metric", "arm", "mean", "95 % interval", f"minus {arms[reference].label}" if arms else "difference"]
    header += ["95 % interval", "seeds", "in both", "items", "verdict"]
    said = {INSIDE: True, HOW: True, FEW: any(1 < count <= 10 for count in counts), ONE: 1 in counts}
    notes = [*(note for note, holds in said.items() if holds and rows), *notes]
    return Table("Bootstrap over items and seeds", header, rows, [], notes)


def row(scores: Scores, other: Scores | None, better: str) -> list[Cell]:
    """Mean, difference, counts and verdict. Arms of different items are not compared."""
    seeds, items = Cell(str(len(scores)), len(scores)), len(next(iter(scores.values())))
    counted = Cell(f"{items:,}", items)
    if other is None or len(next(iter(other.values()))) != items:
        return [*mean(scores).cells(), Cell("–"), Cell("–"), seeds, Cell("–"), counted, Cell("–")]
    gap, shared = difference(scores, other)
    told = gap.low > 0 or gap.high < 0
    words = {"higher": ("better", "worse"), "lower": ("worse", "better")}.get(better, ("higher", "lower"))
    verdict = Cell("≈" if not told else words[gap.value < 0], bold=told)
    return [*mean(scores).cells(), *gap.cells("+"), seeds, Cell(str(shared), shared), counted, verdict]


def usable(arms: list[Arm]) -> tuple[dict[tuple[int, str], dict[int, np.ndarray]], list[str]]:
    """(arm, metric) -> scores by seed, and a sentence for what is left out."""
    import numpy as np

    kept: dict[tuple[int, str], dict[int, np.ndarray]] = {}
    without: dict[str, list[str]] = {}
    for i, arm in enumerate(arms):
        values = {name: by_seed(arm, name) for name in metric_directions([arm])}
        for run in arm.runs:
            try:
                found, why = scores_of(run), "no scores.jsonl"
            except ValueError as error:
                found, why = {}, str(error)
            if not found:
                without.setdefault(why, []).append(run.folder)
            for name, told in values.items():
                scores = found.get(name.partition(HASH)[0], [])
                value = told.get(run.summary["seed"])
                if value is None or not scores or None in scores:
                    continue
                if not math.isclose(sum(scores) / len(scores), value, rel_tol=1e-4, abs_tol=1e-9):
                    without.setdefault(f"scores.jsonl and summary.json disagree on {name}", []).append(run.folder)
                    continue
                kept.setdefault((i, name), {})[run.summary["seed"]] = np.array(scores)
    same = {key: scores for key, scores in kept.items() if len({len(x) for x in scores.values()}) == 1}
    for i, name in kept.keys() - same.keys():
        without.setdefault(f"{name} of other numbers of items under other seeds", []).append(arms[i].label)
    return same, [f"Not in this table, {why}: {', '.join(who)}." for why, who in without.items()]


def reference_arm(arms: Sequence[Arm], order: Sequence[str], named: str | None) -> int:
    """The arm that others are compared with: the one `named`, else the table's last row that has runs, else the first.

    Raises ValueError if no arm has that name.
    """
    names = [arm.runs[0].summary["name"] for arm in arms]
    if named is not None:
        labels = [arm.label for arm in arms]
        if named not in names + labels:
            raise ValueError(f"reference={named} is no arm of this report; its arms are {', '.join(labels) or 'none'}")
        return labels.index(named) if named in labels else names.index(named)
    return next((names.index(name) for name in reversed(order) if name in names), 0)
