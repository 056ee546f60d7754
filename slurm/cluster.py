"""Reads cluster settings: slurm.yaml has every key; other files and the command line replace some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unigen.config.tree import fits, kind, merge, nearest, spelt
from unigen.config.values import ConfigError, sentence

REFERENCE = "slurm"


def read_cluster(folders: Sequence[Path], name: str, words: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of one cluster, checked.

    Args:
        folders: where cluster files lie; the first holds the reference, slurm.yaml.
        name: of a file there without .yaml, or the path of a .yaml file.
        words: `cluster.key=value` from the command line.

    Raises:
        ConfigError: no such file, an unknown key, or a value of the wrong type; names the place and what is legal.
    """
    reference = _load(folders[0] / f"{REFERENCE}.yaml")
    path = (
        Path(name)
        if name.endswith(".yaml")
        else next((file for folder in folders if (file := folder / f"{name}.yaml").is_file()), None)
    )
    if path is None or not path.is_file():
        legal = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
        close = nearest(name, legal)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(
            f"cluster={name} is unknown; {meant}there are {', '.join(legal)}, or give the path of a .yaml file"
        )
    said = _load(path)
    _check(said, reference, f"in {path}")
    told = _told(words)
    _check(told, reference, "on the command line", "cluster.")
    settings = dict(reference)
    for more in (said, told):
        merge(settings, more)
    return settings


def _load(path: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        said = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as exc:
        raise ConfigError(f"cannot read {path} ({sentence(exc)})") from exc
    if not isinstance(said, dict):
        raise ConfigError(f"{path} holds a list; a cluster file is a mapping of keys")
    return said


def _told(words: Sequence[str]) -> dict[str, Any]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    told: dict[str, Any] = {}
    for word in words:
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException as exc:
            raise ConfigError(f"cannot read '{word}' on the command line; write cluster.key=value") from exc
        if override.is_sweep_override() or override.is_delete():
            raise ConfigError(f"'{word}' on the command line: a sweep has one cluster; write cluster.key=value")
        node = override.value()
        for part in reversed(override.key_or_group.split(".")[1:]):
            node = {part: node}
        merge(told, node)
    return told


def _check(said: Mapping[str, Any], reference: Mapping[str, Any], where: str, prefix: str = "") -> None:
    for key, value in said.items():
        if key not in reference:
            close = nearest(str(key), reference)
            meant = f"did you mean '{prefix}{close[0]}'?" if close else f"legal are {', '.join(reference)}"
            raise ConfigError(f"unknown key '{prefix}{key}' {where}; {meant}")
        wanted = reference[key]
        good = isinstance(value, str | int | None) if wanted is None else fits(value, wanted)
        if not good or isinstance(value, bool):
            expected = "a string or null" if wanted is None else kind(wanted)
            hint = "; quote it" if isinstance(wanted, str) and not isinstance(value, dict | list) else ""
            raise ConfigError(f"'{prefix}{key}' is {spelt(value)} {where}; expected {expected}{hint}")
        inside = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
        for item in inside:
            if isinstance(item, dict | list) or "\n" in str(item):
                raise ConfigError(f"'{prefix}{key}' holds {spelt(item)} {where}; expected one line of text")
        if isinstance(value, int) and value < 0:
            raise ConfigError(f"'{prefix}{key}' is {value} {where}; it cannot be negative")
