"""Output is never an error: ascii terminals, narrow ones, pipes that nobody reads, streams that are closed."""

import ast
import os
import subprocess
import sys

import pytest
from tiny import ROOT

PROGRAMS = sorted(
    path
    for path in [*ROOT.glob("experiments/*.py"), *ROOT.glob("slurm/*.py")]
    if '__name__ == "__main__"' in path.read_text()
)
ASCII = {"PYTHONIOENCODING": "ascii"}
POSIX = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
PRINTS = """
import sys
from unigen.launch.terminal import steady_output
if STEADY: steady_output()
from rich.console import Console
from rich.table import Table
table = Table("query × key", title="who sees whom ─ 猫")
table.add_row("target", "–")
for _ in range(500):
    Console().print(table)
print("\\udcff 16 × 16 🖼", flush=True)
sys.stderr.write("done\\n")
"""


def run(*words: str, **environment: str) -> subprocess.CompletedProcess:
    """A Python program of this folder."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONIOENCODING", "LC_ALL", "PYTHONUTF8")}
    environment = kept | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, *words], capture_output=True, env=environment, timeout=120)


def prints(steady: bool, lines: int | None = None, ending: str = "", **environment: str) -> subprocess.CompletedProcess:
    """PRINTS in a shell, which reads so many of its lines or does something else with its output."""
    program = PRINTS.replace("STEADY", str(steady))
    read = f"| head -{lines}" if lines else ending
    script = 'set -o pipefail; echo "$2" | "$1" - ' + read
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    words = ["bash", "-c", script, "bash", sys.executable, program]
    return subprocess.run(words, capture_output=True, env=environment, timeout=120)


def test_there_are_programs():
    assert {"run.py", "sample.py", "report.py", "bench.py", "sweep.py"} <= {path.name for path in PROGRAMS}


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_every_program_steadies_its_output_first(path):
    tree = ast.parse(path.read_text())
    tests = [node for node in tree.body if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)]
    first = ast.unparse(tests[0].body[0])
    assert first in ("program(main)", "steady_output()"), f"{path} begins with {first}"


@pytest.mark.parametrize("name", ["bench.py", "sample.py", "run.py"])
def test_help_is_printed_on_an_ascii_terminal(name):
    done = run(str(ROOT / "experiments" / name), "--help", **ASCII)
    assert done.returncode == 0 and len(done.stdout.splitlines()) > 10 and not done.stderr


@pytest.mark.parametrize("environment", [ASCII, POSIX, {"TERM": "dumb", "COLUMNS": "20"}, {"NO_COLOR": "1"}])
def test_what_an_encoding_lacks_is_replaced(environment):
    done = prints(True, ending="| tail -1", **environment)
    assert done.returncode == 0 and b"16" in done.stdout and done.stderr == b"done\n"


def test_without_it_an_ascii_terminal_is_an_error():
    assert b"UnicodeEncodeError" in prints(False, ending="| tail -1", **ASCII).stderr, "negative control"


def test_a_reader_that_leaves_ends_nothing():
    done = prints(True, lines=1)
    assert done.returncode == 0 and done.stderr == b"done\n" and done.stdout
    assert prints(False, lines=1).returncode != 0, "negative control"


def test_closed_streams_end_nothing():
    done = prints(True, ending=">&-")
    assert done.returncode == 0 and done.stderr == b"done\n"
    assert prints(True, ending=">&- 2>&-").returncode == 0
    assert prints(False, ending=">&- 2>&-").returncode != 0, "negative control"


def test_a_full_disk_is_still_an_error():
    done = prints(True, ending="> /dev/full")
    assert done.returncode != 0 and b"No space left" in done.stderr


def test_streams_of_somebody_else_are_left_alone(capsys):
    from unigen.launch.terminal import steady_output

    before = sys.stdout, sys.stderr
    steady_output()
    assert (sys.stdout, sys.stderr) == before and sys.stdout is not sys.__stdout__


@pytest.mark.slow
def test_the_header_of_a_run_fits_any_terminal(tmp_path):
    words = ["dry_run=true", f"run_dir={tmp_path}", "data.limit=100", f"data.cache={tmp_path}"]
    done = run(str(ROOT / "experiments" / "run.py"), *words, COLUMNS="20", TERM="dumb", **POSIX)
    assert done.returncode == 0, done.stderr.decode()
    assert b"mask fcd_a: who attends to whom" in b" ".join(done.stdout.split())
