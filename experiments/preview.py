"""Write one HTML page of what a run will show its model: `python experiments/preview.py +exp=fcd_mask_a`.

+exp=NAME [group=choice] [key=value]   as for run.py: the page shows the first training samples with the prompts as the
           encoder reads them, who attends to whom, tokens and FLOPs, and buckets and tasks of 1,000 drawn samples
graph=NAME [graph.key=value]   or only an annotation graph of experiments/conf/graph, in numbers
out=       the page, a .html file, or a folder for preview.html (default: runs/preview_<name>.html)
samples=N  how many training samples to show (default 4)
docs/preview.md describes the page.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from unigen.config.arguments import parse  # noqa: E402
from unigen.config.commands import as_here  # noqa: E402
from unigen.launch.terminal import program  # noqa: E402

OPTIONS = ("out", "samples")


def main(words: list[str]) -> int:
    if not words or {"-h", "--help"} & set(words):
        print(as_here(__doc__.strip()))
        return 0
    try:
        options, rest = split(words)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    from unigen.launch.start import launch

    alone = any(word.startswith("graph=") for word in rest)

    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # shapes need no weights; a tokenizer is taken if it is here already

    def task(cfg) -> None:
        from unigen.config.values import own_packages, plain
        from unigen.tools.preview.commands import preview_experiment, preview_graph

        own_packages(ROOT)
        (preview_graph if alone else preview_experiment)(plain(cfg), options)

    sys.argv = [sys.argv[0], *rest, "hydra.run.dir=."]  # no run folder
    launch(task, ROOT / "experiments" / "conf", "graph_only" if alone else "config")
    return 0


def split(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """The page's own options, and what is for Hydra. Raises ValueError, one sentence, for a bad line."""
    own = [word for word in words if word.partition("=")[0] in OPTIONS]
    rest = [word for word in words if word not in own]
    if any(word in ("-m", "--multirun") or word.startswith("+table=") for word in rest):
        raise ValueError("one experiment at a time: -m and +table= are for run.py")
    if any(word.startswith("graph=") for word in rest) and any(word.startswith("+exp=") for word in rest):
        raise ValueError("graph= shows a graph by itself; for one of an experiment's data write graph@data.graph=NAME")
    options = parse(own, legal=OPTIONS, required=())
    count = options.get("samples", "4")
    if not (count.isascii() and count.isdigit() and 1 <= int(count) <= 64):
        raise ValueError(f"samples={count} is not a whole number from 1 to 64")
    return options, rest


if __name__ == "__main__":
    program(main)
