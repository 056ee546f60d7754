"""Every command of the documentation is one that its program takes: no key, choice or number of it is refused.

What a page leaves to the reader, such as <run folder>, is a folder here that need not exist.
"""

import re
import shlex

import pytest
from tiny import CONF, ROOT

from unigen.config.preflight import preflight
from unigen.config.values import ConfigError

PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]
COMPOSED = re.compile(r"^(?:\w+=\S+ )*python (?:experiments/(?:run|plan|preview)|slurm/sweep)\.py +(.*)$")
OWN = re.compile(r"(until|seeds|cluster|tune\..*)=|--dry-run|(out|samples|profile)=")  # of sweep, preview, plan alone
OTHERS = ("status", "retry", "look", "cancel", "--help")  # words of sweep.py that name no configuration


def lines(text: str):
    """The shell lines of a page's code blocks, continued ones joined, without comments."""
    for block in re.findall(r"```(?:bash|sh)?\n(.*?)```|(?<=\n\n)((?: {4}[^\n]*\n)+)", text, re.DOTALL):
        joined = re.sub(r"\s*\\\n\s*", " ", "".join(block))
        yield from (line.strip() for line in joined.splitlines())


def composed(page: str) -> list[str]:
    """The words of the commands of a page that compose a configuration."""
    found = [COMPOSED.match(line) for line in lines((ROOT / page).read_text())]
    words = [re.sub(r"<[^>]*>", "somewhere", match[1]) for match in found if match]
    return [line for line in words if not line.startswith(OTHERS)]


def check(line: str) -> None:
    words = [word for word in shlex.split(line, comments=True) if not OWN.match(word)]
    alone = any(word.startswith("graph=") for word in words)  # preview.py's graph by itself
    preflight(CONF, words, "graph_only" if alone else "config")


ALL = [(page, line) for page in PAGES for line in dict.fromkeys(composed(page))]


def test_commands_are_found():
    pages = {page for page, _ in ALL}
    assert {"README.md", "docs/experiments.md", "docs/tutorial.md", "docs/paper_scale.md", "docs/cluster.md"} <= pages
    assert len(ALL) > 80


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({page for page, _ in ALL}))
def test_no_command_of_a_page_is_refused(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for where, line in ALL:
        if where == page and "--config-dir" not in line:
            check(line)


@pytest.mark.slow
def test_a_misspelt_command_is_refused():
    with pytest.raises(ConfigError, match=r"trainer\.max_step"):
        check("+exp=fcd_mask_a trainer.max_step=10")
