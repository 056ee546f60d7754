"""Looks at a sweep that adds seeds until its question is answered, with the error of looking several times controlled.

A sweep says beforehand after how many seeds it looks. Each look tests at a level of its own, and these levels sum up to
ALPHA. By the inequality of Bonferroni, the chance that any look claims what is not so is then at most ALPHA, whatever
the tests are and however they depend on each other. The share that is spent grows with the square of the share of seeds
(alpha spending, Lan and DeMets 1983, with t² of Kim and DeMets 1987), so that most is left for the last look.

Boundaries that use the dependence of looks would waste less, but they are computed for normal variables: with t tests
after 4, 8, 12 and 16 seeds they spend 5.4 % instead of 5 % (tests/evaluation/test_looks.py). In return an interval at
the last look is wider than it would have to be, by 4 % if nine differences are tested and by 9 % if there is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from unigen.evaluation.verdicts import ALPHA, Verdict

ANSWERED, LIMIT = "answered", "limit"  # why a sweep stops


class Looks(NamedTuple):
    """The numbers of seeds of each arm after which a sweep looks, ascending, and the error for all of them together."""

    seeds: tuple[int, ...]
    alpha: float = ALPHA

    def spent(self, seeds: int) -> float:
        """Return the error that may be spent up to a number of seeds."""
        return self.alpha * min(seeds / self.seeds[-1], 1.0) ** 2

    def level(self, seeds: int) -> float:
        """Return the level of a look after `seeds`. Between two looks it is that of a look which was planned there;
        beyond the last look it is that of the last.
        """
        seeds = min(seeds, self.seeds[-1])
        return self.spent(seeds) - self.spent(max((each for each in self.seeds if each < seeds), default=0))

    def after(self, seeds: int) -> int | None:
        """Return the number of seeds of the next look, None after the last."""
        return next((each for each in self.seeds if each > seeds), None)


class Decision(NamedTuple):
    """The result of a look: how many differences are resolved, equal and open, and why the sweep stops, "" if it does
    not.
    """

    seeds: int
    level: float
    resolved: int
    equal: int
    open: int
    stop: str = ""


def decide(looks: Looks, seeds: int, verdicts: Sequence[Verdict]) -> Decision:
    """Return what follows from the verdicts of a look, which were made at `looks.level(seeds)`.

    A sweep stops if each difference that can be tested is resolved or equal, or at the last look. Differences that
    cannot be tested, such as those of metrics without scores of items, are no part of the question.

    Raises:
        ValueError: no difference can be tested, so no number of seeds would answer the question.
    """
    tested = [verdict for verdict in verdicts if not verdict.why]
    if not tested:
        reasons = ", ".join(dict.fromkeys(verdict.why for verdict in verdicts)) or "there is no difference to test"
        raise ValueError(f"no number of seeds answers the question of this sweep: {reasons}")
    count = Counter(verdict.state for verdict in tested)
    stop = ANSWERED if not count["open"] else "" if looks.after(seeds) else LIMIT
    return Decision(seeds, looks.level(seeds), count["resolved"], count["equal"], count["open"], stop)
