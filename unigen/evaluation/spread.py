"""The spread of scores over several draws of the same items.

A benchmark draws an item several times with other noise (`evaluation.images`), or with other in-context examples and
the same noise (`evaluation.examples`). The mean over all draws does not show how much a score depends on either.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

OVER = {"over_examples": ("examples", "draws of the examples"), "over_noise": ("seed", "draws of the noise")}


def spreads(records: Sequence[Mapping[str, Any]], scores: Sequence[float] | None, better: str) -> dict[str, Any]:
    """Return a metric's spreads {"over_examples": ..., "over_noise": ...}, each only if there are several draws.

    `records` are those of a gallery, in the order of `scores`: {item, seed, examples (0 if absent)}. A spread holds
    `draws`, their number; `deviation`, the standard deviation of an item's score over the draws, averaged over items;
    `values`, the mean over items for each draw, in order; `best` and `worst` of these. Items that lack a draw, as after
    a killed evaluation, are left out. The result is {} for a metric without scores of single images, and if a score is
    not finite.
    """
    if not scores or not all(map(math.isfinite, scores)):
        return {}
    found = {}
    for name, (key, _) in OVER.items():
        other = next(k for k, _ in OVER.values() if k != key)
        cells: dict[Any, dict[int, float]] = {}
        for record, score in zip(records, scores, strict=True):
            cells.setdefault((record["item"], record.get(other, 0)), {})[record.get(key, 0)] = score
        draws = sorted({draw for cell in cells.values() for draw in cell})
        whole = [cell for cell in cells.values() if len(cell) == len(draws)]
        if len(draws) > 1 and whole:
            found[name] = _spread(whole, draws, better)
    return found


def _spread(cells: Sequence[Mapping[int, float]], draws: Sequence[int], better: str) -> dict[str, Any]:
    """Return the spread over one factor; each of `cells` holds the scores of one item by draw, all else equal."""
    values = [fmean(cell[draw] for cell in cells) for draw in draws]
    first, last = (max, min) if better == "higher" else (min, max)
    deviation = fmean(stdev(cell.values()) for cell in cells)
    return {"draws": len(draws), "deviation": deviation, "values": values, "best": first(values), "worst": last(values)}


def print_spreads(console: Console, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a table for each factor that was drawn several times: mean, deviation of an item, worst and best draw."""
    for name, (_, what) in OVER.items():
        rows = {metric: score[name] for metric, score in metrics.items() if name in score}
        if not rows:
            continue
        draws = next(iter(rows.values()))["draws"]
        table = Table(title=f"the same items in {draws} {what}, all else equal", title_justify="left", title_style="")
        table.add_column("metric")
        for column in ("mean", "deviation of an item", "worst draw", "best draw"):
            table.add_column(column, justify="right")
        for metric, of in rows.items():
            numbers = (fmean(of["values"]), of["deviation"], of["worst"], of["best"])
            table.add_row(metric, *(f"{number:.4f}" for number in numbers))
        console.print(table)
