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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from unigen.config.commands import as_here  # noqa: E402
from unigen.launch.terminal import program  # noqa: E402


def main(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(as_here(__doc__.strip()))
        return 0
    try:
        from unigen.tools.sample import sampled

        paths = sampled(words)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(f"{what}: {path}" for what, path in paths.items()))
    return 0


if __name__ == "__main__":
    program(main)
