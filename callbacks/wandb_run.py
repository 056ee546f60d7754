"""A W&B logger that needs no account and never ends a training: without W&B a run goes on offline, and says so."""

import atexit
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit
from uuid import uuid4

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger, Logger
from lightning.pytorch.utilities import rank_zero_only

from unigen.config.files import require_folder, write_text
from unigen.launch.preemption import NOTICE

# Seconds for which a training waits for W&B at its start and at its end; W&B's own are 90 and forever. The environment
# says otherwise: WANDB_INIT_TIMEOUT, WANDB_FINISH_TIMEOUT.
PATIENCE = {"init_timeout": 15, "finish_timeout": 30}
OWN_DATA: list[str] = []  # what WANDB_DATA_DIR was set to here
LEFT_OUT = "W&B is left out of this run"


class OptionalWandb(WandbLogger):
    """W&B's logger, whose failures end no training.

    If W&B does not answer at the start, refuses the key, or loses its service (a process of its own), the run uses W&B
    offline instead, with one warning. If that fails too, W&B is left out, with one more warning. `close` ends the run
    at W&B and prints the command that uploads what is only here. When SLURM asks all of a job to stop, the service ends
    at once: what is logged between that and the end of the run is in metrics.jsonl alone.
    """

    latest: ClassVar["OptionalWandb | None"] = None  # W&B has one run in a process

    def __init__(self, *args: Any, wanted: bool = True, **kwargs: Any) -> None:
        """`wanted` is false where the user did not ask for W&B: then nobody needs to be told how to upload."""
        super().__init__(*args, **kwargs)
        self._wandb_init.pop("anonymous", None)  # W&B warns that this word of Lightning's has no effect
        self._wanted, self._out, self._failed = wanted, False, False
        self._reached = 0  # W&B's step of the next row; to ask W&B takes a round trip to its service
        self._warned: set[str] = set()  # kinds of warnings that were said
        self._kept: list[str] = []  # folders that are to be uploaded by hand

    @property
    def experiment(self) -> Any:
        """The W&B run, which starts when it is first needed; a dummy without effect where there is none."""
        if self._experiment is None and not self._out and rank_zero_only.rank == 0:
            self._start()
        return DummyLogger().experiment if self._out else super().experiment

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        self._try(super().log_hyperparams, *args, **kwargs)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._try(self._log, metrics, step)

    def _log(self, metrics: Mapping[str, Any], step: int | None) -> None:
        """Log under the training step as W&B's own step, so that the offline parts of a resumed run are disjoint in it.

        Where W&B is further already (a run that is measured again), W&B counts on by itself and drops nothing.
        """
        run, own = self.experiment, {} if step is None else {"trainer/global_step": step}
        at = step if step is not None and step >= self._reached else None
        run.log({**metrics, **own}, step=at)
        self._reached = self._reached + 1 if at is None else at

    @rank_zero_only
    def log_samples(self, key: str, rows: list[dict[str, Any]], step: int | None = None) -> None:
        """Log samples as a table, a column for each key of the first row; images may be Pillow's."""
        self._try(self._log_samples, key, rows, step)

    def _log_samples(self, key: str, rows: list[dict[str, Any]], step: int | None) -> None:
        from PIL.Image import Image
        from wandb import Image as Shown
        from wandb import Table

        columns = list(rows[0])
        cells = [[Shown(x) if isinstance(x, Image) else x for x in map(row.get, columns)] for row in rows]
        self._log({f"{key}/table": Table(columns=columns, data=cells)}, step)

    @rank_zero_only
    def log_image(self, *args: Any, **kwargs: Any) -> None:
        self._try(super().log_image, *args, **kwargs)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End a training; after a failure send an alert, and let the run count as failed at W&B."""
        error = sys.exc_info()[1]
        if status == "failed" and not isinstance(error, (SystemExit, KeyboardInterrupt)) and not NOTICE.given:
            self._failed = True
            said = _why(error) if isinstance(error, Exception) else "the training ended early"
            self._try(lambda: self.experiment.alert(title=f"{self._wandb_init.get('name')} failed", text=said))
        self._try(super().finalize, status)

    @rank_zero_only
    def close(self) -> None:
        """End the run at W&B and say how to upload what is only here. Called by itself at the end of the process."""
        run = self._experiment
        if run is not None and not run.disabled:
            try:
                run.finish(exit_code=int(self._failed))
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
        """Note the folders of the run that must be uploaded by hand."""
        folder = Path(self._experiment.settings.sync_dir)
        if not self._experiment.offline:
            self._kept += [] if sent else [str(folder)]
        elif self._wanted:
            self._kept += [there for there in _offline_runs(folder) if there not in self._kept]

    def _try(self, act: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Call W&B and catch whatever it raises, here alone: the run is worth more than its copy at W&B."""
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
            self._reached = getattr(super().experiment, "starting_step", 0)  # asking starts it
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
        """Start again without a server, under the same id, so that `wandb sync` joins the parts."""
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


def wandb_run(
    project: str,
    name: str,
    group: str,
    save_dir: str,
    job_type: str = "train",
    tags: Sequence[str] = (),
    table: str | None = None,
) -> Logger:
    """Make a W&B logger in the mode of WANDB_MODE; without it online if a key is known (WANDB_API_KEY or netrc), else
    offline.

    Offline files go to `save_dir`/wandb. Seeds of an arm share `group` and differ by name. Beside `tags` a run gets its
    `table` as a tag, if it has one, and the runs of a sweep `sweep <its folder's name>`. `wandb sync` uploads an
    offline run later, and joins the parts of one that was resumed: `save_dir` keeps its id, and the parts are disjoint
    in their steps. W&B keeps what a killed run logged after its checkpoint. Where W&B cannot be had at all, the logger
    does nothing, and a warning says why.
    """
    try:
        from wandb import Settings

        if OptionalWandb.latest is not None:  # the run of the previous job in this multirun
            OptionalWandb.latest.close()
        _end_what_runs()
        mode = _mode()
        limits = {key: value for key, value in PATIENCE.items() if f"WANDB_{key.upper()}" not in os.environ}
        about = {"project": project, "name": name, "group": group, "save_dir": save_dir, "mode": mode}
        about |= {"job_type": job_type, "tags": [tag[:64] for tag in [*tags, table, sweep_tag(Path(save_dir))] if tag]}
        if mode != "disabled":
            Path(save_dir).mkdir(parents=True, exist_ok=True)
            about["id"] = _run_id(Path(save_dir) / "wandb" / "run_id")
            _keep_off_the_home(Path(save_dir) / "wandb" / "cache")
            _keep_with_the_run(Path(save_dir) / "wandb" / "data")
        settings = Settings(silent=True, finish_timeout_raises=True, **limits)
        return OptionalWandb(**about, wanted=mode is None, settings=settings)
    except Exception as error:  # not installed, of another age, a folder that cannot be written
        _say(f"{LEFT_OUT} ({_why(error)}); metrics.jsonl has the numbers")
        return DummyLogger()


def sweep_tag(run_dir: Path) -> str | None:
    """Return the tag that all runs of a sweep share, from the folder that holds a run's; None for a single run."""
    sweep = run_dir.resolve().parent
    return f"sweep {sweep.name}" if any((sweep / file).is_file() for file in ("multirun.yaml", "array.sh")) else None


def _end_what_runs(service: bool = False) -> None:
    """End the W&B run of this process, into which Lightning would otherwise go on writing, and on request W&B's
    service.
    """
    wandb = sys.modules.get("wandb")
    if getattr(wandb, "run", None) is not None:
        with suppress(Exception):
            wandb.run.finish()
        wandb.run = None  # left there where the service is dead
    if service and wandb is not None:
        with suppress(Exception):
            wandb.teardown()


def _keep_off_the_home(instead: Path) -> None:
    """Give W&B another cache folder if the user's cannot be written: its service would log to the terminal."""
    home = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        if home.startswith("~"):
            raise FileNotFoundError("this user has no home")
        require_folder(Path(home) / "wandb", "W&B's log", "WANDB_CACHE_DIR")
    except OSError:
        os.environ.setdefault("WANDB_CACHE_DIR", str(instead))


def _keep_with_the_run(folder: Path) -> None:
    """Let the images of tables wait for the upload in the run's folder, unless the user says where, not in the home."""
    if os.environ.get("WANDB_DATA_DIR") in (None, *OWN_DATA):  # else it is the user's, not that of the job before
        OWN_DATA.append(str(folder.resolve()))
        os.environ["WANDB_DATA_DIR"] = OWN_DATA[-1]


def _mode() -> str | None:
    """The mode for W&B; None leaves it to W&B (WANDB_MODE, or online)."""
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
    """The id at W&B that the file `kept` holds, or a new one; None on ranks that do not log."""
    if rank_zero_only.rank != 0:
        return None
    known = kept.read_text(errors="replace").strip() if kept.is_file() else ""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", known):
        known = uuid4().hex[:12]
        write_text(kept, known)
    return known


def _offline_runs(folder: Path) -> list[str]:
    """The offline parts of a run, also of its earlier starts, that `wandb sync` has not yet marked as sent."""
    there = sorted({folder, *folder.parent.glob("offline-run-*")})
    return [str(path) for path in there if not any(path.glob("*.wandb.synced"))]


def _why(error: Exception) -> str:
    """An error in one line; W&B's own may have many."""
    text = " ".join(str(error).split()) or type(error).__name__
    return textwrap.shorten(text, 300, placeholder=" ...")


@rank_zero_only
def _say(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
