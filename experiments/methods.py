"""Write the table of in-context methods: `python experiments/methods.py`.

page=   the page whose marked block is written anew (docs/methods.md)

Its rows are the files of experiments/conf/exp/methods, its paragraphs their headers.
"""

import sys
from pathlib import Path

from unigen.config.arguments import parse
from unigen.config.commands import as_here
from unigen.launch.terminal import program

CONF = Path(__file__).resolve().parent / "conf"
PAGE = CONF.parents[1] / "docs" / "methods.md"


def main(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(as_here(__doc__.strip()))
        return 0
    try:
        given = parse(words, legal=("page",), required=())
        from unigen.tools.methods import write_page

        said = write_page(Path(given.get("page", PAGE)), CONF)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(said)
    return 0


if __name__ == "__main__":
    program(main)
