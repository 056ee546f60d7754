"""Gives a job that Hydra has begun its run folder, which no other process uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict, read_write

from unigen.config.values import ConfigError, plain, same_run
from unigen.launch.claims import claimed, claimed_new, first_rank


@contextmanager
def run_folder(cfg: DictConfig) -> Iterator[tuple[dict[str, Any], Path]]:
    """Yield the plain configuration of a job and its folder, which is claimed during the block.

    A folder that the user or a sweep named may hold the same run already; a generated one is new, with a suffix if
    need be. Ranks other than the first use what the first one has claimed; a dry run claims nothing.

    Raises:
        ConfigError: another process holds the folder, or it holds another configuration.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    words = [*hydra.overrides.task, *hydra.overrides.hydra]
    generated = not any(word.lstrip("+").startswith(("run_dir=", "hydra.run.dir=")) for word in words)
    if cfg.dry_run or not first_rank():
        yield _at(cfg, folder), folder
    elif generated and hydra.mode == RunMode.RUN:
        with claimed_new(folder) as own:
            yield _at(cfg, own), own
    else:
        with claimed(folder, "use run_dir=<another folder>"):
            yield _at(cfg, folder), folder


def check_apart(folder: Path, data: Mapping[str, Any]) -> None:
    """Check that the run is not written into a folder of its own data, where its samples would become training images.

    Raises:
        ConfigError: it would be; names the key of the data.
    """
    for key, value in roots(data, "data"):
        if Path(value).expanduser().resolve() == folder.resolve():
            raise ConfigError(
                f"{folder} is the folder of {key} too, and the run's own samples would become images of the data; "
                "use run_dir=<another folder>"
            )


def roots(node: object, key: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the value of every `root` at and below a node."""
    for name, value in node.items() if isinstance(node, dict) else ():
        if name == "root" and isinstance(value, str):
            yield f"{key}.{name}", value
        yield from roots(value, f"{key}.{name}")


def _at(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Return the configuration with that run folder, and set the folder for ranks that Lightning starts with Hydra's
    words.
    """
    from hydra.core.hydra_config import HydraConfig

    own = HydraConfig.instance().cfg
    with read_write(own.hydra), open_dict(own.hydra):
        own.hydra.run.dir = str(folder)
    return config_at(cfg, folder)


def config_at(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Return the plain configuration of a run in `folder`.

    Raises:
        ConfigError: the folder holds another configuration, or is one of the run's data.
    """
    with open_dict(cfg):
        cfg.run_dir = str(folder)
    config = plain(cfg)
    check_apart(folder, config.get("data", {}))
    same_run(folder, config)
    return config
