"""Says which parts of an experiment's method a command line replaces, after which its name promises too much."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

CONDITIONING = ("conditioning/embedding", "conditioning/modulation", "conditioning/slots")
METHOD = ("formatter", "mask", *CONDITIONING, "process", "loss", "fill")


def replaced(words: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Return a sentence for each experiment of which the words replace a part that its file, or a parent's, chooses.

    Args:
        words: the words of one job, as Hydra read them: +exp=NAME or +exp=[NAME,NAME] among them.
        folders: the config folders, in the order in which files are looked up.
    """
    given = dict(word.lstrip("+").partition("=")[::2] for word in words)
    names = re.findall(r"[\w/-]+", given.get("exp", ""))
    found = []
    for name in names:
        own = {group: choice for group, choice in _choices(name, folders).items() if group in METHOD}
        other = [group for group, choice in own.items() if given.get(group, choice) != choice]
        if other:
            now = " and ".join(f"{group}={given[group]} (there {own[group]})" for group in other)
            found.append(f"this run is not exp/{name}.yaml as it is written: the command line has {now}")
    return found


def _choices(name: str, folders: Sequence[Path]) -> dict[str, str]:
    """Return the choices of an experiment's defaults list by group, with those of its parents below its own."""
    path = next((file for folder in folders if (file := folder / "exp" / f"{name}.yaml").is_file()), None)
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path else None
    found: dict[str, str] = {}
    for entry in (content or {}).get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            found |= _choices(entry.removeprefix("/exp/"), folders)
        elif isinstance(entry, dict):
            found |= {key.split()[-1].lstrip("/"): str(choice) for key, choice in entry.items()}
    return found
