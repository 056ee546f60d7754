"""A memory of what frozen encoders computed, by content: images and prompts come back in every epoch.

Shapes: N items; a result is any tensor without the item axis.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor


class Memo:
    """Keeps results by key on the CPU, and drops the least recently used ones beyond `limit` bytes.

    It is only for functions without randomness. A key must identify everything that the result depends on, the
    item's shape included.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()

    def __call__(self, keys: Sequence[Hashable], compute: Callable[[list[int]], Tensor]) -> Tensor:
        """Return results (N, ...) on the CPU, in the order of `keys`; `compute(positions)` makes missing ones once."""
        missing: dict[Hashable, int] = {}
        for i, key in enumerate(keys):
            if key not in self._kept:
                missing.setdefault(key, i)
        found = {key: self._kept[key] for key in keys if key not in missing}
        for key in found:
            self._kept.move_to_end(key)
        if missing:
            found.update(zip(missing, compute(list(missing.values())).detach().cpu(), strict=True))
            for key in missing:
                self._keep(key, found[key].clone())  # a view would keep the whole batch alive
        return torch.stack([found[key] for key in keys])

    def _keep(self, key: Hashable, result: Tensor) -> None:
        self._kept[key] = result
        self.size += result.nbytes
        while self.size > self.limit and len(self._kept) > 1:
            self.size -= self._kept.popitem(last=False)[1].nbytes
