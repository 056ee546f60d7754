"""Sample from a trained run with your own images: as conditions, or as a visual prompt of rows.

python experiments/sample.py run=<run folder> condition=<image>
python experiments/sample.py run=<run folder> 'rows=[[a.png,b.png],[c.png,null]]'
python experiments/sample.py run=<run of task=text> prompt="a red car"
python experiments/sample.py run=shipped:NAME sheet=true

run=        a finished run folder, of any data, or shipped:NAME for a run that comes with the package
condition=  an image of any common format, or a clip (.gif, .webp, .png) where the run takes one. The run's task takes
            its condition from it (edges, grey, ...). A task whose conditions are several takes as many in its order,
            condition=[reference.png,photo.png], or the one image that all of them are computed from
rows=       instead of condition=, for runs with in-context rows: rows of images, as many in each. Rows before the
            last are examples; in the last, the query, null stands for what is wanted, in any place and in several. A
            row takes the shape of its first image; the others are cropped to it
sheet=      instead of both: true draws held-out samples of the run's own data, task by task, each beside its truth
prompt=     the content of the result (default: empty, as with prompt= alone)
out=        the image to write, in the format that it ends in: .png, .jpg, .jpeg, .webp, .gif, .bmp, .tif or .tiff
            (default: sample.png, or the first of sample_2.png, ... that writes over nothing). Beside it go the
            conditions as the model sees them, or of rows= the whole grid; several targets go beside it too,
            out_target0.png, ... A clip goes whole into .png, .webp or .gif, and its frames into the folder
            out_frames beside it
subject=    the keyword of the prompt that names the subject, for runs with UCE (default: the whole prompt); for
            several conditions also one each, subject=[cat,dog]
task=       such as task='canny>target', or task=canny for it; needed for runs of several tasks (default: the run's
            only one)
seed=, steps=, guidance=   of the sampling (defaults: 0, and as the run was measured)
negative=   a prompt that guidance leads away from, in the place of the empty one (default: as the run was measured)
with condition=
prepared=   true if the images already are the conditions, e.g. an edge map (default: false)
with rows=
columns=    what each column shows, such as [canny,target]: the model reads an instruction as in its training
instruction=  or the whole text that it reads with the grid (default: the prompt)
upsample=   draw every target again, at about N x N pixels, from the prompt and what was generated (SDEdit)
strength=   with upsample=: the noise level at which it starts, above 0 and at most 1; higher is freer (default: 0.6)
with sheet=
tasks=      what is drawn, as patterns such as [canny>target,editing] (default: the tasks of the run's own test)
items=      how many samples of each task (default: 3)
examples=   how many in-context examples each of them has (default: as in the run's own test)
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from unigen.config.arguments import one_of, parse  # noqa: E402
from unigen.launch.terminal import program  # noqa: E402

KEYS = ("run", "prompt", "out", "subject", "task", "seed", "steps", "guidance", "negative")
OWN = {
    "condition": ("prepared",),
    "rows": ("columns", "instruction", "upsample", "strength"),
    "sheet": ("tasks", "items", "examples"),
}  # the keys that go with one of them alone
EMPTY = ("prompt", "subject", "instruction", "negative")


def sampled(words: list[str], **means: Callable[..., Any]) -> dict[str, Path]:
    """Generate and write the images; return each path by what its file holds.

    `means` are `load` and `say` of `unigen.inference.sampling.sample_user_image`, for a program that keeps its models
    loaded.
    """
    given = parse(words, legal=(*KEYS, *OWN, *sum(OWN.values(), ())), required=("run",), empty=EMPTY)
    alone = any(key in given for key in (*OWN, *sum(OWN.values(), ())))
    which = one_of(given, OWN) if alone else "condition"
    if which == "sheet":
        from unigen.inference.sheet import sample_sheet

        return sample_sheet(given)
    if which == "rows":
        from datamodules.graph.visual_prompt import instructed, visual_prompt
        from unigen.inference.visual_prompt import sample_visual_prompt

        return sample_visual_prompt(given, visual_prompt, instructed, **means)
    from unigen.inference.sampling import sample_user_image

    return sample_user_image(given, **means)


def main(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(__doc__.strip())
        return 0
    try:
        paths = sampled(words)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(f"{what}: {path}" for what, path in paths.items()))
    return 0


if __name__ == "__main__":
    program(main)
