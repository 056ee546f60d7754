"""Handles requests to stop (a signal, Ctrl-C, the time limit): noted while a run trains, obeyed at once otherwise.

Light on purpose (no torch, no Lightning): entry points listen before anything heavy is imported.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

DEAF = "SIGTERM or Ctrl-C ends the process at once, and the run goes on from its last checkpoint\n"
CODE = 128 + signal.SIGTERM  # 143, the code of a process that SIGTERM ended: not finished, and not by its own fault
INTERRUPTED = 128 + signal.SIGINT  # 130, that of one which its user stopped
# SLURM's --signal=USR1@N, its end, our time limit, a terminal or an ssh connection that closes
SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGALRM, signal.SIGHUP)
ONCE_MORE = b"\ninterrupted: the run saves after this step or validation and stops; Ctrl-C again stops at once\n"
UNITS = {"h": 3600, "m": 60, "s": 1}


class Preempted(SystemExit):
    """The run stops because it was asked to, and continues when it is started again. Its code is `CODE` or
    INTERRUPTED.
    """

    def __init__(self) -> None:
        super().__init__(INTERRUPTED if NOTICE.interrupted else CODE)


class Notice:
    """Records that this process was asked to stop. There is one, `NOTICE`, because a signal is for the whole process.

    The handler does no work: it may run between any two instructions, on one rank and not on the others. While ranks
    work together it only notes (`note`); where a process works alone it raises Preempted (`obey`). The first Ctrl-C is
    noted where a step's end is near (`stepping`) and raises KeyboardInterrupt elsewhere, as the second one does.
    """

    def __init__(self) -> None:
        self.given = False
        self.interrupted = False  # by Ctrl-C
        self.requeue = False  # true: ask SLURM to start the job again
        self.stepping = False  # true: the request is checked after every step
        self._prompt = False
        self._began = time.monotonic()
        self._owner = os.getpid()
        self._timer: threading.Timer | None = None  # in place of the signal, where that cannot be heard

    def listen(self) -> None:
        """Install our signal handlers. Only the main thread of a process may do this."""
        self._owner = os.getpid()
        for number in SIGNALS:
            if not (number == signal.SIGHUP and _ignored(number)):
                signal.signal(number, self._on_signal)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to the signals and to Ctrl-C during the block; then restore the old handlers and drop the time limit.

        In a thread other than the main one, where Python sets no handlers, the block runs with the existing handlers.
        """
        if not in_main_thread():
            try:
                if signal.getsignal(signal.SIGTERM) != self._on_signal:
                    sys.stderr.write("warning: this run is not in the main thread, so it hears no signals; " + DEAF)
                yield
            finally:
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
            return
        before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGINT)}
        self.listen()
        if not _ignored(signal.SIGINT):
            signal.signal(signal.SIGINT, self._on_interrupt)
        try:
            yield
        finally:
            signal.alarm(0)
            self._prompt = self.stepping = self.interrupted = False
            for number, handler in before.items():
                signal.signal(number, handler)

    def limit(self, seconds: float | None) -> None:
        """Ask for a stop when the process has run for so many seconds; None sets no limit."""
        if seconds is not None:
            left = max(seconds - (time.monotonic() - self._began), 0.001)
            if in_main_thread():
                signal.setitimer(signal.ITIMER_REAL, left)
            else:
                self._timer = threading.Timer(left, self._expire)
                self._timer.daemon = True
                self._timer.start()

    def _expire(self) -> None:
        self.given = True

    def note(self) -> None:
        """From now on, only record a request in `given`, until somebody asks for it."""
        self._prompt = self.stepping = False

    def obey(self) -> None:
        """From now on, raise Preempted for a request; a request that has already arrived raises it at once."""
        self._prompt, self.stepping = True, False
        if self.given:
            raise Preempted

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a fork that has not yet its own
            return
        self.given = True
        if self._prompt:
            raise Preempted

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return
        if self.given or not self.stepping:
            raise KeyboardInterrupt
        self.given = self.interrupted = True
        os.write(2, ONCE_MORE)


NOTICE = Notice()


def _ignored(number: int) -> bool:
    """True if the process that started us wants the signal ignored: nohup does so with SIGHUP, a shell's `&` with
    Ctrl-C.
    """
    return signal.getsignal(number) == signal.SIG_IGN


def in_main_thread() -> bool:
    """True if signal handlers may be set here."""
    return threading.current_thread() is threading.main_thread()


def outlive_signals(worker: int = 0) -> None:
    """Make a loader's worker (as its `worker_init_fn`) end only when the parent says so.

    SLURM signals all processes of a job, and a worker that dies of it would end the run in an error before its next
    step. PyTorch's own handler spares a worker only from its parent's SIGTERM.
    """
    for number in (signal.SIGUSR1, signal.SIGALRM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_the_parent, daemon=True).start()


def _wait_for_the_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():  # a handler would not know who sent it
        pass
    os._exit(0)


def deafen() -> None:
    """Ignore all signals as the last act of a finished program, so that a late signal does not turn success into
    failure.

    Python resets its own handlers to the default as it exits, but leaves ignored signals ignored.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def seconds(limit: str | int | float | None) -> float | None:
    """Parse "3h50m", "45m", "90s" or a number of seconds; None stays None. Raises ValueError naming the key."""
    if limit is None:
        return None
    text = str(limit).strip()
    parts = re.fullmatch(r"(?=.)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    found = float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None
    if parts:
        found = float(sum(int(n or 0) * unit for n, unit in zip(parts.groups(), UNITS.values(), strict=True)))
    if not found:
        raise ValueError(f"callback.preemption.time_limit is '{limit}'; legal are 3h50m, 45m, 90s, seconds, or null")
    return found


def job_id(environment: Mapping[str, str] = os.environ) -> str | None:
    """The name that `scontrol requeue` uses for this SLURM job (array task 2 of job 7 is 7_2); None outside SLURM."""
    if array := environment.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID")


def farewell(run_dir: Path, saved: bool) -> None:
    """End a preempted run on one rank: requeue the job if that is wanted, and say how to continue."""
    how = f"run_dir={run_dir} goes on from the last checkpoint" if saved else "there is no checkpoint yet"
    word = "interrupted" if NOTICE.interrupted else "preempted"
    job = job_id() if NOTICE.requeue and not NOTICE.interrupted else None
    # The end of the line in the same write: SLURM, which is ending us by now, puts its own lines between two.
    sys.stderr.write(f"{word}; {how}{_requeued(job) if job else ''}\n")
    sys.stderr.flush()


def _requeued(job: str) -> str:
    try:
        if _ended_by_slurm(job):
            return f"; job {job} is not requeued: SLURM itself ends it (scancel, or a requeue of its own)"
        done = _ask("scontrol", "requeue", job)
        why = " ".join(done.stderr.split()) if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    return f"; job {job} could not be requeued ({why})" if why is not None else f"; job {job} is requeued"


def _ended_by_slurm(job: str) -> bool:
    """True if SLURM itself ends the job: scancel sends SIGTERM as a preemption does, but to a job that is COMPLETING. A
    job whose time is up is COMPLETING too, and is not counted.
    """
    state, _, left = _ask("squeue", "--noheader", f"--jobs={job}", "--format=%T %L").stdout.strip().partition(" ")
    return state == "COMPLETING" and left not in ("0:00", "INVALID")


def _ask(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command with signals ignored, by it too: when one rank has left, SLURM sends SIGTERM to the others."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS if in_main_thread()}
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
