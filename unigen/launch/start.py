"""Runs an entry point under Hydra, so that bad input ends in one sentence: `error: ...` on stderr, exit code 1."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from unigen.config.preflight import config_dir_flag, preflight, sentence
from unigen.config.quoting import readable
from unigen.launch.own_process import JobFailed, needed, run_job

# What a user can cause and one sentence can say.  Anything else is a defect and keeps its traceback.
USER_ERRORS = (ValueError, OSError, OmegaConfBaseException, YAMLError)


def launch(task: Callable[[DictConfig], None], config_dir: Path, config_name: str = "config") -> None:
    """Check `sys.argv`, then run `task` once, or once for each job of a multirun (`-m`).

    Texts in `sys.argv` that Hydra could not read are put in quotes first.
    A job of a multirun that fails does not stop the others; the exit code is 1 if any failed.  SystemExit (preemption)
    passes through and ends a multirun.  `debug=true` prints the traceback of every error of `task`;
    HYDRA_FULL_ERROR=1 in the environment leaves all errors to Hydra.
    """
    import hydra
    from hydra.errors import HydraException

    failed: list[Exception] = []
    list_folders_once()
    sys.argv[1:] = readable(sys.argv[1:])
    main = hydra.main(version_base="1.3", config_path=str(config_dir.resolve()), config_name=config_name)
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        _take_checked_words(config_dir, config_name)
        main(_apart(task))()
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting
    try:
        _take_checked_words(config_dir, config_name)
        main(_guarded(_apart(task), failed))()
    except (*USER_ERRORS, HydraException) as exc:
        _raise_if_interrupted(exc)
        folder = isinstance(exc, OSError) and exc.errno is not None  # Hydra could not make the run's
        sys.exit(f"error: {sentence(exc)}{'; use run_dir=<another folder>' if folder else ''}")
    finally:
        del os.environ["HYDRA_FULL_ERROR"]
    if failed:
        sys.exit(1)


def _take_checked_words(config_dir: Path, config_name: str) -> None:
    """Check `sys.argv`, and prefix the keys that only a sweep's jobs have, which Hydra would otherwise refuse."""
    of_jobs = preflight(config_dir, sys.argv[1:], config_name)
    sys.argv[1:] = [f"++{word}" if word in of_jobs else word for word in sys.argv[1:]]


def list_folders_once() -> None:
    """Speed up `--help`: Hydra's loader lists a group some 230 times, and copies its whole config each time. Without
    overrides, as in `--help`, the copy changes nothing, so the folders are listed directly.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    slow = ConfigLoaderImpl.get_group_options
    if hasattr(slow, "__wrapped__"):
        return

    @functools.wraps(slow)
    def options(
        self: Any, group_name: str, results_filter: Any = ObjectType.CONFIG, *rest: Any, **more: Any
    ) -> list[str]:
        if rest or more:
            return slow(self, group_name, results_filter, *rest, **more)
        return self.repository.get_group_options(group_name, results_filter)

    ConfigLoaderImpl.get_group_options = options


def _apart(task: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Wrap `task`: a sweep's job on several devices runs in a process of its own."""

    @functools.wraps(task)
    def run(cfg: DictConfig) -> None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        if HydraConfig.get().mode == RunMode.MULTIRUN and needed(cfg):
            run_job(config_dir_flag(sys.argv[1:]))
        else:
            task(cfg)

    return run


def _guarded(task: Callable[[DictConfig], None], failed: list[Exception]) -> Callable[[DictConfig], None]:
    """Wrap `task` to report its errors here. Hydra would add lines of its own, and keep only a sweep's first error."""

    @functools.wraps(task)
    def run(cfg: DictConfig) -> None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        job = HydraConfig.get().job.num if HydraConfig.get().mode == RunMode.MULTIRUN else None
        try:
            task(cfg)
        except JobFailed as exc:
            failed.append(exc)
            print(f"job {job} failed: {' '.join(HydraConfig.get().overrides.task)}", file=sys.stderr, flush=True)
        except Exception as exc:
            _raise_if_interrupted(exc)
            failed.append(exc)
            if not isinstance(exc, USER_ERRORS) or OmegaConf.select(cfg, "debug"):
                traceback.print_exc()
            where = "" if job is None else f" (job {job}: {' '.join(HydraConfig.get().overrides.task)})"
            print(f"error: {_message(exc)}{where}", file=sys.stderr, flush=True)

    return run


def _raise_if_interrupted(exc: BaseException) -> None:
    """Raise KeyboardInterrupt if it caused `exc`: within OmegaConf, a Ctrl-C becomes an error that looks like the
    user's.
    """
    seen: list[BaseException] = []
    while exc is not None and exc not in seen:
        if isinstance(exc, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        seen.append(exc)
        exc = exc.__cause__ or exc.__context__


def _message(exc: Exception) -> str:
    known = isinstance(exc, USER_ERRORS) and str(exc)
    return sentence(exc) if known else f"{type(exc).__name__}: {sentence(exc)}"
