"""Estimate a run's needs before any allocation: `python experiments/plan.py +exp=NAME scale=paper trainer.devices=8`.

+exp=NAME [group=choice] [key=value]   as for run.py; with +table=NAME or -m, each arm and the whole sweep
profile=NAME   the device: a file of experiments/conf/profile (default h100), or the path of a .yaml file like those
Prints parameters, memory of one device by part, FLOPs, hours and GPU-hours, and what would make it fit if it does not.
"""

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "experiments" / "conf"
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from unigen.config.commands import as_here  # noqa: E402
from unigen.launch.terminal import program  # noqa: E402


def main(words: list[str]) -> int:
    if not words or {"-h", "--help"} & set(words):
        print(as_here(__doc__.strip()))
        return 0
    own = [word for word in words if word.startswith("profile=")]
    from unigen.launch.start import launch

    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # shapes need no weights
    plans, known = [], {}

    def task(cfg) -> None:
        from unigen.config.values import own_packages, plain
        from unigen.tools.plan.profile import read_profile
        from unigen.tools.plan.terminal import decisive, show_plan

        own_packages(ROOT)
        profile = read_profile(CONF / "profile", own[-1].partition("=")[2] if own else "h100")
        config = plain(cfg)
        key = decisive(config)
        if key not in known:  # arms by seed: seeds do not differ
            known[key] = show_plan(config, profile)
        plans.append(known[key])

    with tempfile.TemporaryDirectory(prefix="unigen-plan-") as folder:  # a multirun insists on one
        sweep = [f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=.", "~hydra.callbacks.sweep_folder"]
        sys.argv = [sys.argv[0], *(word for word in words if word not in own), "hydra.run.dir=.", *sweep]
        launch(task, CONF)
    if len(plans) > 1:
        from rich.console import Console

        from unigen.tools.plan.terminal import sweep_table

        Console(highlight=False).print(sweep_table(plans))
    return 0


if __name__ == "__main__":
    program(main)
