"""A W&B logger that needs no account and never ends a training: without W&B a run goes on offline, and says so."""

import atexit
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit
from uuid import uuid4

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger, Logger
from lightning.pytorch.utilities import rank_zero_only

from unigen.files import require_folder, write_text
from unigen.preemption import NOTICE

# Seconds for which a training waits for W&B at its start and at its end; W&B's own are 90 and forever. The environment
# says otherwise: WANDB_INIT_TIMEOUT, WANDB_FINISH_TIMEOUT.
PATIENCE = {"init_timeout": 15, "finish_timeout": 30}
LEFT_OUT = "W&B is left out of this run"


class OptionalWandb(WandbLogger):
    """W&B's logger, whose failures end no training.

    W&B that does not answer at the start, refuses the key, or whose service (a process of its own) dies is replaced by
    W&B offline, with one warning. What fails after that is left out, with one more. `close` ends the run at W&B and
    prints the line that uploads what is only here. When SLURM asks all of a job to stop, the service ends at once:
    what is logged until the run itself ends stands in metrics.jsonl alone.
    """

    latest: ClassVar["OptionalWandb | None"] = None  # W&B has one run in a process

    def __init__(self, *args: Any, wanted: bool = True, **kwargs: Any) -> None:
        """`wanted` is false where W&B was not asked for: then nobody needs to be told how to upload."""
        super().__init__(*args, **kwargs)
        self._wandb_init.pop("anonymous", None)  # W&B warns that this word of Lightning's has no effect
        self._wanted, self._out = wanted, False
        self._warned: set[str] = set()  # kinds of warnings that were said
        self._kept: list[str] = []  # folders that are to be uploaded by hand

    @property
    def experiment(self) -> Any:
        """W&B's run, started when first asked for; a dummy without effect where there is none."""
        if self._experiment is None and not self._out and rank_zero_only.rank == 0:
            self._start()
        return DummyLogger().experiment if self._out else super().experiment

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        self._try(super().log_hyperparams, *args, **kwargs)

    @rank_zero_only
    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        self._try(super().log_metrics, *args, **kwargs)

    @rank_zero_only
    def log_image(self, *args: Any, **kwargs: Any) -> None:
        self._try(super().log_image, *args, **kwargs)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._try(super().finalize, status)

    @rank_zero_only
    def close(self) -> None:
        """Ends the run at W&B; says how to upload what is only here. Happens at the end of the process by itself."""
        run = self._experiment
        if run is not None and not run.disabled:
            try:
                run.finish()
                self._keep(sent=True)
            except Exception as error:  # as in `_try`
                self._keep(sent=False)
                _end_what_runs(service=True)
                if not run.offline and not NOTICE.given:
                    self._warn(f"W&B did not take all of this run ({_why(error)})")
        if self._kept:
            # on stderr: the last line of run.py's stdout is its folder
            folders = shlex.join(map(os.path.relpath, self._kept))
            print(f"to upload it to W&B: wandb sync {folders}", file=sys.stderr, flush=True)
        self._kept, self._experiment, self._out, OptionalWandb.latest = [], None, True, None
        atexit.unregister(self.close)

    def _keep(self, sent: bool) -> None:
        """Notes the folders of the run as it is, if they are to be uploaded by hand."""
        folder = Path(self._experiment.settings.sync_dir)
        if not self._experiment.offline:
            self._kept += [] if sent else [str(folder)]
        elif self._wanted:
            self._kept += [there for there in _offline_runs(folder) if there not in self._kept]

    def _try(self, act: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """The one place where what W&B raises is caught, of whatever type: the run is worth more than its copy."""
        if self._experiment is None and not self._out:
            self._start()
        if self._out:
            return
        try:
            act(*args, **kwargs)
        except ConnectionError as error:  # W&B's service is gone, and comes not back by itself
            if NOTICE.given or self._offline_by_now():
                self._leave_out(error)
            else:
                self._go_offline(error)
                self._try(act, *args, **kwargs)
        except Exception as error:
            self._warn(f"W&B did not take what was logged ({_why(error)}); metrics.jsonl has the numbers")

    def _start(self) -> None:
        try:
            super().experiment  # noqa: B018 (asking starts it)
            OptionalWandb.latest = self
            atexit.register(self.close)  # after W&B's own, so that it runs before
        except Exception as error:  # W&B's errors, pydantic's for a bad variable, OSError for a folder
            if self._offline_by_now():
                self._leave_out(error)
            else:
                self._go_offline(error)

    def _offline_by_now(self) -> bool:
        return self._wandb_init["mode"] == "offline"

    def _go_offline(self, error: Exception) -> None:
        """Starts again without a server, under the same id, so that `wandb sync` puts the parts together."""
        if self._experiment is not None:
            self._keep(sent=False)
        self._experiment, self._wanted, self._wandb_init["mode"] = None, True, "offline"
        _end_what_runs(service=True)
        self._start()
        if not self._out:
            self._warn(f"no connection to W&B ({_why(error)}); the run goes on, and logs to W&B offline")

    def _leave_out(self, error: Exception) -> None:
        if self._experiment is not None:
            self._keep(sent=False)
        self._experiment, self._out = None, True
        _end_what_runs(service=True)
        if not NOTICE.given:
            _say(f"{LEFT_OUT} ({_why(error)}); metrics.jsonl has the numbers")

    def _warn(self, text: str) -> None:
        kind = text.partition("(")[0]
        if kind not in self._warned:
            self._warned.add(kind)
            _say(text)


def wandb_run(project: str, name: str, group: str, save_dir: str) -> Logger:
    """W&B as WANDB_MODE says; without that online if a key is known (WANDB_API_KEY or netrc), else offline.

    Offline files go to `save_dir`/wandb. Arms of an ablation share `group`; seeds differ by name. `wandb sync` uploads
    an offline run later, and merges the parts of one that was resumed: `save_dir` keeps its id. W&B keeps what a
    killed run logged after its checkpoint. Where W&B cannot be had at all, the logger does nothing, and a warning says
    why.
    """
    try:
        from wandb import Settings

        if OptionalWandb.latest is not None:  # of the job before in this multirun
            OptionalWandb.latest.close()
        _end_what_runs()
        mode = _mode()
        limits = {key: value for key, value in PATIENCE.items() if f"WANDB_{key.upper()}" not in os.environ}
        about = {"project": project, "name": name, "group": group, "save_dir": save_dir, "mode": mode}
        if mode != "disabled":
            Path(save_dir).mkdir(parents=True, exist_ok=True)
            about["id"] = _run_id(Path(save_dir) / "wandb" / "run_id")
            _keep_off_the_home(Path(save_dir) / "wandb" / "cache")
        settings = Settings(silent=True, finish_timeout_raises=True, **limits)
        return OptionalWandb(**about, wanted=mode is None, settings=settings)
    except Exception as error:  # not installed, of another age, a folder that cannot be written
        _say(f"{LEFT_OUT} ({_why(error)}); metrics.jsonl has the numbers")
        return DummyLogger()


def _end_what_runs(service: bool = False) -> None:
    """No run of this process is left at W&B, into which Lightning would go on writing; nor W&B's service if asked."""
    wandb = sys.modules.get("wandb")
    if getattr(wandb, "run", None) is not None:
        with suppress(Exception):
            wandb.run.finish()
        wandb.run = None  # left there where the service is dead
    if service and wandb is not None:
        with suppress(Exception):
            wandb.teardown()


def _keep_off_the_home(instead: Path) -> None:
    """Where the user's cache folder cannot be written, W&B's service would write its log to the terminal."""
    home = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        if home.startswith("~"):
            raise FileNotFoundError("this user has no home")
        require_folder(Path(home) / "wandb", "W&B's log", "WANDB_CACHE_DIR")
    except OSError:
        os.environ.setdefault("WANDB_CACHE_DIR", str(instead))


def _mode() -> str | None:
    """None leaves it to W&B: WANDB_MODE, or online."""
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):  # W&B itself forgot this one
        return "disabled"
    if os.environ.get("WANDB_MODE"):
        return None if os.environ["WANDB_MODE"] != "disabled" else "disabled"
    return None if _logged_in() else "offline"


def _logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "")).hostname or "wandb"
    try:
        netrc = Path(os.environ.get("NETRC") or Path.home() / ".netrc").read_text(errors="ignore")
    except (OSError, RuntimeError):  # there is none, or no home; W&B could not read it either
        return False
    return "wandb" in netrc or host in netrc


def _run_id(kept: Path) -> str | None:
    """The id at W&B that a file keeps, or a new one; None on ranks that do not log."""
    if rank_zero_only.rank != 0:
        return None
    known = kept.read_text(errors="replace").strip() if kept.is_file() else ""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", known):
        known = uuid4().hex[:12]
        write_text(kept, known)
    return known


def _offline_runs(folder: Path) -> list[str]:
    """The offline parts of a run, of its earlier starts too, that `wandb sync` has not yet marked as sent."""
    there = sorted({folder, *folder.parent.glob("offline-run-*")})
    return [str(path) for path in there if not any(path.glob("*.wandb.synced"))]


def _why(error: Exception) -> str:
    """An error in one line; W&B's own may have many."""
    text = " ".join(str(error).split()) or type(error).__name__
    return textwrap.shorten(text, 300, placeholder=" ...")


@rank_zero_only
def _say(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
