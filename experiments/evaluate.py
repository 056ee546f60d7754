"""Measure finished runs on benchmarks: `python experiments/evaluate.py run=<run folder> bench=emoji_canny`.

run=           a finished run folder, a folder with runs at any depth, or several with commas between: one after another
bench=         a benchmark, a file of experiments/conf/bench (--help lists them), or several with commas between
table=         in the place of bench=: those that the rows of a table ask for (experiments/conf/table), for its runs
out=           the folder of the pictures and numbers of one run on one benchmark (default: <run>/evaluation/<bench>)
metrics_only=  true: draw nothing, measure the pictures that are there (default: false)

Any other key=value changes the benchmark: data.test.root=<folder>, evaluation.items=64, 'metric=[psnr,ssim]'; data.size
is the run's unless it is given. Pictures that are there are kept, so a killed command goes on when it is given again,
and metrics may be changed without drawing anything anew.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "experiments" / "conf"
sys.path.insert(0, str(ROOT))

from unigen.arguments import parse  # noqa: E402
from unigen.terminal import program  # noqa: E402

OWN = ("run", "bench", "table", "out", "metrics_only")


def main(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(f"{__doc__.strip()}\n\nbench: {', '.join(sorted(path.stem for path in (CONF / 'bench').glob('*.yaml')))}")
        return 0
    own = [word for word in words if word.partition("=")[0] in OWN]
    try:
        given = parse(own, legal=OWN, required=("run",))
        from unigen.benchmark_jobs import measure_all

        return 1 if measure_all(given, [word for word in words if word not in own], CONF) else 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    program(main)
