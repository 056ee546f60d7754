"""Recognises common mistakes in a user's own config files (--config-dir) and says how to correct them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unigen.config.tree import Tree
from unigen.config.values import ConfigError

if TYPE_CHECKING:
    from hydra.core.default_element import ResultDefault

HEADER = "# @package _global_"
PLUS = {"exp": "+", "table": "+"}  # groups that the primary config chooses nothing of
BOM = b"\xef\xbb\xbf"


def check_header(tree: Tree, default: ResultDefault) -> None:
    """Check that an overlay (an experiment, a task, ...) begins with the line that makes its keys global.

    Raises:
        ConfigError: it has no such line, or Hydra does not see it.
    """
    if not default.package:
        return
    path = next(f for folder in tree.folders if (f := folder / f"{default.config_path}.yaml").is_file())
    text = path.read_bytes()
    if text.startswith(BOM):
        raise ConfigError(
            f"{default.config_path}.yaml starts with a byte order mark (BOM); save it as UTF-8 without one, with the "
            f"first line '{HEADER}'"
        )
    if not text.strip():
        raise ConfigError(f"{default.config_path}.yaml is empty; its first line must be '{HEADER}', then come keys")
    raise ConfigError(
        f"{default.config_path}.yaml must begin with the line '{HEADER}', without which its keys stand below "
        f"'{default.package}'"
    )


def check_names(tree: Tree, files: Sequence[ResultDefault]) -> None:
    """Check that each chosen file is in one config folder alone.

    Raises:
        ConfigError: a file of the user has the name of one of the project, which Hydra would read instead; or the
            file was chosen with its ending.
    """
    for path in dict.fromkeys(default.config_path for default in files):
        group, _, name = path.rpartition("/")
        if name.endswith(".yaml"):
            what = f"{PLUS.get(group, '')}{group or '--config-name'}={name.removesuffix('.yaml')}"
            raise ConfigError(f"a choice is a name without its ending: write {what}")
        found = [folder for folder in tree.folders if (folder / f"{path}.yaml").is_file()]
        if len(found) > 1 and path != tree.name:
            raise ConfigError(f"{path}.yaml is in {found[1]} and in {found[0]}, which is read first; rename yours")


def own_file_hint(folders: Sequence[Path], group: str, choice: str) -> str:
    """Explain why a choice is not found although a similar file lies in a folder; empty if there is no such file."""
    whole = f"{group}/{choice}"
    if not choice:
        return ""
    if (
        choice.endswith((".yaml", ".yml"))
        or (folders[0] / group.partition("/")[0]).is_dir() != (folders[0] / group).is_dir()
    ):
        top, name = group.partition("/")[0], Path(choice).stem
        if any((folder / top / f"{name}.yaml").is_file() for folder in folders):
            return f"; a choice is a name without folders and ending: write {PLUS.get(top, '')}{top}={name}"
        if any((folder / group.partition("/")[2] / f"{choice}.yaml").is_file() for folder in folders):
            return f"; in a defaults list write override /{group.partition('/')[2]}: {choice}"
        below = f"{top}/{'/'.join(group.split('/')[2:])}"
        if below != f"{top}/" and any((folder / below / f"{choice}.yaml").is_file() for folder in folders):
            return f"; a file's defaults list is read from the file's own folder: write /{below}/{choice} there"
        if choice.endswith((".yaml", ".yml")):
            return f"; a choice is a name, and --config-dir <folder> says where <folder>/{top}/{name}.yaml lies"
    for folder in folders:
        if (folder / f"{whole}.yml").is_file():
            return f"; rename {folder / whole}.yml: config files end in .yaml"
        if (folder / f"{whole}.yaml").is_symlink():
            return f"; {folder / whole}.yaml is a link to nothing"
        if (folder / whole).is_dir() and (inside := sorted((folder / whole).rglob("*.yaml"))):
            names = [f"{choice}/{path.relative_to(folder / whole).with_suffix('')}" for path in inside]
            return f"; it is a folder, which has {', '.join(names)}"
        if (folder / f"{choice}.yaml").is_file() and folder != folders[0]:
            return f"; {folder / choice}.yaml must lie in {folder / group}"
    return ""


def unreadable(folders: Sequence[Path]) -> str:
    """Name the file that is not UTF-8, because Hydra's error does not."""
    for path in (path for folder in reversed(folders) for path in sorted(folder.rglob("*.yaml"))):
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError as exc:
            return f"cannot read {path}, byte {exc.start}: it is no UTF-8 text; save it as UTF-8"
        except OSError:
            continue
    return "a config file is no UTF-8 text; save it as UTF-8"
