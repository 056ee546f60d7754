"""Take the next step of a sweep in stages: `python experiments/look.py sweep=runs/sweeps/<sweep>`.

sweep=  the folder of a sweep that tunes, or that adds seeds until its question is answered (docs/sweeps.md)

It decides what the finished runs say, and writes the runs of the next stage into the sweep's manifest.tsv. run.py does
the same by itself; `slurm/sweep.py look` submits the next stage too.
"""

import sys
from pathlib import Path

from unigen.config.arguments import parse
from unigen.config.commands import as_here
from unigen.launch.terminal import program

CONF = Path(__file__).resolve().parent / "conf"


def main(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(as_here(__doc__.strip()))
        return 0
    try:
        given = parse(words, legal=("sweep",), required=("sweep",))
        from unigen.tools.sweep.stages import advance

        said = advance(CONF, Path(given["sweep"]))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(said or ["the sweep has ended"]))
    return 0


if __name__ == "__main__":
    program(main)
