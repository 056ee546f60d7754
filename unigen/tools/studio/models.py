"""Models that stay loaded between calls. Each call draws with a copy of its own, so that users do not meet in it."""

import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from unigen.core.types import EXAMPLE
from unigen.inference.sampling import Load
from unigen.pipeline import export
from unigen.pipeline.build import build
from unigen.pipeline.pipeline import Pipeline, Watch
from unigen.tools.studio.places import Places, model_of
from unigen.weights.repositories import run_folder

ROOM = 2  # models that stay loaded


class About(NamedTuple):
    """What a model takes: in-context rows or not, the tasks of its own images, and the settings that it has itself.

    `size`: pixels of a side. `trained`: the fewest and the most examples of its training, None if it does not say.
    `refusal`: why no image can be a condition of its tasks, or None.
    """

    rows: bool
    tasks: tuple[str, ...]
    refusal: str | None
    size: int | None
    trained: tuple[int, int] | None
    steps: int
    guidance: float
    instructed: bool
    usual_task: str | None


class Models:
    """Keeps the models that were used last, by the folder of their export and the time at which it was written."""

    def __init__(self, room: int = ROOM) -> None:
        self.room, self._lock, self._exporting = room, threading.Lock(), threading.Lock()
        self._kept: OrderedDict[tuple[Path, int], tuple[Pipeline, dict[str, Any]]] = OrderedDict()

    def original(self, folder: Path) -> tuple[Pipeline, dict[str, Any]]:
        """Return the model of an export folder, which nobody may change. Raises what `export.load` raises."""
        about = folder / export.CONFIG_FILE
        key = (folder.resolve(), about.stat().st_mtime_ns if about.is_file() else 0)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = export.load(folder)
            self._kept.move_to_end(key)
            while len(self._kept) > self.room:
                self._kept.popitem(last=False)
            return self._kept[key]

    def loader(self, watch: Watch) -> Load:
        """Return a function in the place of `export.load` whose pipelines are copies that tell `watch` of each step."""

        def load(folder: Path) -> tuple[Pipeline, dict[str, Any]]:
            pipeline, config = self.original(folder)
            return replace(pipeline, solver=copy(pipeline.solver), watch=watch), deepcopy(config)

        return load

    def word(self, places: Places, name: str) -> str:
        """Return what run= takes for a model's name; a checkpoint is exported below `places.out`, once for each save.

        Raises ValueError or OSError for a name that is no model's, and for a checkpoint that cannot be exported.
        """
        run, checkpoint = model_of(places, name)
        if checkpoint is None:
            return run
        saved = checkpoint.stat().st_mtime_ns
        folder = places.out / "exports" / f"{re.sub(r'[^A-Za-z0-9.+-]+', '_', name)}_{saved}"
        with self._exporting:
            if not (folder / "export" / export.CONFIG_FILE).is_file():
                from unigen.tools.export import export_checkpoint

                given = {"run": run, "checkpoint": str(checkpoint), "out": str(folder / "export")}
                export_checkpoint(given)
        return str(folder)

    def about(self, word: str) -> About:
        """Return what the model of run=`word` takes. Raises ValueError for a run without a whole export."""
        pipeline, config = self.original(run_folder(word) / "export")
        data, said = build(config["data"]), config["data"]
        tasks = tuple(getattr(data, "tasks", ()))
        refusal = data.unsampled if hasattr(data, "user_sample") else "its data are of another project"
        trained = said.get("rows")
        return About(
            rows=EXAMPLE in pipeline.formatter.roles and isinstance(said.get("size"), int),
            tasks=tasks if refusal is None else (),
            refusal=refusal,
            size=said["size"] if isinstance(said.get("size"), int) else None,
            trained=tuple(trained) if isinstance(trained, list) and len(trained) == 2 else None,
            steps=pipeline.solver.steps,
            guidance=pipeline.guidance.strength,
            instructed=said.get("instruction") is not None,
            usual_task=usual_task(tasks, config["task"]),
        )


def usual_task(tasks: tuple[str, ...], said: Mapping[str, Any]) -> str | None:
    """Return the task that is chosen at first: edges to image if the model knows it, else its first one."""
    for task in (f"{said.get('name')}>target", "canny>target"):
        if task in tasks:
            return task
    return tasks[0] if tasks else None
