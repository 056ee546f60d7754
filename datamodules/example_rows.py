"""How many example rows samples have: which numbers, and how often each, in training and in the test."""

from __future__ import annotations

from collections.abc import Sequence

SPLITS = ("train", "val", "test")


def check_rows(rows: Sequence[int], where: str = "rows") -> range:
    """The legal numbers of example rows. Raises ValueError for what is not two integers in order, from 0."""
    ends = tuple(rows) if isinstance(rows, list | tuple) else ()
    if len(ends) != 2 or any(type(end) is not int for end in ends) or not 0 <= ends[0] <= ends[1]:
        raise ValueError(f"{where}={rows!r} must be [least, most], the example rows of a sample, such as [0, 2]")
    return range(ends[0], ends[1] + 1)


def row_shares_of(
    rows: Sequence[int], row_shares: Sequence[float] | None, test_rows: Sequence[int] | None
) -> dict[str, dict[int, float]]:
    """For each split {number of example rows: its share of the samples}.

    rows: the least and the most of them; row_shares: a share for each number from the least to the most, null for equal
    ones. The test has what training has, or by test_rows its own least and most, equally often.
    Raises ValueError for rows as `check_rows` does, and for shares that are not as many positive numbers.
    """
    counts = check_rows(rows)
    shares = [1.0] * len(counts) if row_shares is None else row_shares
    numbers = isinstance(shares, list | tuple) and all(type(share) in (int, float) and share > 0 for share in shares)
    if not numbers or len(shares) != len(counts):
        raise ValueError(
            f"row_shares={row_shares!r} must be {len(counts)} numbers above 0, one for each number of example rows "
            f"from {counts[0]} to {counts[-1]} (rows)"
        )
    drawn = {count: share / sum(shares) for count, share in zip(counts, shares, strict=True)}
    test = drawn if test_rows is None else dict.fromkeys(check_rows(test_rows, "test_rows"), 1.0)
    return dict(zip(SPLITS, (drawn, drawn, test), strict=True))
