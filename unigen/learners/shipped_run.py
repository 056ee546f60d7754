"""Trains as `Denoising` does, and exports a finished run in small, which comes with the package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unigen.learners.denoising import Denoising
from unigen.pipeline import export
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
        export.save(self.pipeline, small / "export", dict(config), half=True)
        return [small]
