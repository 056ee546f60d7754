"""Reads the margin of a table: the size up to which a difference does not matter to the table's question."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from unigen.config.tree import nearest, spelt
from unigen.config.values import ConfigError

LEGAL = 'write a number, in the units of the metric, or per cent of the reference\'s mean, as in "2 %"'


class Margin(NamedTuple):
    """A margin. It is a part of the reference's mean if it is `relative`, and else in the units of the metric."""

    size: float
    relative: bool = False

    def at(self, mean: float) -> float:
        """Return the margin in the units of the metric, for a reference with this mean."""
        return self.size * abs(mean) if self.relative else self.size

    @property
    def text(self) -> str:
        return f"{100 * self.size:g} %" if self.relative else f"{self.size:g}"


def read_margins(said: object, columns: Sequence[str], where: str) -> dict[str, Margin]:
    """Return {published column: margin} of a table's `margin`: one value for all columns, a mapping, or null for none.

    Args:
        where: the key and its file, for an error.

    Raises:
        ConfigError: a value is no margin, or a key of the mapping is no column.
    """
    if said is None:
        return {}
    if not isinstance(said, dict):
        margin = _margin(said, where)
        return dict.fromkeys(columns, margin)
    for column in map(str, said):
        if column not in columns:
            close = nearest(column, columns)
            hint = f"did you mean {close[0]!r}?" if close else f"columns are {', '.join(columns)}"
            raise ConfigError(f"{where} names the column {column!r}, which the table does not have; {hint}")
    return {str(column): _margin(value, where) for column, value in said.items() if value is not None}


def _margin(value: object, where: str) -> Margin:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value) if isinstance(value, str) else None
    size = float(match[1]) / 100 if match else value
    if isinstance(size, bool) or not isinstance(size, int | float) or not math.isfinite(size) or size <= 0:
        raise ConfigError(f"{where} is {spelt(value)}, which is no margin; {LEGAL}")
    return Margin(float(size), relative=match is not None)
