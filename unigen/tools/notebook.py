"""Training and sampling from Python, as a notebook wants it: `unigen.train` and `unigen.sample`.

They take the words of run.py and sample.py, refuse what these refuse, and leave the same folders.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, open_dict
from PIL import Image, ImageSequence

from unigen.config.commands import ROOT
from unigen.config.preflight import preflight
from unigen.config.quoting import readable
from unigen.config.values import ConfigError, own_packages
from unigen.launch.claims import claimed, claimed_new
from unigen.launch.machine import able
from unigen.launch.own_process import needed
from unigen.launch.run_folder import config_at
from unigen.tools.sample import sampled

CONF = ROOT / "experiments" / "conf"


def train(*words: str, config_dir: str | Path | None = None) -> Path:
    """Train, sample and measure one experiment, and return its run folder.

    A folder that `run_dir=` names and that holds this run goes on from its last checkpoint.

    Args:
        words: those of run.py, such as "+exp=fcd_mask_a" and "trainer.max_steps=600".
        config_dir: a folder with configuration files of your own.

    Raises:
        ValueError: what run.py says in one sentence: an unknown key, a table or several values, a folder in use.
        KeyboardInterrupt: the run was interrupted; its last step is saved.
    """
    cfg = composed(words, config_dir)
    generated = not any(word.lstrip("+").startswith("run_dir=") for word in words)
    own_packages(ROOT)
    wanted = Path(cfg.run_dir)
    with claimed_new(wanted) if generated else claimed(wanted, "use run_dir=<another folder>") as folder:
        config = config_at(cfg, folder)
        able(config)
        from unigen.training import experiment

        experiment.quiet()
        try:
            experiment.run(config, folder)
        except SystemExit as stop:  # which a kernel would take for its own end
            raise KeyboardInterrupt(f"interrupted; train(..., run_dir={folder}) goes on") from stop
    return folder


def composed(words: Sequence[str], config_dir: str | Path | None = None) -> DictConfig:
    """Return the checked configuration of one experiment, not yet resolved.

    Raises:
        ValueError: it cannot be composed, or is a sweep, or needs several processes.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    flags = [] if config_dir is None else [f"--config-dir={Path(config_dir).resolve()}"]
    words = readable(words)
    preflight(CONF, [*flags, *words])
    search = [] if config_dir is None else [f"hydra.searchpath=['file://{Path(config_dir).resolve()}']"]
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", [*words, *search], return_hydra_config=True)
    if cfg.hydra.mode == RunMode.MULTIRUN:
        raise ConfigError("train() runs one experiment; +table= starts a sweep: unigen run +table=NAME")
    with open_dict(cfg):
        del cfg["hydra"]
    if needed(cfg):
        raise ConfigError(
            f"trainer.devices is {cfg.trainer.devices}, which takes as many processes; train() runs in this one: "
            "use trainer.devices=1, or start it as unigen run"
        )
    return cfg


def sample(run: str | Path, **words: Any) -> dict[str, Image.Image | list[Image.Image]]:
    """Sample with a finished run, and return each image by what it shows: "output", "condition", "grid", "sheet", ...

    A clip is the list of its frames. Files are kept only where `out` says so.

    Args:
        run: a run folder, or "shipped:NAME".
        words: the keys of sample.py; lists, numbers, bools and paths as Python has them.

    Raises:
        ValueError: what sample.py says in one sentence.
    """
    with tempfile.TemporaryDirectory(prefix="unigen-sample-") as folder:
        given = {"out": str(Path(folder) / "sample.png"), **{key: spelt(value) for key, value in words.items()}}
        paths = sampled([f"run={run}", *(f"{key}={value}" for key, value in given.items())])
        return {name: _opened(path) for name, path in paths.items()}


def spelt(value: Any) -> str:
    """Return a value of Python as a word of the command line has it: [[a.png, null]] for a list of a list."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence | Mapping) and not isinstance(value, str):
        listed = [list(map(_text, each)) if isinstance(each, list | tuple) else _text(each) for each in value]
        return yaml.safe_dump(listed, default_flow_style=True, allow_unicode=True, width=sys.maxsize).strip()
    return str(value)


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _opened(path: Path) -> Image.Image | list[Image.Image]:
    with Image.open(path) as image:
        frames = [frame.copy() for frame in ImageSequence.Iterator(image)]
    return frames if len(frames) > 1 else frames[0]
