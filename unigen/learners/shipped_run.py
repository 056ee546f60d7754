"""Trains as `Denoising` does, and exports a finished run in small, which comes with the package."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unigen.learners.denoising import Denoising
from unigen.pipeline import export
from unigen.pipeline.pipeline import Pipeline
from unigen.weights.loading import round_to_half


class ShippedRun(Denoising):
    """`Denoising` whose weights are rounded to fp16 before they are measured, and exported so too.

    The folder export/NAME, NAME without 'mini_', is that of a run: `sample.py run=shipped:NAME` reads it from
    unigen/shipped. The experiment's header says what else is copied there.
    """

    def settle(self, data: Any) -> None:
        """Round the weights to fp16, as they will be saved."""
        super().settle(data)
        round_to_half(self.parts)

    def export(self, folder: Path, config: Mapping[str, Any]) -> list[Path]:
        """Save what `Denoising` saves, the same in fp16 in a run folder of its own, and the stock model, `transformer`
        and `text_encoder`, with which a further stage begins.
        """
        super().export(folder, config)
        try:
            export.save_stock(self.pipeline, folder, "transformer")
        except ValueError as error:
            print(f"note: no further stage can begin with this run: {error}")
        small = folder / config["name"].removeprefix("mini_")
        export.save(self.pipeline, small / "export", self_contained(self.pipeline, config), half=True)
        return [small]


def self_contained(pipeline: Pipeline, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration without the source of a backbone or a text encoder all of whose weights were trained.

    An export holds these, and must be readable where the folder that the run began with is not.
    """
    whole = copy.deepcopy(dict(config))
    for module, node in ((pipeline.backbone.model, whole["backbone"]), (pipeline.text, whole["encoder"]["text"])):
        if all(p.requires_grad for p in module.parameters()) and not list(module.buffers()):
            node["pretrained"] = None
    return whole
