"""Shortens the trace of a model with many equal blocks: a few are traced, and one of them counts for the others.

A sequence of equal blocks costs as much as its first, its last and n - 2 equal ones between them. The conditions under
which that is exact are checked: the blocks have the same modules, settings, shapes and trained parameters and share
none (`likeness`), they get inputs of the same shapes, and two of them in a row compute and keep the same amount.
"""

import enum
from collections.abc import Hashable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

# The traced units of a run: the first, whose inputs may need no gradient; the one that counts for those left out; one
# to compare it with; and the last, in which most memory is used.
TRACED = 4
OWN_NAME = "target_name"  # the key under which peft stores the place of a layer in the model
SCALARS = (bool, int, float, str, bytes, type(None), enum.Enum, torch.dtype, torch.device)


class Run(NamedTuple):
    """A run of equal blocks. `units` are the first blocks of the four traced units; `left_out` more units would follow
    the second."""

    units: tuple[nn.Module, ...]
    left_out: int


def shortened(blocks: Sequence[nn.Module], every: int) -> tuple[list[nn.Module], list[Run]]:
    """Return the blocks to trace, and the runs that they stand for.

    A unit is `every` blocks, of which the first is recomputed. Whole units are left out, so that the blocks behind them
    are recomputed as before.
    """
    kept: list[nn.Module] = []
    runs = []
    for _, group in groupby(blocks, key=likeness):
        alike = list(group)
        left_out = len(alike) // every - TRACED
        if left_out > 0 and _share_nothing(alike):
            alike = [*alike[: TRACED * every], *alike[(TRACED + left_out) * every :]]
            runs.append(Run(tuple(alike[i * every] for i in range(TRACED)), left_out))
        kept += alike
    return kept, runs


def likeness(block: nn.Module) -> Hashable:
    """Return a key that is equal for blocks that do the same work.

    It holds the modules, their settings, and which parameters are trained and shared inside. A setting of an unknown
    type equals only itself, so blocks that have one are traced one by one.
    """
    numbers: dict[int, int] = {}
    return tuple(
        (name, type(module), _settings(module), tuple(_tensors(module, numbers)))
        for name, module in block.named_modules(remove_duplicate=False)
    )


def _tensors(module: nn.Module, numbers: dict[int, int]) -> Iterator[Hashable]:
    for name, x in (*module._parameters.items(), *module._buffers.items()):
        if x is None:
            yield name, None
        else:
            number = numbers.setdefault(id(x), len(numbers))
            yield name, type(x), number, tuple(x.shape), x.stride(), x.dtype, x.requires_grad


def _settings(module: nn.Module) -> Hashable:
    own = {"_parameters", "_buffers", "_modules"}
    return tuple((key, _plain(value)) for key, value in sorted(vars(module).items()) if key not in own)


def _plain(value: Any) -> Hashable:
    """Return a hashable that compares a plain value by type and content (True is not 1), any other by identity."""
    if isinstance(value, SCALARS):
        return type(value), value
    if isinstance(value, (list, tuple)):
        return type(value), tuple(map(_plain, value))
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(map(_plain, value))
    if isinstance(value, dict):
        return type(value), tuple((_plain(key), _plain(item)) for key, item in value.items() if key != OWN_NAME)
    return type(value), id(value)


def _share_nothing(blocks: Sequence[nn.Module]) -> bool:
    own = [{id(p) for p in block.parameters()} for block in blocks]
    return len(set().union(*own)) == sum(map(len, own))


class Unsteady(Exception):
    """Raised if blocks that look alike have not done the same work, so that each has to be traced."""


class Counter:
    """Counts the second unit of a run for the units left out, while four are traced; it tells `recorder` what to add.

    The forward hooks tell the units apart. When the last one begins, the storages that the second has made and that
    are still alive count `left_out` times more, until the backward of the last one is over. The second unit's FLOPs are
    multiplied likewise, forward and backward.
    """

    def __init__(self, run: Run, recorder: Any) -> None:
        self.run, self.recorder = run, recorder
        self.begun: list[tuple[Any, ...]] = []  # for each unit: inputs' shapes, bytes now, FLOPs, storages so far
        self.ended: list[tuple[int, int]] = []  # at the end of the last units' backward: bytes, FLOPs
        self.extra = self.spent = 0  # bytes of the units left out; FLOPs of one unit's backward

    def watch(self) -> list[Any]:
        """Add hooks for a forward; remove them before its backward, which may call the blocks again."""
        return [unit.register_forward_pre_hook(self._begin, with_kwargs=True) for unit in self.run.units]

    def _begin(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        r = self.recorder
        shapes = [(tuple(x.shape), x.dtype, x.requires_grad) for x in given]
        self.begun.append((shapes, r.now, r.flops, r.made))
        graded = [x for x in given[:2] if x.requires_grad]
        if len(self.begun) > 1 and graded:  # once the gradient of a unit's input exists, its backward is over
            graded[0].register_hook(self._end)
        if len(self.begun) == TRACED:
            self._multiply()

    def _multiply(self) -> None:
        first, last, compared = self._between(1), self._between(2), self.begun[1][0] == self.begun[2][0]
        if first != last or not compared or self.begun[3][0] != self.begun[2][0]:
            raise Unsteady
        flops, grown = first
        r, times = self.recorder, self.run.left_out
        if grown != r.alive(self.begun[1][3], self.begun[2][3]):
            raise Unsteady
        r.flops += flops * times
        r.multiply(self.begun[1][3], self.begun[2][3], times)

    def _between(self, unit: int) -> tuple[int, int]:
        """Return the FLOPs of a unit's forward, and the bytes by which memory has grown."""
        (_, now, flops, _), (_, later, more, _) = self.begun[unit : unit + 2]
        return more - flops, later - now

    def _end(self, gradient: Tensor) -> None:
        """Count the backward; called when the backward of the last unit is over, then of the third, then of the second.

        A recomputation may begin before the gradient that starts it is complete, so two units work between two calls.
        Between the first two calls these do not include the first unit, which may be smaller, so this interval is the
        one that is multiplied; in it, all units that are left out would still be in memory.
        """
        r, times = self.recorder, self.run.left_out
        if not self.ended:
            self.extra = r.divide(self.begun[1][3], self.begun[2][3])
            r.restart_high()
        self.ended.append((r.now, r.flops))
        if len(self.ended) == 2:
            (before, start), (after, end) = self.ended
            if (before - after) * times != self.extra:
                raise Unsteady
            self.spent = end - start
            r.peak = max(r.peak, r.high + self.extra)
            r.flops += self.spent * times
            self.ended[1] = after, r.flops
        elif len(self.ended) == 3 and r.flops - self.ended[1][1] != self.spent:
            raise Unsteady
