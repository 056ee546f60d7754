"""The answer to what a table asks: for each metric, which arms are better than the reference, equal to it, or open.

Every word, marker and table cell of a report about a difference comes from here, and so from one verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from unigen.core.intervals import decimals, rounded
from unigen.evaluation.agreement import named
from unigen.evaluation.arms import metric_directions
from unigen.evaluation.compared import Family, Interval, Measured, interval
from unigen.evaluation.verdicts import Verdict
from unigen.evaluation.views import View, agrees, state

ROUNDING = 1e-12
ALONE = "There is one arm; nothing is compared."


class Line(NamedTuple):
    """One arm: its mean, its verdict against the reference (None for the reference, and for what is not compared).

    `state` is one of reference, better, worse, higher, lower, equal, open, or "" for an arm that is not compared.
    """

    arm: str
    mean: Interval | None
    verdict: Verdict | None
    state: str
    published: float | None


class Answer(NamedTuple):
    """The answer on one metric. `paper` is the published column beside it, "" for none."""

    view: View
    paper: str
    metric: str
    better: str
    lines: list[Line]

    @property
    def against(self) -> str:
        return self.view.against.label

    @property
    def title(self) -> str:
        said = (
            f"{self.better} is better"
            if self.better in ("higher", "lower")
            else "it is not known which values are better"
        )
        named = self.paper and self.view.has_published
        return f"{self.metric} ({said}{f'; published as {self.paper}' if named else ''})"


def answers(found: Sequence[View], family: Family, measured: Measured) -> list[Answer]:
    """Return an answer for each view and each metric that it asks about, if any arm has the metric."""
    made = []
    for view in found:
        directions = metric_directions(view.arms)
        for paper, metric in view.asked():
            lines, better = [], directions[metric]
            for i, arm in enumerate(view.arms):
                verdict = None if i == view.reference else family.of(arm, view.against, metric)
                scored = measured.get((arm.label, metric))
                kind = "reference" if i == view.reference else state(verdict, better)
                mean = interval(scored) if scored else None
                lines.append(Line(arm.label, mean, verdict, kind, view.published_difference(arm, paper)))
            if any(line.mean for line in lines):
                made.append(Answer(view, paper, metric, better, lines))
    return made


def more_seeds(verdict: Verdict) -> int | None:
    """Return how many seeds an arm lacks for 80 % power; None if that is not known, or if they are there already."""
    return None if verdict.seeds_needed is None else max(verdict.seeds_needed - verdict.shared, 0) or None


def against_published(line: Line) -> str:
    """Return how a difference compares with the published one, "" if that is not known."""
    if line.verdict is None or line.published is None:
        return ""
    if not line.verdict.resolved:
        return "open" if line.state == "open" else "equal here" if line.published else "as published"
    if not line.published:
        return "published as equal"
    return "as published" if agrees(line.verdict, line.published) else "opposite"


# words --------------------------------------------------------------------------------------------------------------


def missing(verdict: Verdict) -> str:
    """Return what an open difference lacks, as part of a sentence."""
    if verdict.why:
        return verdict.why
    if identical(verdict):
        return "the same scores under all seeds"
    if verdict.seeds_needed is None:
        return "more items, not seeds" if verdict.spread else "more seeds"
    more = more_seeds(verdict)
    return f"{more} more seed{'s' if more > 1 else ''}" if more else "undecided at this number of seeds"


def identical(verdict: Verdict) -> bool:
    """Return True if two arms have the same scores, up to rounding: what they differ in then has no effect."""
    return verdict.half is not None and max(abs(verdict.difference), verdict.half) < ROUNDING


def size(verdict: Verdict, sign: str = "") -> str:
    """Return a difference with its interval as text."""
    value = rounded(verdict.difference if sign else abs(verdict.difference), verdict.half, sign)
    return value if verdict.half is None else f"{value} ± {rounded(verdict.half, verdict.half)}"


def one_line(line: Line) -> str:
    """Return what the forest plot says beside a marker."""
    if line.verdict is None:
        return line.state
    if line.state == "open":
        return f"cannot tell: {missing(line.verdict)}"
    return f"equal within ± {margin(line.verdict)}" if line.state == "equal" else line.state


def margin(verdict: Verdict) -> str:
    return f"{verdict.margin:.{decimals(verdict.margin)}f}" if verdict.margin else "0"


def sentences(answer: Answer) -> list[str]:
    """Return the answer in sentences: what is better, worse and equal, and what cannot be told yet."""
    if len(answer.lines) == 1:
        return [ALONE]
    groups: dict[str, list[Line]] = {}
    for line in answer.lines:
        groups.setdefault(line.state, []).append(line)
    said = []
    for kind in ("better", "higher", "worse", "lower"):
        if lines := groups.get(kind):
            each = [f"{named(line.arm)} by {size(line.verdict)}" for line in lines]
            said.append(f"{kind.capitalize()} than {named(answer.against)}: {', '.join(each)}.")
    if lines := groups.get("equal"):
        each = [f"{named(line.arm)} within ± {margin(line.verdict)}" for line in lines]
        said.append(f"Equal to {named(answer.against)}: {', '.join(each)}.")
    if lines := groups.get("open"):
        each = [f"{named(x.arm)} ({size(x.verdict, '+')}; {missing(x.verdict)})" for x in lines]
        said.append(f"Cannot yet be told from {named(answer.against)}: {', '.join(each)}.")
    if lines := groups.get(""):
        measured = any(line.mean for line in answer.lines if line.state == "reference")
        lacks = "" if measured else f" ({named(answer.against)}, the reference, has no {answer.metric})"
        said.append(f"Not compared: {', '.join(named(line.arm) for line in lines)}{lacks}.")
    return said + agreement(answer)


def agreement(answer: Answer) -> list[str]:
    """Return a sentence on how many published differences are found here; none without published differences."""
    asked = [line for line in answer.lines if line.verdict and line.published is not None]
    if not asked:
        return []
    found = Counter(against_published(line) for line in asked)
    kinds = ("as published", "opposite", "published as equal", "equal here", "open")
    each = [f"{found[kind]} {kind}" for kind in kinds if found[kind]]
    return [f"Of {len(asked)} published difference{'s' if len(asked) > 1 else ''}: {', '.join(each)}."]


def summary(found: Sequence[Answer]) -> str:
    """Return the answer of the whole page in a sentence or two."""
    told_of = [line for answer in found for line in answer.lines if line.verdict]
    if len({line.arm for answer in found for line in answer.lines}) == 1:
        return ALONE
    if not told_of:
        return "Nothing is compared here: there are no two arms of one protocol with a metric in common."
    count = Counter("resolved" if line.verdict.resolved else line.state for line in told_of)
    against = " or ".join(dict.fromkeys(answer.against for answer in found))
    words = {"resolved": "resolved", "equal": "equal within the margin", "open": "open"}
    found_of = {word: count[kind] for kind, word in words.items() if count[kind]}
    parts = [f"{number} {'is' if number == 1 else 'are'} {word}" for word, number in found_of.items()]
    said = f"Of {len(told_of)} difference{'s' if len(told_of) > 1 else ''} to {against}, {', '.join(parts)}."
    lacking = [line.verdict for line in told_of if line.state == "open"]
    needed = [more for verdict in lacking if (more := more_seeds(verdict))]
    if any(verdict.why == "one seed" for verdict in lacking):
        said += " One seed cannot separate arms: run two seeds or more."
    elif lacking and all(verdict.why for verdict in lacking):
        said += f" What is open cannot be tested: {', '.join(dict.fromkeys(verdict.why for verdict in lacking))}."
    elif needed:
        counts = " to ".join(map(str, dict.fromkeys((min(needed), max(needed)))))
        said += f" {counts} more seeds of each arm are expected to settle {len(needed)} of the open ones (80 % power)."
    return said
