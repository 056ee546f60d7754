"""Plain tables of plain text, which every format of the report prints, and the formatting of numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from unigen.core.intervals import rounded
from unigen.evaluation.runs import number, shown

if TYPE_CHECKING:
    from pandas import DataFrame

ARROWS = {"higher": " ↑", "lower": " ↓"}


class Cell(NamedTuple):
    """Plain text (each format escapes it), the number to sort by (None: last), and True for bold."""

    text: str
    sort: float | None = None
    bold: bool = False


class Table(NamedTuple):
    """A table. `foot` rows stay at the bottom when rows are sorted.

    A `terminal` table is also printed there, and the page shows it open; all others are folded.
    """

    title: str
    header: list[str]
    rows: list[list[Cell]]
    foot: list[list[Cell]]
    notes: list[str]
    terminal: bool = False

    @property
    def words(self) -> bool:
        """True if the table has no numbers; it is then set flush left."""
        return not any(cell.sort is not None for row in self.rows for cell in row)

    @property
    def alignment(self) -> list[str]:
        """The alignment of each column: left for words, right for numbers."""
        return ["left", *["left" if self.words else "right"] * (len(self.header) - 1)]

    def frame(self, escape: Callable[[str], str], bold: Callable[[str], str]) -> DataFrame:
        """Return rows and foot as a DataFrame of escaped text, in which `bold` cells are marked."""
        from pandas import DataFrame

        rows = [[bold(escape(c.text)) if c.bold else escape(c.text) for c in row] for row in self.rows + self.foot]
        return DataFrame(rows, columns=[*map(escape, self.header)], dtype=object)


def footnotes(flagged: dict[int, str]) -> tuple[dict[int, str], list[str]]:
    """Return a mark for each row with a reason why it is not comparable, and the notes that explain the marks."""
    reasons = {reason: i for i, reason in enumerate(dict.fromkeys(flagged.values()), start=1)}
    notes = [f"[{i}] Numbers under different protocols are not comparable: {reason}." for reason, i in reasons.items()]
    return {row: f" [{reasons[reason]}]" for row, reason in flagged.items()}, notes


def places(values: Sequence[object]) -> int:
    """Return the number of decimals of the longest number."""
    return max((0, *(-Decimal(shown(x)).as_tuple().exponent for x in values if number(x) is not None)))


def printed(values: Sequence[object]) -> list[Cell]:
    """Return a published column, all with the decimals of its longest number, as papers print them (0.650)."""
    numbers, texts = map(number, values), ("–" if value is None else shown(value) for value in values)
    count = places(values)
    return [Cell(t if x is None else f"{x:.{count}f}", x) for t, x in zip(texts, numbers, strict=True)]


def told(value: float | None, unit: float | None = None, sign: str = "") -> Cell:
    """Return a number with two digits of its uncertainty `unit`, or with three decimals; a dash for none."""
    return Cell("–") if value is None else Cell(rounded(value, unit, sign), value)


def span(middle: float, half: float | None, sign: str = "") -> Cell:
    """Return an interval in brackets, or a dash without one."""
    if half is None:
        return Cell("–")
    low, high = (rounded(end, half, sign) for end in (middle - half, middle + half))
    return Cell(f"[{low}, {high}]", middle - half)


def p_cell(p: float | None) -> Cell:
    """Return a p value, shown as closely as a verdict needs."""
    if p is None:
        return Cell("–")
    return Cell("< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}", p)
