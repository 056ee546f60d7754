"""Measure finished runs on benchmarks: `python experiments/evaluate.py run=<run folder> bench=emoji_canny`.

run=           a finished run folder, a folder with runs at any depth, several with commas between, or shipped:NAME for
               a run that comes with the package (measured in runs/shipped_NAME)
bench=         a benchmark, a file of experiments/conf/bench (--help lists them), or several with commas between
table=         instead of bench=: the benchmarks of a table's rows (experiments/conf/table), for its runs
out=           the folder of the images and numbers of one run on one benchmark (default: <run>/evaluation/<bench>)
metrics_only=  true: draw nothing and measure the existing images (default: false)

Any other key=value changes the benchmark: data.test.root=<folder>, evaluation.items=64, 'metric=[psnr,ssim]'; data.size
defaults to the run's. Existing images are kept, so a killed command continues when it is given again, and metrics may
be changed without drawing again.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "experiments" / "conf"
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from unigen.config.arguments import parse  # noqa: E402
from unigen.config.commands import as_here  # noqa: E402
from unigen.launch.terminal import program  # noqa: E402

OWN = ("run", "bench", "table", "out", "metrics_only")


def main(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        benches = ", ".join(sorted(path.stem for path in (CONF / "bench").glob("*.yaml")))
        print(as_here(f"{__doc__.strip()}\n\nbench: {benches}"))
        return 0
    own = [word for word in words if word.partition("=")[0] in OWN]
    try:
        given = parse(own, legal=OWN, required=("run",))
        from unigen.evaluation.jobs import measure_all

        return 1 if measure_all(given, [word for word in words if word not in own], CONF) else 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    program(main)
