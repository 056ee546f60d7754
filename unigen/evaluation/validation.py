"""Fast metrics, which are computed beside the loss at every validation, on a few fixed validation samples."""

from collections.abc import Mapping
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from unigen.config.values import ConfigError
from unigen.core.places import together
from unigen.core.types import Batch, rows_of
from unigen.evaluation.scoring import Shown, scored
from unigen.pipeline.build import build
from unigen.pipeline.pipeline import Pipeline
from unigen.weights.loading import Unavailable


class FastMetrics:
    """Computes the run's metrics named in `validation.metrics` over `validation.items` validation samples.

    The samples are spread evenly over the validated batches, so that all forms of a grid have their share; with `items`
    null all samples are taken. They and their noise (from `evaluation.seed` and the sample's key) are the same at every
    validation and in every arm. Bounds are not computed, since they do not change in training.
    Raises ConfigError for a name that is none of the run's metrics, and for fewer than one item.
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
        """Raise ConfigError, before any training, if a metric's weights or library are missing."""
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
        """Sample this batch's share of the items; `batches` is the number of batches that are validated."""
        if not self.metrics:
            return
        share = len(batch) if self.items is None else min(-(-self.items // batches), self.items - self._taken)
        few = rows_of(batch, range(min(share, len(batch))))
        if not len(few):
            return
        self._taken += len(few)
        self._outputs.append(together(pipeline.sample(few, self.seed), self._shown.add(few)).cpu())

    def scores(self) -> dict[str, float]:
        """Return {metric: value} over the samples taken, and forget them. A value that is not finite is left out.

        A line on stderr names every metric that is left out.
        """
        if not self._taken:
            return {}
        references, output, found = self._shown.references(), torch.cat(self._outputs), {}
        places = self._shown.places
        self._begin()
        for name, metric in self.metrics.items():
            try:
                value, why = scored(metric, output, references, places)[0], "not finite"
            except Unavailable as error:  # for example, the set of images is too small
                value, why = None, str(error)
            if value is None:
                Console(stderr=True).print(f"val/{name} is absent: {why}", soft_wrap=True, markup=False)
            else:
                found[name] = value
        return found
