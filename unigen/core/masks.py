"""Masks as tables that say with four words which role attends to which, and functions of such tables.

`rows[query_role][key_role]` is "all", "same" (only the query's own segment), "earlier" (the segments of the query's own
turn and of earlier ones, `Segment.turn`) or "none". `bias[query_role][key_role]` is the strength with which it does: a
factor of the attention weights before they are normalised, 1 where it says nothing.
Shapes: Lq query tokens, Lk key tokens, S segments.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from unigen.core.layout import Layout, Segment, kept, one_object

WORDS = ("all", "same", "earlier", "none")
TIMINGS = ("own", "shared")


@dataclass(frozen=True, init=False)
class Mask:
    """A table that says which role attends to which (RealGeneral Eqs. 6-7 and Figure 4 show four). It is hashable."""

    name: str
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    bias: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]

    def __init__(
        self,
        name: str,
        rows: Mapping[str, Mapping[str, str]],
        bias: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        for query, row in rows.items():
            if not isinstance(row, Mapping):
                raise ValueError(f"mask '{name}': rows.{query} is {row!r}; legal is a word for each role of the keys")
            for key, word in row.items():
                if word not in WORDS:
                    raise ValueError(f"mask '{name}': rows.{query}.{key} is {word!r}; legal are {', '.join(WORDS)}")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "rows", tuple((q, tuple(row.items())) for q, row in rows.items()))
        object.__setattr__(self, "bias", _checked_bias(name, rows, bias or {}))

    def check(self, roles: tuple[str, ...], source: str) -> None:
        """Raise ValueError unless every role of `roles` has a row and a column."""
        rows = {q: dict(row) for q, row in self.rows}
        for role in roles:
            if role not in rows:
                raise ValueError(
                    f"mask '{self.name}' has no row for role '{role}' (from {source}); it knows {', '.join(rows)}"
                )
        for role in roles:
            for key in roles:
                if key not in rows[role]:
                    raise ValueError(
                        f"mask '{self.name}': row '{role}' has no column for role '{key}' (from {source}); "
                        f"it knows {', '.join(rows[role])}"
                    )

    def without_queries(self, role: str) -> "Mask":
        """Return the table for a role whose tokens are keys only: a segment of it is influenced by itself alone."""
        rows = {query: dict(row) for query, row in self.rows}
        rows[role] = {key: "same" if key == role else "none" for key in rows[role]}
        return Mask(self.name, rows, {query: dict(row) for query, row in self.bias})

    def log_bias(self, query: Segment, key: Segment) -> float:
        """Return what is added to the scores between these segments, the logarithm of the strength."""
        return math.log(dict(dict(self.bias).get(query.role, ())).get(key.role, 1.0))

    def sees(self, query: Segment, key: Segment) -> bool:
        """Return whether tokens of segment `query` attend to tokens of segment `key`."""
        match self.word(query, key):
            case "same":
                return query.name == key.name
            case "earlier":
                return key.turn <= query.turn
            case word:
                return word == "all"

    def word(self, query: Segment, key: Segment) -> str:
        """Return the word of the table for these segments' roles."""
        return dict(dict(self.rows)[query.role])[key.role]


def _checked_bias(name: str, rows: Mapping, bias: Mapping) -> tuple[tuple[str, tuple[tuple[str, float], ...]], ...]:
    """Return the strengths as tuples. Raises ValueError for one that is no positive number, or of an unknown role."""
    if not isinstance(bias, Mapping):
        raise ValueError(f"mask '{name}': bias is {bias!r}; legal is a table such as {{target: {{condition: 1.5}}}}")
    for query, row in bias.items():
        if not isinstance(row, Mapping):
            raise ValueError(f"mask '{name}': bias.{query} is {row!r}; legal is a strength for each role of the keys")
        for key, strength in row.items():
            where = f"mask '{name}': bias.{query}.{key}"
            if query not in rows or key not in rows[query]:
                raise ValueError(f"{where} is of roles that the rows do not have; they have {', '.join(rows)}")
            if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 < strength < math.inf:
                advice = f"; for no attention at all write rows.{query}.{key}: none" if strength == 0 else ""
                raise ValueError(f"{where} is {strength!r}; legal are numbers above 0, 1 for no bias{advice}")
    return tuple((query, tuple((key, float(x)) for key, x in row.items())) for query, row in bias.items())


@lru_cache(maxsize=1024)
def biases(queries: Layout, keys: Layout, mask: Mask) -> tuple[tuple[float, ...], ...] | None:
    """Return what is added to the scores of each pair of segments, (S queries, S keys); None if nothing anywhere."""
    table = tuple(tuple(mask.log_bias(q, k) for k in keys.segments) for q in queries.segments)
    return table if any(map(any, table)) else None


@lru_cache(maxsize=1024)
def visible(queries: Layout, keys: Layout, mask: Mask) -> tuple[tuple[bool, ...], ...]:
    """Look the table up for each pair of segments; return (S queries, S keys) booleans."""
    return tuple(tuple(mask.sees(q, k) for k in keys.segments) for q in queries.segments)


@lru_cache(maxsize=1024)
def unrestricted(queries: Layout, keys: Layout, mask: Mask) -> bool:
    """Return whether every query attends to every key, and none has a bias."""
    return biases(queries, keys, mask) is None and all(map(all, visible(queries, keys, mask)))


@lru_cache(maxsize=1024)
def groups(queries: Layout, keys: Layout, mask: Mask) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """Return (query segments, key segments) for each distinct key set, in order of first appearance.

    Within a group nothing is masked, and a key has one bias for all queries: a kernel without a mask serves groups that
    have no bias.
    """
    found: dict[tuple[tuple[str, ...], tuple[float, ...]], list[str]] = {}
    for q, row in zip(queries.segments, visible(queries, keys, mask), strict=True):
        seen = [k for k, yes in zip(keys.segments, row, strict=True) if yes]
        alike = tuple(k.name for k in seen), tuple(mask.log_bias(q, k) for k in seen)
        found.setdefault(alike, []).append(q.name)
    return tuple((tuple(names), seen) for (seen, _), names in found.items())


@kept(maxsize=256)
def dense(queries: Layout, keys: Layout, mask: Mask) -> Tensor:
    """Return the mask token by token, boolean (Lq, Lk), True where attention is allowed. This is the reference form."""
    table = torch.tensor(visible(queries, keys, mask), dtype=torch.bool)
    return table[segment_ids(queries)][:, segment_ids(keys)]


@kept(maxsize=256)
def dense_bias(queries: Layout, keys: Layout, mask: Mask) -> Tensor:
    """Return what is added to the scores token by token, fp32 (Lq, Lk)."""
    table = torch.tensor(biases(queries, keys, mask) or 0.0).expand(len(queries.segments), len(keys.segments))
    return table[segment_ids(queries)][:, segment_ids(keys)]


def segment_ids(layout: Layout) -> Tensor:
    """Return the number of each token's segment, (L,)."""
    return torch.repeat_interleave(
        torch.arange(len(layout.segments)), torch.tensor([s.tokens for s in layout.segments], dtype=torch.long)
    )


@lru_cache(maxsize=1024)
def coarsest(layout: Layout, mask: Mask) -> Layout:
    """Return the layout with those neighbours joined to one segment that no query and no key tells apart.

    Boxes, ceilings and names of images are left out. Equal results are the very same object, so that layouts of as many
    tokens share one compilation where the mask allows: under a mask without restrictions only the length remains.
    """
    table, added = visible(layout, layout, mask), biases(layout, layout, mask)
    rows = [(row, added and added[i]) for i, row in enumerate(table)]
    columns = list(zip(*table, *(added or ()), strict=True)) if table else []
    runs: list[list[int]] = []
    for i in range(len(layout.segments)):
        if runs and rows[i] == rows[runs[-1][0]] and columns[i] == columns[runs[-1][0]]:
            runs[-1].append(i)
        else:
            runs.append([i])
    return one_object(Layout(tuple(_run(layout, number, run) for number, run in enumerate(runs))))


def _run(layout: Layout, number: int, run: list[int]) -> Segment:
    """Return one segment for those of a run: all that a mask asks of it is as in its first one."""
    first, tokens = layout.segments[run[0]], sum(layout.segments[i].tokens for i in run)
    return Segment(f"run {number}", first.role, first.stream, grid=(1, 1, tokens), turn=first.turn)


def attended_pairs(queries: Layout, keys: Layout, mask: Mask) -> int:
    """Return the number of (query, key) token pairs that attention computes, by which its FLOPs are counted."""
    table = visible(queries, keys, mask)
    return sum(
        q.tokens * k.tokens
        for q, row in zip(queries.segments, table, strict=True)
        for k, yes in zip(keys.segments, row, strict=True)
        if yes
    )


@kept(maxsize=256)
def closure(layout: Layout, mask: Mask, depth: int | None = None) -> Tensor:
    """Return which segment influences which after `depth` attention layers (None: any number), boolean (S, S).

    Entry (i, j): the output of segment i depends on the input of segment j. Residual connections
    keep every segment's own input, so this is the boolean power (I or M)^depth. Under FCD mask A
    text reaches the condition at depth 2, through the target.
    """
    count = len(layout.segments)
    once = torch.tensor(visible(layout, layout, mask), dtype=torch.bool).reshape(count, count) | torch.eye(
        count, dtype=torch.bool
    )
    reach = torch.eye(count, dtype=torch.bool)
    for _ in range(count if depth is None else depth):
        reach = (once.float() @ reach.float()) > 0
    return reach


def static_segments(layout: Layout, mask: Mask, timing: Mapping[str, str]) -> tuple[str, ...]:
    """Return the segments whose keys and values stay the same over all denoising steps, so that they may be cached.

    A segment is static if everything that ever influences it is clean (cap 0) and is modulated at
    its own time (`timing[role] == "own"`) rather than at the step's time. No configuration declares this.
    """
    reach = closure(layout, mask)
    still = [s.cap == 0 and timing[s.role] == "own" for s in layout.segments]
    return tuple(
        s.name
        for s, row in zip(layout.segments, reach.tolist(), strict=True)
        if all(ok for ok, influences in zip(still, row, strict=True) if influences)
    )
