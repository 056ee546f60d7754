"""A user's own images through an exported run: what sample.py does with condition=, and what it shares with rows=."""

import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from torch import Tensor

from unigen import export
from unigen.build import build
from unigen.config import ConfigError, sentence
from unigen.files import CLIPS, IMAGES, write_image
from unigen.own_files import blamed
from unigen.pipeline import Pipeline
from unigen.subject_words import miss_line
from unigen.types import CONDITION, TARGET, ImageSlot, collate

OUTPUT, DEFAULT_OUT = "output", "sample.png"
SEVERAL = "write condition=[a.png,b.png], in the order of the task"


def sample_user_picture(given: dict[str, str]) -> dict[str, Path]:
    """Write the outputs and the conditions as images; paths by what they hold. `given` are the words of sample.py.

    Raises ValueError for an unfinished run, data that take no image, an unreadable image, an unknown or missing task,
    a condition that cannot be made of an image, a bad number, and a path that cannot be written.
    """
    pipeline, config = opened(given)
    prompt, prepared = given.get("prompt", ""), given.get("prepared", "false")
    if prepared not in ("true", "false"):
        raise ConfigError(f"prepared={prepared} is neither true nor false")
    files, about = (
        files_of(given["condition"]) if "condition" in given else [],
        Path(given["run"]) / "export" / export.CONFIG_FILE,
    )
    with blamed(about, export.AGAIN):
        data = build(config["data"])
    if said := unsampled(data):
        raise ConfigError(f"run={given['run']} takes no image of your own as condition=: {said}")
    with blamed(about, export.AGAIN, ValueError):  # which is the user's
        if not files and not any(task.startswith(">") for task in data.tasks):
            raise ConfigError("say either condition=<...> or rows=<...>; all tasks of this run show a condition")
        task = task_of(given, data.tasks)
        if not files and not task.startswith(">"):  # only a task from text alone has no condition
            raise ConfigError(f"task={task} shows a condition: say either condition=<...> or rows=<...>")
        sample = data.user_sample(files, prompt, (given.get("subject", prompt),), task, prepared=prepared == "true")
    paths = output_paths(given, sample.slots, OUTPUT, [slot.name for slot in sample.slots if slot.role == CONDITION])
    check_frames(paths, {slot.name: slot.frames for slot in sample.slots})
    refuse_overwriting(given, paths.values(), files)
    outputs = pipeline.sample(collate([sample]), number(given, "seed", 0, lowest=0))
    say_a_miss(given, pipeline, sample.prompt)
    single = len(outputs) == 1
    shown = {OUTPUT if single else name: x[0] for name, x in outputs.items()}
    write_images(paths, sample.images | shown)
    return paths


def say_a_miss(given: Mapping[str, str], pipeline: Pipeline, prompt: str) -> None:
    """Say on stderr, in a line, if UCE looks up subject= and the prompt does not say it."""
    if given.get("subject") and (said := miss_line(pipeline, prompt, given["subject"])):
        print(said, file=sys.stderr)


def unsampled(data: Any) -> str | None:
    """Why no image of a user's own can be a condition of a run on these data, in half a sentence; None if one can."""
    if not hasattr(data, "user_sample"):  # a data module that is none of this project's
        return f"{type(data).__name__} has no method user_sample, as datamodules.keyed.KeyedData has"
    return data.unsampled


def files_of(text: str) -> list[str]:
    """The files of condition=: one, or several as a list in brackets. Raises ValueError for another list."""
    if not (text.startswith("[") and text.endswith("]")) or Path(text).exists():
        return [text]
    try:
        files = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"condition={text} cannot be read ({sentence(error)}); {SEVERAL}") from error
    if not files or not all(isinstance(file, str) for file in files):
        raise ConfigError(f"condition={text} is no list of file names; {SEVERAL}")
    return files


def opened(given: dict[str, str]) -> tuple[Pipeline, dict[str, Any]]:
    """The pipeline and the configuration of the run, with the steps and the guidance that are given.

    Raises ValueError for an unfinished run and a bad number.
    """
    folder = Path(given["run"])
    if not folder.is_dir():
        raise ConfigError(f"run={folder} is no folder; give a finished run folder")
    out_of(given)  # before the weights are read
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


def out_of(given: Mapping[str, str]) -> Path:
    """The path of out=. Raises ValueError for an ending that is no image's, a folder, and a path that cannot be."""
    out = Path(given.get("out", DEFAULT_OUT))
    if out.is_dir():
        raise ConfigError(f"out={out} is a folder; name a file in it, such as {out / DEFAULT_OUT}")
    if out.suffix.lower() not in IMAGES:
        what = f"ends in '{out.suffix}'" if out.suffix else "has no ending"
        raise ConfigError(f"out={out} {what}; legal are {', '.join(IMAGES)}")
    folder = next(folder for folder in out.absolute().parents if folder.exists())  # those below it are made
    if not folder.is_dir():
        raise ConfigError(f"out={out} cannot be written: {folder} is a file, not a folder")
    try:
        with tempfile.TemporaryFile(dir=folder):  # permissions say nothing of /proc, or of a read-only disk
            pass
    except OSError as error:
        raise ConfigError(f"out={out} cannot be written: no file can be made in the folder {folder}") from error
    return out


def output_paths(
    given: Mapping[str, str], slots: Sequence[ImageSlot], single: str | None, beside: Sequence[str] = ()
) -> dict[str, Path]:
    """Where each target goes, by its name, and what is written beside: out= itself for a single target, which is
    called `single` if that is given; else out_target0.png, ...

    Without out= no file is written over: sample.png, or the first of sample_2.png, ... of which nothing is there.
    """
    out, number = out_of(given), 1
    while "out" not in given and any(map(os.path.lexists, _named(out, slots, single, beside).values())):
        number += 1
        out = Path(DEFAULT_OUT).with_stem(f"{Path(DEFAULT_OUT).stem}_{number}")
    return _named(out, slots, single, beside)


def _named(out: Path, slots: Sequence[ImageSlot], single: str | None, beside: Sequence[str]) -> dict[str, Path]:
    """What `output_paths` says, for this one `out`."""
    targets = [slot.name for slot in slots if slot.role == TARGET]
    paths = {name: out.with_name(f"{out.stem}_{name}{out.suffix}") for name in (*beside, *targets)}
    if len(targets) > 1:
        return paths
    return {name: path for name, path in paths.items() if name not in targets} | {single or targets[0]: out}


def check_frames(paths: Mapping[str, Path], frames: Mapping[str, int]) -> None:
    """Raises ValueError if a clip is to go into a format of stills."""
    longest, out = max(frames.values()), next(iter(paths.values()))
    if longest > 1 and out.suffix.lower() not in CLIPS:
        raise ConfigError(f"out= ends in '{out.suffix}', but {longest} frames are drawn; legal are {', '.join(CLIPS)}")


def write_images(paths: Mapping[str, Path], images: Mapping[str, Tensor]) -> None:
    """Write the images of these names, uint8 (F, 3, H, W), each in the format of its path."""
    for name, path in paths.items():
        write_image(path, [Image.fromarray(frame.permute(1, 2, 0).cpu().numpy()) for frame in images[name]])


def refuse_overwriting(given: Mapping[str, str], written: Iterable[Path], read: Iterable[str]) -> None:
    """Raises ValueError if a file that is read would be written."""
    if {path.resolve() for path in written} & {Path(path).resolve() for path in read}:
        raise ConfigError(f"out={given.get('out', DEFAULT_OUT)} would overwrite the picture that was given")


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
