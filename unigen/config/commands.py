"""Where the programs are, and how a user starts one: `python experiments/run.py` in a checkout, else `unigen run`."""

import os
import re
from pathlib import Path

RUN = "UNIGEN_RUN"  # set by the command `unigen`, for itself, for conf/config.yaml's help and for what it starts
ROOT = Path(__file__).resolve().parents[2]  # of a checkout, or the folder in which the packages are installed
_SPELT = re.compile(r"python (?:experiments|slurm)/(\w+)\.py")


def command(program: str) -> str:
    """Return how `program`, such as "run" or "sweep", is started here."""
    if RUN in os.environ or not is_checkout():
        return f"unigen {program}"
    return f"python {'slurm' if program == 'sweep' else 'experiments'}/{program}.py"


def as_here(text: str) -> str:
    """Return a text that names programs as in a checkout with the names that they have here."""
    return _SPELT.sub(lambda match: command(match[1]), text)


def is_checkout() -> bool:
    """True if these files are the repository, and not an installed wheel."""
    return (ROOT / "pyproject.toml").is_file()
