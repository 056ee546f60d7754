""".ci/gpu without a GPU: parts have limits and do not stop each other, the summary comes last, its words are legal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import CONF, ROOT, composed

sys.path.insert(0, str(CONF.parent))

from bench import arguments

PARTS = ["device", "tests", "peers", "mini", "bench"]
# In the place of Python: notes how it is called, and does what the test says by a word of the call.
STUB = """#!/bin/sh
echo "$*" >>"$0.calls"
case "$*" in
*{word}*) {then} ;;
esac
"""


def run(folder: Path, word: str = "nothing", then: str = "exit 0", **environment: str) -> tuple[int, dict[str, str]]:
    """The script's exit status, and the status of each part by name, as the summary's last lines say."""
    stub = folder / "python"
    stub.write_text(STUB.format(word=word, then=then))
    stub.chmod(0o755)
    said = {"PYTHON": str(stub), "WHEELS": str(folder / "wheels"), **environment}
    command = [str(ROOT / ".ci" / "gpu"), str(folder / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | said, timeout=60, check=False)
    lines = (folder / "out" / "summary.txt").read_text().splitlines()
    assert done.stdout.endswith("\n".join(lines) + "\n") and lines[-1] == f"logs in {folder / 'out'}"
    return done.returncode, {line.split()[0]: line[9:25].strip() for line in lines[2:-1]}


def test_without_cuda_what_needs_it_is_left_out(tmp_path):
    code, parts = run(tmp_path, "is_available", "exit 1")
    assert code == 1 and list(parts) == PARTS
    assert parts == {"device": "failed (1)", "mini": "ok"} | dict.fromkeys(("tests", "peers", "bench"), "no CUDA")


def test_a_part_that_fails_does_not_stop_the_next(tmp_path):
    code, parts = run(tmp_path, "test_gpu.py", "echo broken; exit 3")
    assert code == 1 and parts == dict.fromkeys(PARTS, "ok") | {"tests": "failed (3)"}
    assert (tmp_path / "out" / "tests.log").read_text() == "broken\n"
    assert run(tmp_path) == (0, dict.fromkeys(PARTS, "ok"))


def test_the_budget_ends_a_part_and_leaves_out_the_rest(tmp_path):
    code, parts = run(tmp_path, "test_gpu.py", "exec sleep 50", BUDGET="2")
    assert code == 1 and parts == {"device": "ok", "tests": "out of time"} | dict.fromkeys(PARTS[2:], "no time left")


def test_a_wheel_that_is_missing_is_asked_for_offline_and_by_itself(tmp_path):
    (tmp_path / "wheels").mkdir()
    listing = "printf 'one>=1\\ntwo\\n'; exit 0"
    code, parts = run(tmp_path, "tomllib", listing)
    assert code == 0 and list(parts) == ["wheels", *PARTS]
    calls = (tmp_path / "python.calls").read_text()
    for need in ("one>=1", "two"):
        assert f"-m pip install -q --no-index --find-links {tmp_path / 'wheels'} {need}\n" in calls


def test_its_commands_are_legal(tmp_path):
    """Negative control: a word that bench.py does not know is refused."""
    run(tmp_path)
    calls = [line.split() for line in (tmp_path / "python.calls").read_text().splitlines()]
    benches = [words[1:] for words in calls if words[0] == "experiments/bench.py"]
    assert [arguments(words)[0] for words in benches] == [["peers"], ["gpu"]]
    with pytest.raises(ValueError):
        arguments([*benches[0], "sizez=paper"])
    (mini,) = [words[1:] for words in calls if words[0] == "experiments/run.py"]
    assert composed(*(word for word in mini if not word.startswith("run_dir=")))["trainer"]["max_steps"] == 300
    (tests,) = [words for words in calls if "pytest" in words]
    assert (ROOT / tests[-1]).exists()
