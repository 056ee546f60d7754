"""Keep outputs of frozen encoders in a folder: `python experiments/cache.py build cache=<folder> +exp=fcd_mask_a`.

build   encode those of the experiment's training, validation and test images and prompts that are missing
          batches=N    only the first N training batches (default: all batches of the run)
verify  read every shard; with +exp=, also encode kept entries of held-out images and prompts anew
          sample=N     at most N of each (default 16)
gc      remove temporary files older than an hour, merge small shards, list what cannot be read
          yes=true     also remove what cannot be read, and what others=drop names
          others=drop  list the shards of encoders that are not those of +exp=
All three need cache=<folder> and accept what run.py accepts: +exp=NAME [group=choice] [key=value] (docs/cache.md).
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from unigen.config.arguments import parse  # noqa: E402
from unigen.config.commands import as_here  # noqa: E402
from unigen.launch.terminal import program  # noqa: E402

OPTIONS = {"build": ("batches",), "verify": ("sample",), "gc": ("yes", "others")}


def main(words: list[str]) -> int:
    if not words or {"-h", "--help"} & set(words):
        print(as_here(__doc__.strip()))
        return 0
    try:
        command, options, rest = split(words)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    from unigen.launch.start import launch

    def task(cfg) -> None:
        from unigen.config.values import own_packages, plain
        from unigen.tools.cache.commands import run_command

        own_packages(ROOT)
        run_command(command, plain(cfg), options, with_exp=any(word.startswith("+exp=") for word in rest))

    sys.argv = [sys.argv[0], *rest, "hydra.run.dir=."]  # no run folder
    launch(task, ROOT / "experiments" / "conf")
    return 0


def split(words: list[str]) -> tuple[str, dict[str, str], list[str]]:
    """The command, its own options, and what is for Hydra. Raises ValueError, one sentence, for a bad line."""
    command, *others = words
    if command not in OPTIONS:
        raise ValueError(f"unknown command '{command}' (known: {', '.join(OPTIONS)})")
    own = [word for word in others if word.partition("=")[0] in OPTIONS[command]]
    rest = [word for word in others if word not in own]
    if any(word in ("-m", "--multirun") or word.startswith("+table=") for word in rest):
        raise ValueError("one experiment at a time: -m and +table= are for run.py")
    options = parse(own, legal=OPTIONS[command], required=())
    legal = {"yes": ("true", "false"), "others": ("drop",)}
    for key, value in options.items():
        if key in legal and value not in legal[key]:
            raise ValueError(f"{key}={value}: it may be {' or '.join(legal[key])}")
        if key not in legal and not (value.isascii() and value.isdigit()):
            raise ValueError(f"{key}={value} is not a whole number")
    return command, options, rest


if __name__ == "__main__":
    program(main)
