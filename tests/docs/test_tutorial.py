"""The tutorial's commands, one after another as a reader gives them, at tiny size."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from tiny import ROOT

BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
TRAINING = (
    "trainer.max_steps=2 validation.every=2 validation.batches=1 data.batch_size=2 data.val_items=4 evaluation.items=2 "
    "data.test_items=4 solver.steps=2 callback.sample_grid.items=2 logger=[jsonl]"
)


def commands(page: str) -> list[str]:
    """The command lines of a page's bash blocks, each here-document in one."""
    text = (ROOT / "docs" / page).read_text()
    return [block.strip() for block in BLOCK.findall(text)]


def small(block: str) -> str:
    """A block whose programs are those of this checkout, and whose trainings are of one seed and take two steps."""
    lines = []
    block = block.replace("seed=0,1,2", "seed=0")
    for line in block.splitlines():
        if line.startswith("python experiments/run.py"):
            line += " " + " ".join(map(shlex.quote, TRAINING.split()))
        lines.append(line.replace("python experiments/", f"{shlex.quote(sys.executable)} {ROOT}/experiments/"))
    return "\n".join(lines)


def give(block: str, folder) -> str:
    done = subprocess.run(
        ["bash", "-euc", block], cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.slow
def test_the_tutorial_ends_in_a_figure(tmp_path):
    blocks = commands("tutorial.md")
    assert len(blocks) == 7
    for block in blocks:
        give(small(block), tmp_path)
    assert (tmp_path / "preview.html").is_file() and (tmp_path / "sheet.png").is_file()
    report = next((tmp_path / "runs" / "one_way_sweep").rglob("report.html")).parent
    assert "one_way" in (report / "report.html").read_text()
    assert list((report / "figures").glob("*.pdf"))
    wrong = small(blocks[3]).replace("+exp=one_way", "+exp=two_way")
    with pytest.raises(AssertionError, match="two_way"):
        give(wrong, tmp_path)  # negative control: a misspelt arm stops
