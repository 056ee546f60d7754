"""Try, preview and follow models in a browser, on this machine alone: `python experiments/studio.py`.

Needs the extra studio: pip install 'unigen[studio]'. Open the address that it prints; docs/studio.md has more.

runs=   the folder whose runs are listed, tried and followed, and into which new ones go (default: runs)
out=    where results, masks and exports of the studio go (default: studio/ in the folder of runs=)
port=   the port on 127.0.0.1 (default: 7860, or the next one that is free)
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
        given = parse(words, legal=("runs", "out", "port"), required=())
        port = given.get("port")
        if port is not None and not (port.isascii() and port.isdigit() and 0 <= int(port) < 65536):
            raise ValueError(f"port={port} is not a number from 0 to 65535, of which 0 takes any free one")
        runs = Path(given.get("runs", "runs")).absolute()
        if runs.exists() and not runs.is_dir():
            raise ValueError(f"runs={runs} is no folder")
        from unigen.tools.sample import sampled
        from unigen.tools.studio.page import serve
        from unigen.tools.studio.places import Places

        places = Places(ROOT, runs, Path(given.get("out", runs / "studio")).absolute())
        serve(places, sampled, None if port is None else int(port))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    program(main)
