"""Sampling from a user's own images with condition=, and the words of sample.py that rows= takes too."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from torch import Tensor

from unigen.config.files import CLIPS, IMAGES, write_image, write_png
from unigen.config.values import ConfigError, sentence
from unigen.core.types import CONDITION, TARGET, ImageSlot, collate
from unigen.pipeline import export
from unigen.pipeline.build import build
from unigen.pipeline.pipeline import Pipeline
from unigen.pipeline.subject_words import miss_line
from unigen.weights.own_files import blamed
from unigen.weights.repositories import run_folder

Load = Callable[[Path], tuple[Pipeline, dict[str, Any]]]  # reads an export folder, as `unigen.pipeline.export.load`
Say = Callable[[str], None]
OUTPUT, DEFAULT_OUT = "output", "sample.png"
SEVERAL = "write condition=[a.png,b.png], in the order of the task"


def on_stderr(line: str) -> None:
    """Print a line on stderr."""
    print(line, file=sys.stderr)


def sample_user_image(given: dict[str, str], load: Load | None = None, say: Say = on_stderr) -> dict[str, Path]:
    """Write the outputs and the conditions as image files; return their paths by name. `given`: sample.py's words.

    `load` reads the run's export (None: `export.load`); `say` takes each line that warns the user.

    Raises ValueError for an unfinished run, data that take no image, an unreadable image, an unknown or missing task,
    a condition that cannot be made of an image, a bad number, and a path that cannot be written.
    """
    pipeline, config = opened(given, load)
    prompt, prepared = given.get("prompt", ""), given.get("prepared", "false")
    if prepared not in ("true", "false"):
        raise ConfigError(f"prepared={prepared} is neither true nor false")
    files, about = (
        files_of(given["condition"]) if "condition" in given else [],
        run_folder(given["run"]) / "export" / export.CONFIG_FILE,
    )
    with blamed(about, export.AGAIN):
        data = build(config["data"])
    if said := unsampled(data):
        raise ConfigError(f"run={given['run']} takes no image of your own as condition=: {said}")
    with blamed(about, export.AGAIN, ValueError):  # a ValueError is the user's mistake
        if not files and not any(task.startswith(">") for task in data.tasks):
            raise ConfigError("say either condition=<...> or rows=<...>; all tasks of this run show a condition")
        task = task_of(given, data.tasks, config["task"]["named"])
        if not files and not task.startswith(">"):  # only a task from text alone has no condition
            raise ConfigError(f"task={task} shows a condition: say either condition=<...> or rows=<...>")
        sample = data.user_sample(
            files, prompt, subjects_given(given.get("subject", prompt)), task, prepared=prepared == "true"
        )
    paths = output_paths(given, sample.slots, OUTPUT, [slot.name for slot in sample.slots if slot.role == CONDITION])
    check_frames(paths, {slot.name: slot.frames for slot in sample.slots})
    refuse_overwriting(given, paths.values(), files)
    outputs = pipeline.sample(collate([sample]), number(given, "seed", 0, lowest=0))
    say_a_miss(given, pipeline, sample.prompt, say)
    single = len(outputs) == 1
    shown = {OUTPUT if single else name: x[0] for name, x in outputs.items()}
    write_images(paths, sample.images | shown)
    return paths


def say_a_miss(given: Mapping[str, str], pipeline: Pipeline, prompt: str, say: Say = on_stderr) -> None:
    """Say a line if UCE looks up subject= and the prompt does not contain it."""
    for subject in subjects_given(given.get("subject", "")):
        if subject and (said := miss_line(pipeline, prompt, subject)):
            say(said)


def unsampled(data: Any) -> str | None:
    """Return None if a user's own image can be a condition for these data, else the reason, as half a sentence."""
    if not hasattr(data, "user_sample"):  # a data module that is none of this project's
        return f"{type(data).__name__} has no method user_sample, as datamodules.graph.keyed.KeyedData has"
    return data.unsampled


def subjects_given(text: str) -> tuple[str, ...]:
    """Return the keywords of subject=: one, or one for each of several conditions as a list in brackets."""
    if not (text.startswith("[") and text.endswith("]")):
        return (text,)
    return tuple(word.strip() for word in text[1:-1].split(","))


def files_of(text: str) -> list[str]:
    """Return the files of condition=: one, or several as a list in brackets. Raises ValueError for another list."""
    if not (text.startswith("[") and text.endswith("]")) or Path(text).exists():
        return [text]
    try:
        files = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"condition={text} cannot be read ({sentence(error)}); {SEVERAL}") from error
    if not files or not all(isinstance(file, str) for file in files):
        raise ConfigError(f"condition={text} is no list of file names; {SEVERAL}")
    return files


def opened(given: dict[str, str], load: Load | None = None) -> tuple[Pipeline, dict[str, Any]]:
    """Return the run's pipeline, on the GPU if there is one, with what is given of its sampling, and its configuration.

    Raises ValueError for an unfinished run, a bad number and models that do not fit on the GPU.
    """
    folder = run_folder(given["run"])
    if not folder.is_dir():
        raise ConfigError(f"run={folder} is no folder; give a finished run folder")
    out_of(given)  # refuses a bad out= before the weights are read
    pipeline, config = (load or export.load)(folder / "export")
    pipeline.to_gpu()
    pipeline.solver.steps = number(given, "steps", pipeline.solver.steps, lowest=1)
    if "guidance" in given:
        pipeline.guidance = pipeline.guidance.at(number(given, "guidance", 1.0, lowest=0.0))
    if "negative" in given:
        pipeline.guidance = pipeline.guidance.against(given["negative"])
    return pipeline, config


def task_of(given: Mapping[str, str], tasks: Sequence[str], named: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return the task that is given, else the run's only task. Raises ValueError where the run has several.

    A word such as 'canny' stands for the run's task 'canny>target', or for the one task that `named` has for it.
    """
    if "task" not in given and len(tasks) > 1:
        some = ", ".join(f"'{task}'" for task in tasks[:3]) + (", ..." if len(tasks) > 3 else "")
        raise ConfigError(f"run={given['run']} has {len(tasks)} tasks; say which by task=, one of {some}")
    task = given.get("task", tasks[0])
    of_that_name = (named or {}).get(task, ())
    meant = of_that_name[0] if len(of_that_name) == 1 else f"{task}>target"
    return meant if meant in tasks else task


def out_of(given: Mapping[str, str]) -> Path:
    """Return the path of out=. Raises ValueError for an ending that is no image's, a folder, and an unusable path."""
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
    """Return the path of every target, and of each name in `beside`.

    A single target is written to out= itself (and called `single` if that is given), several to out_target0.png, ...
    Without out= no file is overwritten: the name is sample.png, or the first of sample_2.png, ... that is free.
    """
    out, number = out_of(given), 1
    while "out" not in given and any(map(os.path.lexists, _named(out, slots, single, beside).values())):
        number += 1
        out = Path(DEFAULT_OUT).with_stem(f"{Path(DEFAULT_OUT).stem}_{number}")
    return _named(out, slots, single, beside)


def _named(out: Path, slots: Sequence[ImageSlot], single: str | None, beside: Sequence[str]) -> dict[str, Path]:
    """Return the paths of `output_paths` for a given `out`."""
    targets = [slot.name for slot in slots if slot.role == TARGET]
    paths = {name: out.with_name(f"{out.stem}_{name}{out.suffix}") for name in (*beside, *targets)}
    if len(targets) > 1:
        return paths
    return {name: path for name, path in paths.items() if name not in targets} | {single or targets[0]: out}


def check_frames(paths: Mapping[str, Path], frames: Mapping[str, int]) -> None:
    """Raise ValueError if a clip would be written in a format of stills."""
    longest, out = max(frames.values()), next(iter(paths.values()))
    if longest > 1 and out.suffix.lower() not in CLIPS:
        raise ConfigError(f"out= ends in '{out.suffix}', but {longest} frames are drawn; legal are {', '.join(CLIPS)}")


def write_images(paths: Mapping[str, Path], images: Mapping[str, Tensor]) -> None:
    """Write the named images, uint8 (F, 3, H, W), each in the format of its path.

    The frames of a clip are also written one by one, to a folder beside it.
    """
    for name, path in paths.items():
        frames = [Image.fromarray(frame.permute(1, 2, 0).cpu().numpy()) for frame in images[name]]
        write_image(path, frames)
        if len(frames) > 1:
            folder = frames_of(path)
            folder.mkdir(exist_ok=True)
            for number, frame in enumerate(frames):
                write_png(folder / f"{number:03d}.png", frame)


def frames_of(path: Path) -> Path:
    """Return the folder that holds the frames of the clip at `path`."""
    return path.with_name(f"{path.stem}_frames")


def refuse_overwriting(given: Mapping[str, str], written: Iterable[Path], read: Iterable[str]) -> None:
    """Raise ValueError if a file that is read would also be written."""
    if {path.resolve() for path in written} & {Path(path).resolve() for path in read}:
        raise ConfigError(f"out={given.get('out', DEFAULT_OUT)} would overwrite the image that was given")


def number(given: dict[str, str], key: str, default: float, lowest: float) -> float:
    """Return the number `key` as the default's type, or the default. Raises ValueError naming the key."""
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
