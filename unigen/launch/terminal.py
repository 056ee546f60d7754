"""Sets up an entry point's terminal: neither an encoding nor a reader that has left turns output into an error.

Light on purpose: it runs before anything heavy is imported.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import NoReturn, TextIO

GONE = (errno.EPIPE, errno.EIO)  # the reader of a pipe has left (| head); the terminal is closed


def program(main: Callable[[list[str]], int]) -> NoReturn:
    """Run an entry point with the words of the command line, and exit with the code that it returns.

    Ctrl-C, SIGTERM and a terminal that closes end it in one sentence, and whatever it was writing is cleaned up.
    """
    steady_output()
    one_line_for_ctrl_c()
    process = os.getpid()

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        if os.getpid() == process:  # and not a worker that it has forked
            sys.stderr.write(f"stopped by {signal.Signals(number).name}\n")
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, leave)
    sys.exit(main(sys.argv[1:]))


def one_line_for_ctrl_c() -> None:
    """Report a Ctrl-C that nobody has caught in one word instead of a traceback; the process still ends by it."""

    def told(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.stderr.write("interrupted\n")
        else:
            sys.__excepthook__(kind, error, where)

    sys.excepthook = told


def steady_output() -> None:
    """Print "?" for characters that stdout's encoding lacks, and drop output that nobody reads any more.

    A training of days goes on when `| head` or an ssh session has seen enough. Another fault of stdout, such as a full
    disk under a file, stays an error. Streams that somebody else has put in place (a notebook's) are left alone.
    """
    if sys.stdout is sys.__stdout__:
        sys.stdout = _steady(sys.stdout, 1, errors="replace")
    if sys.stderr is sys.__stderr__:
        sys.stderr = _steady(sys.stderr, 2, errors="backslashreplace")  # as Python has it


def _steady(stream: TextIO | None, number: int, errors: str) -> TextIO:
    if stream is None:  # closed when the program started; libraries expect something to write to
        return open(os.devnull, "w", encoding="utf-8", errors=errors)
    stream.flush()
    lines = stream.line_buffering or number == 2
    raw = io.BufferedWriter(_Unheard(number, "w", closefd=False))
    return io.TextIOWrapper(raw, stream.encoding, errors, line_buffering=lines, write_through=stream.write_through)


class _Unheard(io.FileIO):
    """A stream that accepts writes also when its reader has gone."""

    def write(self, data: bytes) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return len(data)
