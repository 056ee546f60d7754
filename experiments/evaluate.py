"""Measure a finished run on a benchmark: `python experiments/evaluate.py run=<run folder> bench=emoji_canny`.

run=           a finished run folder
bench=         a benchmark, a file of experiments/conf/bench (--help lists them)
out=           the folder of its pictures and numbers (default: <run>/evaluation/<bench>)
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

OWN = ("run", "bench", "out", "metrics_only")


def main(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(f"{__doc__.strip()}\n\nbench: {', '.join(sorted(path.stem for path in (CONF / 'bench').glob('*.yaml')))}")
        return 0
    own = [word for word in words if word.partition("=")[0] in OWN]
    try:
        given = parse(own, legal=OWN, required=("run", "bench"))
        from unigen.benchmark import measure_run

        measure_run(given, [word for word in words if word not in own], CONF)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
