"""A user's own picture through an exported run."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from unigen import export
from unigen.build import build
from unigen.config import ConfigError
from unigen.files import write_png
from unigen.pipeline import Pipeline
from unigen.types import CONDITION, TARGET, collate


def sample_user_picture(given: dict[str, str]) -> dict[str, Path]:
    """Write the output and the condition as PNGs; paths by what they hold. `given` are the words of sample.py.

    Raises ValueError for an unfinished run, an unreadable picture, an unknown or missing task, or a bad number.
    """
    pipeline, config = opened(given)
    prompt, prepared = given.get("prompt", ""), given.get("prepared", "false")
    if prepared not in ("true", "false"):
        raise ConfigError(f"prepared={prepared} is neither true nor false")
    data = build(config["data"])
    if not hasattr(data, "user_sample"):
        raise ConfigError(
            f"run={given['run']} was trained on {config['data']['_target_']}, which takes no pictures of a user's"
        )
    sample = data.user_sample(
        given["condition"],
        prompt,
        (given.get("subject", prompt),),
        task_of(given, data.tasks),
        prepared=prepared == "true",
    )
    out, paths = Path(given.get("out", "sample.png")), {}
    for slot in sample.slots:
        if slot.role in (TARGET, CONDITION):
            paths[slot.name] = out if slot.role == TARGET else out.with_name(f"{out.stem}_{slot.name}.png")
    refuse_overwriting(out, paths.values(), [given["condition"]])
    outputs = pipeline.sample(collate([sample]), number(given, "seed", 0, lowest=0))
    for name, path in paths.items():
        shown = outputs[name][0] if name in outputs else sample.images[name]
        write_png(path, Image.fromarray(shown[-1].permute(1, 2, 0).numpy()))
    return {"output" if name in outputs else name: path for name, path in paths.items()}


def opened(given: dict[str, str]) -> tuple[Pipeline, dict[str, Any]]:
    """The pipeline and the configuration of the run, with the steps and the guidance that are given.

    Raises ValueError for an unfinished run and a bad number.
    """
    folder = Path(given["run"])
    if not folder.is_dir():
        raise ConfigError(f"run={folder} is no folder; give a finished run folder")
    pipeline, config = export.load(folder / "export")
    pipeline.solver.steps = number(given, "steps", pipeline.solver.steps, lowest=1)
    pipeline.solver.guidance = number(given, "guidance", float(pipeline.solver.guidance), lowest=0.0)
    return pipeline, config


def task_of(given: Mapping[str, str], tasks: Sequence[str]) -> str:
    """The task that is given, else the run's only one. Raises ValueError where the run has several."""
    if "task" not in given and len(tasks) > 1:
        some = ", ".join(f"'{task}'" for task in tasks[:3]) + (", ..." if len(tasks) > 3 else "")
        raise ConfigError(f"run={given['run']} has {len(tasks)} tasks; say which by task=, one of {some}")
    return given.get("task", tasks[0])


def refuse_overwriting(out: Path, written: Iterable[Path], read: Iterable[str]) -> None:
    """Raises ValueError if a file that is read would be written."""
    if {path.resolve() for path in written} & {Path(path).resolve() for path in read}:
        raise ConfigError(f"out={out} would overwrite the picture that was given")


def number(given: dict[str, str], key: str, default: float, lowest: float) -> float:
    """A number of the default's type. Raises ValueError naming the key."""
    if key not in given:
        return default
    try:
        value = type(default)(given[key])
    except ValueError:
        value = None
    if value is None or not lowest <= value < float("inf"):  # nan compares with nothing
        kind = "whole number" if isinstance(default, int) else "number"
        raise ConfigError(f"{key}={given[key]} is not a {kind} of at least {lowest}")
    return value
