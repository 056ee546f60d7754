"""Composes the configuration of a command line within this process, one at a time: Hydra's state is global."""

import threading
from collections.abc import Sequence
from typing import Any

from unigen.config.values import ConfigError, sentence
from unigen.tools.studio.places import Places

_one = threading.Lock()


def checked(places: Places, words: Sequence[str]) -> None:
    """Check a command line of run.py as run.py does. Raises ConfigError, one sentence."""
    composed(places, words)


def composed(places: Places, words: Sequence[str]) -> dict[str, Any]:
    """Return the configuration of a command line of run.py. Raises ConfigError, one sentence, for a bad one."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    from unigen.config.preflight import preflight
    from unigen.config.quoting import readable
    from unigen.config.values import plain
    from unigen.launch.start import USER_ERRORS

    words = readable(list(words))
    with _one:
        try:
            preflight(places.conf, words)
            with initialize_config_dir(version_base="1.3", config_dir=str(places.conf)):
                found = compose("config", overrides=[*words, "run_dir=runs/studio"], return_hydra_config=False)
                OmegaConf.resolve(found)
                return plain(found)
        except (*USER_ERRORS, HydraException) as error:
            raise ConfigError(sentence(error)) from error
        finally:
            GlobalHydra.instance().clear()


def choices(places: Places, group: str) -> list[str]:
    """Return the choices of a config group, those of folders within it too (cogvideox/mini)."""
    folder = places.conf / group
    found = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
    return sorted(found, key=lambda name: (name.count("/"), name))
