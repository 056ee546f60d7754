"""How much the images that were drawn several times for the same items differ in their scores.

A benchmark draws an item several times under other noise (`evaluation.images`), or with other in-context examples and
the same noise (`evaluation.examples`). The mean over all of it hides which of the two a number hangs on.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

OVER = {"over_examples": ("examples", "draws of the examples"), "over_noise": ("seed", "draws of the noise")}


def spreads(records: Sequence[Mapping[str, Any]], scores: Sequence[float] | None, better: str) -> dict[str, Any]:
    """{"over_examples": ..., "over_noise": ...} of a metric, each only where there are several draws.

    records: of a gallery, in the order of `scores`: {item, seed, examples (0 where it is not said)}. Of each:
    `draws`, how many; `deviation`, the standard deviation over them of an item's score, averaged over items;
    `values`, the mean over items in each draw, in order; `best` and `worst` of these. Items that lack a draw, as those
    of a killed evaluation do, are left out. {} for a metric without scores of single images, or with one that is not
    finite.
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
    """Of one factor: `cells` are the scores of one item by draw, all else being equal."""
    values = [fmean(cell[draw] for cell in cells) for draw in draws]
    first, last = (max, min) if better == "higher" else (min, max)
    deviation = fmean(stdev(cell.values()) for cell in cells)
    return {"draws": len(draws), "deviation": deviation, "values": values, "best": first(values), "worst": last(values)}


def print_spreads(console: Console, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """A table for each factor that was drawn several times: mean, deviation within an item, worst and best draw."""
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
