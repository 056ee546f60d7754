"""A run in another thread than the main one, as notebooks and windows start it: it trains, and says what it lacks."""

import signal
import threading
import time

import pytest
from small_runs import small, summary, train

from unigen.launch import preemption
from unigen.launch.preemption import NOTICE, Notice, Preempted


def in_a_thread(work):
    """What `work()` returns in a thread of its own, or raises there."""
    found = []

    def run() -> None:
        try:
            found.append((work(), None))
        except BaseException as error:
            found.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    value, error = found[0]
    if error is not None:
        raise error
    return value


@pytest.fixture
def unasked():
    """Nobody has asked this process to stop, nor afterwards."""
    NOTICE.given = False
    yield
    NOTICE.given = False


def test_a_run_trains_without_signals_and_says_so_once(tmp_path, capsys, unasked):
    before = [signal.getsignal(number) for number in preemption.SIGNALS]
    config = small(tmp_path)
    in_a_thread(lambda: train(config))
    assert summary(tmp_path)["steps"] == 2
    assert capsys.readouterr().err.count("not in the main thread") == 1
    assert [signal.getsignal(number) for number in preemption.SIGNALS] == before


def test_handlers_of_the_main_thread_are_enough(capsys):
    notice = Notice()

    def work() -> None:
        with notice.listening():
            pass

    with notice.listening():
        in_a_thread(work)
        assert signal.getsignal(signal.SIGTERM) == notice._on_signal, "the main thread's stay"
    assert not capsys.readouterr().err
    in_a_thread(work)
    assert "not in the main thread" in capsys.readouterr().err, "negative control"


def test_a_time_limit_is_kept_in_a_thread_and_ends_with_the_run(tmp_path, unasked):
    config = small(tmp_path, "trainer.max_steps=10000", "validation.every=10000", "callback.preemption.time_limit=1s")
    with pytest.raises(Preempted):
        in_a_thread(lambda: train(config))
    assert not (tmp_path / "summary.json").exists()
    notice = Notice()

    def short() -> None:
        with notice.listening():
            notice.limit(time.monotonic() - notice._began + 0.2)

    in_a_thread(short)
    time.sleep(0.4)
    assert not notice.given


def test_slurm_is_asked_from_a_thread():
    assert in_a_thread(lambda: preemption._ask("echo", "job")).stdout == "job\n"
