"""A W&B logger that needs no account: it writes files of its own unless the user is logged in."""

import os
import sys
from pathlib import Path

from lightning.pytorch.loggers import WandbLogger


def wandb_run(project: str, name: str, group: str, save_dir: str) -> WandbLogger:
    """Online if WANDB_MODE says so or a key is known (WANDB_API_KEY or netrc), else offline in `save_dir`/wandb.

    Arms of an ablation share `group`; seeds differ by name. `wandb sync` uploads an offline run later.
    """
    from wandb import Settings

    mode = os.environ.get("WANDB_MODE")
    offline = mode == "offline" or (mode is None and not _logged_in())
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    running = getattr(sys.modules.get("wandb"), "run", None)
    if running is not None:  # the job before in this multirun: Lightning would go on writing into it
        running.finish()
    return WandbLogger(
        project=project, name=name, group=group, save_dir=save_dir, offline=offline, settings=Settings(silent=True)
    )


def _logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return netrc.is_file() and "wandb" in netrc.read_text(errors="ignore")
