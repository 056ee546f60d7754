"""Lightning without what it does not use of torchmetrics, which costs a third of its start.

Lightning asks torchmetrics for two classes; torchmetrics imports all of its metrics, and with them torchvision,
transformers and scipy, before it answers.
"""

import importlib.metadata
import importlib.util
import logging
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

HOMES = {"Metric": "torchmetrics.metric", "MetricCollection": "torchmetrics.collections"}


class Postponed(ModuleType):
    """torchmetrics, whose own `__init__` runs when anything but those two classes is asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name in HOMES:
            import_module("torchmetrics.utilities")  # first, as its own `__init__` has it: the two import each other
            return getattr(import_module(HOMES[name]), name)
        if name.startswith("__"):
            raise AttributeError(name)
        self.__class__ = ModuleType
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def postpone_metrics() -> None:
    """From here on `import torchmetrics` is cheap, until it is used. Nothing is done where it is imported already."""
    spec = None if "torchmetrics" in sys.modules else importlib.util.find_spec("torchmetrics")
    if spec is None:
        return
    module = importlib.util.module_from_spec(spec)
    module.__class__ = Postponed
    module.__version__ = importlib.metadata.version("torchmetrics")
    module._logger = logging.getLogger("torchmetrics")  # which its own parts import from it
    sys.modules["torchmetrics"] = module
