"""Turn run folders into one report: `python experiments/report.py runs=<folder>` or `... table=<name>`.

runs=       a run folder, a folder with runs at any depth, a pattern of either ('sweep/*flux*'), or a list with commas
table=      a published table (experiments/conf/table): its numbers beside ours; runs= defaults to ./runs, of which it
            takes what belongs to the table
bench=      a benchmark, or several with commas between: the numbers are those of evaluate.py on them, not of the runs'
            own tests
reference=  the arm that differences are taken to (default: the last row of the table that has runs, or the first arm)
out=        where report.md, report.tex, report.html, wandb_report.json and the folder figures go (default: the folder
            of `runs` if it is one, for a list or a pattern runs/reports/<time>; without runs=: runs/reports/<table>)
publish=    true: publish the W&B report as well, and a view of its runs, where you are logged in
"""

import sys
from pathlib import Path

from unigen.config.arguments import parse
from unigen.config.commands import as_here
from unigen.launch.terminal import program

TABLES = Path(__file__).resolve().parent / "conf" / "table"


def main(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(as_here(__doc__.strip()))
        return 0
    try:
        given = parse(words, legal=("runs", "table", "bench", "reference", "out", "publish"), required=())
        from unigen.tools.report.commands import make_report

        report, lines = make_report(given, TABLES)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    from unigen.tools.report.markdown import print_report

    print_report(report)
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    program(main)
