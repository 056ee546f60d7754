"""Export the weights of a checkpoint for other programs: `python experiments/export.py run=<run folder>`.

run=         a run folder, finished or not
checkpoint=  last (the default), best, step_N or the path of one: a file, or a folder of shards as DeepSpeed and FSDP2
             leave
out=         the folder to write (default: export/ of the run, to which a finished run writes too)
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
    if not words or {"-h", "--help"} & set(words):
        print(as_here(__doc__.strip()))
        return 0
    try:
        given = parse(words, legal=("run", "checkpoint", "out"), required=("run",))
        from unigen.tools.export import export_checkpoint
        from unigen.training.experiment import quiet

        quiet()
        print(f"export: {export_checkpoint(given)}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    program(main)
