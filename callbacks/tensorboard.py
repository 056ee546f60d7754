"""TensorBoard as one more logger: curves and sample grids in a run's folder."""

import importlib.util
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from unigen.config.values import ConfigError


class TensorBoard(TensorBoardLogger):
    """Writes event files below `save_dir`/`name`. A run that goes on adds a file there, which TensorBoard joins.

    Raises ConfigError if tensorboard is not installed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ConfigError("logger=tensorboard needs tensorboard (pip install 'unigen[tensorboard]')")
        super().__init__(*args, **kwargs)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the configuration has a file of its own (config.yaml)."""

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        """Log Pillow's images, one after another under `key`."""
        for number, image in enumerate(images):
            name = f"{key}_{number}" if number else key
            self.experiment.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    @rank_zero_only
    def save(self) -> None:
        """Write what is pending; there is no hparams.yaml."""
        if self._experiment is not None:
            self._experiment.flush()
