"""One picture of your own through a trained run: `python experiments/sample.py run=<run folder> condition=<picture>`.

run=        a finished run folder
condition=  a picture of any common format; the run's task takes its condition from it (edges, grey, ...)
prompt=     what the result shows (default: nothing)
out=        the PNG to write (default: sample.png); the condition as the model sees it goes beside it
subject=    the keyword of the prompt that names the subject, for runs with UCE (default: the whole prompt)
task=       for runs of several tasks (default: the run's first)
prepared=   true if the picture already is the condition, e.g. an edge map (default: false)
seed=, steps=, guidance=   of the sampling (defaults: 0, and as the run was measured)
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from unigen.arguments import parse  # noqa: E402

KEYS = ("run", "condition", "prompt", "out", "subject", "task", "prepared", "seed", "steps", "guidance")


def main(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(__doc__.strip())
        return 0
    try:
        given = parse(words, legal=KEYS, required=("run", "condition"))
        from unigen.sampling import sample_user_picture

        written = sample_user_picture(given)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(f"{what}: {path}" for what, path in written.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
