"""A W&B logger that needs no account: it writes files of its own unless the user is logged in."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from unigen.files import write_text
from unigen.preemption import NOTICE


class PreemptedLogger(WandbLogger):
    """W&B's service is a process of its own, which ends at once when SLURM sends SIGTERM to all of a job.

    The run ends at its next step, and is not to fail before: what it logs meanwhile stands in metrics.jsonl alone.
    """

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        with _spared():
            super().log_metrics(*args, **kwargs)

    def log_image(self, *args: Any, **kwargs: Any) -> None:
        with _spared():
            super().log_image(*args, **kwargs)


@contextmanager
def _spared() -> Iterator[None]:
    try:
        yield
    except ConnectionError:
        if not NOTICE.given:
            raise


def wandb_run(project: str, name: str, group: str, save_dir: str) -> PreemptedLogger:
    """Online if WANDB_MODE says so or a key is known (WANDB_API_KEY or netrc), else offline in `save_dir`/wandb.

    Arms of an ablation share `group`; seeds differ by name. `wandb sync` uploads an offline run later, and merges the
    parts of one that was resumed: `save_dir` keeps its id. W&B keeps what a killed run logged after its checkpoint.
    """
    from wandb import Settings

    mode = os.environ.get("WANDB_MODE")
    offline = mode == "offline" or (mode is None and not _logged_in())
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    running = getattr(sys.modules.get("wandb"), "run", None)
    if running is not None:  # the job before in this multirun: Lightning would go on writing into it
        running.finish()
    about = {"project": project, "name": name, "group": group, "id": _run_id(Path(save_dir) / "wandb" / "run_id")}
    return PreemptedLogger(**about, save_dir=save_dir, offline=offline, settings=Settings(silent=True))


def _run_id(kept: Path) -> str | None:
    """The id at W&B that a file keeps, or a new one; None on ranks that do not log."""
    if rank_zero_only.rank != 0:
        return None
    if not kept.is_file():
        write_text(kept, uuid4().hex[:12])
    return kept.read_text()


def _logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return netrc.is_file() and "wandb" in netrc.read_text(errors="ignore")
