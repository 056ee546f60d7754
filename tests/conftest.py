"""What every test process does first, and fixtures that all tests share.

One thread for each process: tiny models are faster so, and two runs beside each other do not fight.
"""

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

# Autograd starts a thread for each device that torch knows at the first backward pass, and a process with such threads
# must not fork. FlexAttention's compiler registers a device, so a first backward pass after it starts one: no device
# is known here yet, and tests that fork (forked_runs.py) work after any other test.
torch.zeros(1, requires_grad=True).sum().backward()

UNTIL = float(os.environ.get("UNTIL", "inf"))  # seconds since 1970: no test begins later (.ci/run)
NO_TIME = "no time left"


def pytest_runtest_setup() -> None:
    if time.time() > UNTIL:
        pytest.skip(NO_TIME)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests UNTIL has left out, and of which files: nobody reads a letter s among thousands of dots."""
    skipped = terminalreporter.stats.get("skipped", [])
    late = [report.nodeid.partition("::")[0] for report in skipped if NO_TIME in str(report.longrepr)]
    if late:
        files = ", ".join(dict.fromkeys(late))
        terminalreporter.write_line(f"{NO_TIME} for {len(late)} tests, which are not run, of {files}")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def published_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face cache with a miniature of every published repository (tests/published); do not write into it."""
    from published import make

    cache = tmp_path_factory.mktemp("huggingface") / "hub"
    cache.mkdir()
    return make(cache)


@pytest.fixture
def hub(published_cache: Path) -> Iterator[Path]:
    """That cache, which is all that this process and those that it starts have: the network is off."""
    from published import offline

    with offline(published_cache):
        yield published_cache


@pytest.fixture
def full_disk():
    """No file may grow beyond 64 KiB; Python ignores the signal, so a write fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    """HEIC has no decoder, also on a machine that has pillow-heif."""
    from datamodules.reading import images as reading

    kept = tuple(name for name in reading.formats() if name != "HEIF")
    monkeypatch.setattr(reading, "formats", lambda: kept)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A small config folder in the shape of the real one, for tests of sweeps."""
    from sweep_configs import write_conf

    return write_conf(tmp_path)
