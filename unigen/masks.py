"""Who attends to whom, as a table over roles with three words, and what follows from it.

`rows[query_role][key_role]` is "all", "same" (only the query's own segment) or "none".
Shapes: Lq query tokens, Lk key tokens, S segments.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from unigen.layout import Layout, Segment, kept

WORDS = ("all", "same", "none")
TIMINGS = ("own", "shared")


@dataclass(frozen=True, init=False)
class Mask:
    """A visibility table (RealGeneral Eqs. 6-7 and Figure 4 are four of them). Hashable."""

    name: str
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]

    def __init__(self, name: str, rows: Mapping[str, Mapping[str, str]]) -> None:
        for query, row in rows.items():
            for key, word in row.items():
                if word not in WORDS:
                    raise ValueError(f"mask '{name}': rows.{query}.{key} is {word!r}; legal are {', '.join(WORDS)}")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "rows", tuple((q, tuple(row.items())) for q, row in rows.items()))

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

    def sees(self, query: Segment, key: Segment) -> bool:
        """Whether tokens of segment `query` attend to tokens of segment `key`."""
        word = dict(dict(self.rows)[query.role])[key.role]
        return word == "all" or (word == "same" and query.name == key.name)


@lru_cache(maxsize=1024)
def visible(queries: Layout, keys: Layout, mask: Mask) -> tuple[tuple[bool, ...], ...]:
    """(S queries, S keys) booleans: the table looked up for each pair of segments."""
    return tuple(tuple(mask.sees(q, k) for k in keys.segments) for q in queries.segments)


@lru_cache(maxsize=1024)
def groups(queries: Layout, keys: Layout, mask: Mask) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """(query segments, key segments) for each distinct key set, in order of first appearance.

    Within a group nothing is masked, so a kernel without a mask serves it.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for q, row in zip(queries.segments, visible(queries, keys, mask), strict=True):
        seen = tuple(k.name for k, yes in zip(keys.segments, row, strict=True) if yes)
        found.setdefault(seen, []).append(q.name)
    return tuple((tuple(names), seen) for seen, names in found.items())


@kept(maxsize=256)
def dense(queries: Layout, keys: Layout, mask: Mask) -> Tensor:
    """The mask token by token, boolean (Lq, Lk), True where attention is allowed: the reference form."""
    table = torch.tensor(visible(queries, keys, mask), dtype=torch.bool)
    return table[segment_ids(queries)][:, segment_ids(keys)]


def segment_ids(layout: Layout) -> Tensor:
    """The number of each token's segment, (L,)."""
    return torch.repeat_interleave(
        torch.arange(len(layout.segments)), torch.tensor([s.tokens for s in layout.segments], dtype=torch.long)
    )


def attended_pairs(queries: Layout, keys: Layout, mask: Mask) -> int:
    """How many (query, key) token pairs attention computes: the honest count for FLOPs."""
    table = visible(queries, keys, mask)
    return sum(
        q.tokens * k.tokens
        for q, row in zip(queries.segments, table, strict=True)
        for k, yes in zip(keys.segments, row, strict=True)
        if yes
    )


@kept(maxsize=256)
def closure(layout: Layout, mask: Mask, depth: int | None = None) -> Tensor:
    """Who influences whom after `depth` attention layers (None: any number), boolean (S, S).

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
    """The segments whose keys and values stay the same over all denoising steps, so may be cached.

    A segment is static if everything that ever influences it is clean (cap 0) and is modulated at
    its own time (`timing[role] == "own"`) rather than at the step's time. Derived, never declared.
    """
    reach = closure(layout, mask)
    still = [s.cap == 0 and timing[s.role] == "own" for s in layout.segments]
    return tuple(
        s.name
        for s, row in zip(layout.segments, reach.tolist(), strict=True)
        if all(ok for ok, influences in zip(still, row, strict=True) if influences)
    )
