"""Metrics of a few fixed validation samples at every validation: a fast tier beside the loss."""

from collections.abc import Mapping
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from unigen.build import build
from unigen.config import ConfigError
from unigen.evaluation import Shown, scored
from unigen.pipeline import Pipeline
from unigen.places import together
from unigen.types import Batch, rows_of
from unigen.weights import Unavailable


class FastMetrics:
    """`validation.metrics`, names of the run's metrics, over the first `validation.items` of the validation samples.

    The samples are spread evenly over the batches that are validated, so that all forms of a grid have their share;
    `items` null: all of them. They and their noise (`evaluation.seed` and the sample's key) are the same at every
    validation and in every arm. Only values are kept: bounds do not change in training.
    Raises ConfigError for a name that is none of the run's metrics, and for less than one item.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        asked, known = config["validation"]["metrics"] or (), config["metric"]
        if unknown := [name for name in asked if name not in known]:
            raise ConfigError(
                f"validation.metrics names '{unknown[0]}', which is no metric of this run; there are: "
                f"{', '.join(known) or 'none'} (metric=[...] chooses)"
            )
        self.items = config["validation"]["items"]
        if self.items is not None and self.items < 1:
            raise ConfigError(f"validation.items={self.items} must be at least 1, or null for all")
        self.metrics = {name: build(known[name]) for name in asked}
        self.seed = config["evaluation"]["seed"]
        self._begin()

    def check(self) -> None:
        """Raises ConfigError, before any training, if a metric's weights or library are not here."""
        for name, metric in self.metrics.items():
            try:
                dict(metric.protocol)
            except Unavailable as error:
                raise ConfigError(f"validation.metrics: {name} is absent: {error}") from error

    def _begin(self) -> None:
        self._taken = 0
        self._outputs: list[Tensor] = []
        self._shown = Shown()

    def take(self, pipeline: Pipeline, batch: Batch, batches: int) -> None:
        """Sample this batch's share, one in `batches` batches."""
        if not self.metrics:
            return
        share = len(batch) if self.items is None else min(-(-self.items // batches), self.items - self._taken)
        few = rows_of(batch, range(min(share, len(batch))))
        if not len(few):
            return
        self._taken += len(few)
        self._outputs.append(together(pipeline.sample(few, self.seed), self._shown.add(few)).cpu())

    def scores(self) -> dict[str, float]:
        """{metric: value} of what was taken, which is then forgotten. What is not finite is said and left out."""
        if not self._taken:
            return {}
        references, output, found = self._shown.references(), torch.cat(self._outputs), {}
        places = self._shown.places
        self._begin()
        for name, metric in self.metrics.items():
            try:
                value, why = scored(metric, output, references, places)[0], "not finite"
            except Unavailable as error:  # of a set of pictures that is too small, for one
                value, why = None, str(error)
            if value is None:
                Console(stderr=True).print(f"val/{name} is absent: {why}", soft_wrap=True, markup=False)
            else:
                found[name] = value
        return found
