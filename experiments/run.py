"""Train, sample and measure one experiment, or with -m an ablation: `python experiments/run.py +exp=fcd_mask_a`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from unigen.preemption import NOTICE, deafen  # noqa: E402
from unigen.terminal import one_line_for_ctrl_c, steady_output  # noqa: E402

if __name__ == "__main__":
    steady_output()
    one_line_for_ctrl_c()
    NOTICE.listen()  # a signal during the seconds of imports is not lost

from unigen.launch import launch  # noqa: E402


def main(cfg) -> None:
    """One job. Its folder is Hydra's, so that every job of a sweep has one of its own."""
    from unigen.config import own_packages
    from unigen.machine import able
    from unigen.run_folder import run_folder

    own_packages(ROOT)
    with run_folder(cfg) as (config, run_dir):
        if not config["dry_run"]:
            able(config)
        from unigen import training

        training.quiet()
        if config["dry_run"]:
            training.dry_run(config)
        else:
            training.run(config, run_dir)
    print(f"run folder: {run_dir}", flush=True)


if __name__ == "__main__":
    launch(main, ROOT / "experiments" / "conf")
    deafen()
