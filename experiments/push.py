"""Write a finished run as a Hugging Face repository, and upload it: `python experiments/push.py run=<run folder>`.

run=       a finished run folder
out=       the folder to write (default: hub/ of the run)
repo=      owner/name on the Hub: uploads the folder where one is logged in (hf auth login), and else says how
private=   true (default) or false: whether a new repository is private
licence=   the Hub's word for the licence of the weights (default: that of the base, where it is known)

config.yaml and export/unigen.json go with it as they are, with the paths of folders that the run read.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from unigen.config.arguments import parse  # noqa: E402
from unigen.config.commands import as_here  # noqa: E402
from unigen.launch.terminal import program  # noqa: E402

LEGAL = ("run", "out", "repo", "private", "licence")


def main(words: list[str]) -> int:
    if not words or {"-h", "--help"} & set(words):
        print(as_here(__doc__.strip()))
        return 0
    try:
        given = parse(words, legal=LEGAL, required=("run",))
        private = given.get("private", "true")
        if private not in ("true", "false"):
            raise ValueError(f"private={private}: legal are true and false")
        from unigen.tools import push

        run = Path(given["run"])
        folder = push.prepare(run, Path(given.get("out", run / "hub")), given.get("licence"))
        print(f"repository: {folder}")
        if "repo" in given:
            url = push.upload(folder, given["repo"], private == "true")
            later = f"nobody is logged in; after hf auth login: {push.command(folder, given['repo'])}"
            print(f"uploaded: {url}" if url else later)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    program(main)
