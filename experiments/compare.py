"""Show runs beside other methods on one sheet: `python experiments/compare.py runs=<folder> bench=coco_canny`.

runs=     a run folder, or a folder with runs at any depth, which evaluate.py has measured on the benchmark
bench=    the benchmark (experiments/conf/bench) whose items are shown
others=   a folder with a folder for each other method, whose images have the names of the runs' own: those of
          <run>/evaluation/<bench>/images that end in _output, as <others>/OmniGen/000003_0_output.png (or .jpg, ...);
          its manifest.jsonl has their prompts, and beside them lie the conditions that the methods are given
items=    numbers with commas between (default: the first 6)
out=      the image to write (default: comparison.png)

A column is a condition, a run (the first seed of each experiment), a method, or the truth; what is missing is grey, and
named.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from unigen.config.arguments import parse  # noqa: E402
from unigen.config.commands import as_here  # noqa: E402
from unigen.launch.terminal import program  # noqa: E402


def main(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(as_here(__doc__.strip()))
        return 0
    try:
        given = parse(words, legal=("runs", "bench", "others", "items", "out"), required=("runs", "bench"))
        from unigen.evaluation.comparison import write_comparison

        out, missing = write_comparison(given)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join([*missing, f"sheet: {out}"]))
    return 0


if __name__ == "__main__":
    program(main)
