"""Claims a folder for one process at a time. The claim ends with the process, however it ends.

The claim is a lock of the kernel on the file `.owner` in the folder, so a dead owner holds nothing. The file names its
owner (host, process, start) for those who are refused. Light on purpose (no torch): entry points claim before anything
heavy is imported.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unigen.config.values import ConfigError
from unigen.launch.preemption import job_id

OWNER = ".owner"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)  # errors of file systems that cannot lock
PATIENCE = 60.0  # seconds that a requeued job waits for its own former self
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # in Lightning's order

_held: set[Path] = set()  # by this process: the kernel's locks keep processes apart, not threads
_guard = threading.Lock()
os.register_at_fork(after_in_child=_held.clear)


class InUse(ConfigError):
    """Another process holds the folder; the message says which one."""


def first_rank(environment: Mapping[str, str] = os.environ) -> bool:
    """True for the one rank of a run that writes files. Lightning decides in the same way, after its imports."""
    return int(next((environment[key] for key in RANKS if key in environment), 0)) == 0


@contextmanager
def claimed(folder: Path, advice: str) -> Iterator[Path]:
    """Make the folder if necessary, and hold it for this process alone during the block.

    Args:
        advice: what the user can do if somebody else holds it, such as "use run_dir=<another folder>".

    Raises:
        InUse: a living process holds it.
        ConfigError: it cannot be made or written.
    """
    owner = folder.resolve() / OWNER
    with _guard:
        if owner in _held:
            raise InUse(f"{folder} is in use by this process; {advice}")
        _held.add(owner)
    try:
        handle = _patiently(owner, folder, advice)
        try:
            yield folder
        finally:
            owner.unlink(missing_ok=True)  # while it is still ours, see `_locked`
            os.close(handle)
    finally:
        _held.discard(owner)


@contextmanager
def claimed_new(folder: Path) -> Iterator[Path]:
    """Claim the first of `folder`, `folder`_2, `folder`_3, ... that is not in use and is empty.

    Two processes that start in the same second generate the same name.
    """
    for number in range(1, 10_000):
        path = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        claim = claimed(path, "it is a generated name")
        try:
            claim.__enter__()
        except InUse:
            continue
        if not is_new(path):
            claim.__exit__(None, None, None)
            continue
        try:
            yield path
        finally:
            claim.__exit__(None, None, None)
        return
    raise ConfigError(f"{folder} and 10,000 folders of that name with a suffix are used; name one of your own")


def holder(folder: Path) -> dict[str, Any] | None:
    """Return what the living process of this machine that holds the folder wrote of itself (`process` is its number).

    None if nobody here holds it. The claim of another machine counts as nobody's, because its process cannot be seen.
    """
    there = _read(folder / OWNER)
    return there if there.get("host") == socket.gethostname() and _lives(there) else None


def is_new(folder: Path) -> bool:
    """True if a claimed folder holds nothing but the claim."""
    return all(file.name == OWNER for file in folder.iterdir())


def _patiently(owner: Path, folder: Path, advice: str) -> int:
    """Lock the file and return its handle. A requeued job may start before its former self has ended, so it waits."""
    began = time.monotonic()
    while True:
        try:
            owner.parent.mkdir(parents=True, exist_ok=True)
            handle = _locked(owner)
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written ({error.strerror or error}); {advice}") from error
        if handle is not None:
            return handle
        there = _read(owner)
        requeued = there.get("job") is not None and there["job"] == job_id()
        if not requeued or time.monotonic() - began > PATIENCE:
            raise InUse(f"{folder} is in use by {_spelt(there)}; wait until it ends, or {advice}")
        time.sleep(0.2)


def _locked(owner: Path) -> int | None:
    """Lock the file, write our name into it and return its handle; None if another process has the lock."""
    while True:
        handle = os.open(owner, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return None
            if error.errno in NO_LOCKS:
                return _marked(owner)
            raise
        if _is_at(handle, owner):
            return _signed(handle)
        os.close(handle)  # the owner before removed the file after we opened it: the lock is on nothing


def _marked(owner: Path) -> int | None:
    """Claim by the file's existence, where the file system has no locks: one process creates the file, and the claim of
    a dead owner is taken over.

    Raises OSError if its owner is on another machine, where nobody here can see whether it lives.
    """
    there = _read(owner)
    if there and there.get("host") != socket.gethostname():
        raise OSError(f"it is marked by {_spelt(there)}, and its file system has no locks: if that is dead, rm {owner}")
    if there and _lives(there):
        return None
    stale = owner.with_name(f"{OWNER}.{os.getpid()}")
    try:
        os.rename(owner, stale)  # one process alone can
        stale.unlink()
        return _signed(os.open(owner, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644))
    except (FileNotFoundError, FileExistsError):
        return None


def _signed(handle: int) -> int:
    began = time.strftime("%Y-%m-%d %H:%M:%S")
    said = {"host": socket.gethostname(), "process": os.getpid(), "born": _born(os.getpid()), "began": began}
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(said | {"job": job_id()}).encode() + b"\n", 0)
    return handle


def _read(owner: Path) -> dict[str, Any]:
    try:
        found = json.loads(owner.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _spelt(there: Mapping[str, Any]) -> str:
    if not there:
        return "another process"
    job = f" (SLURM job {there['job']})" if there.get("job") else ""
    return f"process {there.get('process')} on {there.get('host')}{job} since {there.get('began')}"


def _is_at(handle: int, owner: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), owner.stat())
    except FileNotFoundError:
        return False


def _born(process: int) -> str | None:
    """The start time of a process in the kernel's ticks, because process numbers are used again."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _lives(there: Mapping[str, Any]) -> bool:
    try:
        os.kill(int(there["process"]), 0)
    except (ProcessLookupError, KeyError, TypeError, ValueError):
        return False
    except PermissionError:
        pass
    return there.get("born") in (None, _born(there["process"]))
