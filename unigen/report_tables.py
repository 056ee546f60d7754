"""What every form of the report prints: plain tables of plain text, and how numbers become text."""

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from unigen.report_runs import number, shown

ARROWS = {"higher": " ↑", "lower": " ↓"}


class Cell(NamedTuple):
    """Plain text (escaping is the printer's work), the number to sort by (None: last), and whether it stands out."""

    text: str
    sort: float | None = None
    bold: bool = False


class Table(NamedTuple):
    """`foot` rows stay at the bottom when the rows are sorted; `terminal` tables are printed there too."""

    title: str
    header: list[str]
    rows: list[list[Cell]]
    foot: list[list[Cell]]
    notes: list[str]
    terminal: bool = False

    @property
    def words(self) -> bool:
        """Whether it holds no numbers: set flush left."""
        return not any(cell.sort is not None for row in self.rows for cell in row)


def footnotes(flagged: dict[int, str]) -> tuple[dict[int, str], list[str]]:
    """Of rows whose numbers are not comparable, with the reason: a mark for each row, and the notes for the marks."""
    reasons = {reason: i for i, reason in enumerate(dict.fromkeys(flagged.values()), start=1)}
    notes = [f"[{i}] Numbers under different protocols are not comparable: {reason}." for reason, i in reasons.items()]
    return {row: f" [{reasons[reason]}]" for row, reason in flagged.items()}, notes


def places(values: Sequence[object]) -> int:
    """The decimals of the longest number."""
    return max((0, *(-Decimal(shown(x)).as_tuple().exponent for x in values if number(x) is not None)))


def printed(values: Sequence[object]) -> list[Cell]:
    """A published column with the decimals of its longest number, as papers print them (0.650, not 0.65)."""
    numbers, texts = map(number, values), ("–" if value is None else shown(value) for value in values)
    count = places(values)
    return [Cell(t if x is None else f"{x:.{count}f}", x) for t, x in zip(texts, numbers, strict=True)]


def decimals(unit: float) -> int:
    """How many decimals show two digits of a positive uncertainty: 0.0134 -> 3."""
    return min(max(1 - math.floor(math.log10(unit)), 0), 9)
