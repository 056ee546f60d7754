"""Turn run folders into one table: `python experiments/report.py runs=<folder> [out=<folder>]`.

runs=  a run folder, a folder with runs at any depth, or a comma-separated list of either
out=   where report.md and report.html go (default: the folder of `runs` if it is one, else the current one)
"""

import sys
from pathlib import Path

from unigen.arguments import parse


def main(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(__doc__.strip())
        return 0
    try:
        given = parse(words, legal=("runs", "out"), required=("runs",))
        from unigen.files import write_text
        from unigen.report import build_report, to_markdown
        from unigen.report_html import to_html

        report = build_report(given["runs"])
        out = Path(given.get("out") or (given["runs"] if Path(given["runs"]).is_dir() else "."))
        write_text(out / "report.md", to_markdown(report, out))
        write_text(out / "report.html", to_html(report))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    from unigen.report import print_tables

    print_tables(report)
    print(f"markdown: {out / 'report.md'}\nreport: {out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
