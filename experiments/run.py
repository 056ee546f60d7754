"""Train, sample and measure one experiment, or with -m an ablation: `python experiments/run.py +exp=fcd_mask_a`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from unigen.launch.preemption import NOTICE, deafen  # noqa: E402
from unigen.launch.terminal import one_line_for_ctrl_c, steady_output  # noqa: E402

if __name__ == "__main__":
    steady_output()
    one_line_for_ctrl_c()
    NOTICE.listen()  # a signal during the seconds of imports is not lost

from unigen.config.stages import STAGED  # noqa: E402
from unigen.launch.start import USER_ERRORS, launch  # noqa: E402


def main(cfg) -> None:
    """One job. Its folder is Hydra's, so that every job of a sweep has one of its own."""
    from hydra.core.hydra_config import HydraConfig

    from unigen.config.replaced import replaced
    from unigen.config.values import own_packages
    from unigen.launch.claims import first_rank
    from unigen.launch.machine import able
    from unigen.launch.run_folder import run_folder

    own_packages(ROOT)
    with run_folder(cfg) as (config, run_dir):
        if not config["dry_run"]:
            able(config)
        from unigen.training import experiment as training

        training.quiet()
        folders = [Path(source.path) for source in HydraConfig.get().runtime.config_sources if source.schema == "file"]
        for said in replaced(HydraConfig.get().overrides.task, folders) if first_rank() else ():
            print(f"note: {said}", flush=True)
        if config["dry_run"]:
            training.dry_run(config)
        else:
            training.run(config, run_dir)
    print(f"run folder: {run_dir}", flush=True)


def in_stages(conf: Path) -> int | None:
    """Run a line that tunes, or that adds seeds until its question is answered; None for every other line."""
    if not any(word.lstrip("+").startswith(STAGED) for word in sys.argv[1:]):
        return None
    from unigen.config.values import sentence
    from unigen.tools.sweep.local import run_stages

    try:
        return run_stages(conf, sys.argv[1:])
    except USER_ERRORS as error:
        sys.exit(f"error: {sentence(error)}")


if __name__ == "__main__":
    conf = ROOT / "experiments" / "conf"
    code = in_stages(conf)
    if code is None:
        launch(main, conf)
    deafen()
    sys.exit(code)
