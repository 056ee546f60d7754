"""Starts, stops and resumes runs: experiments/run.py as a process of its own, which outlives the studio."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from unigen.config.files import write_text
from unigen.config.quoting import as_value
from unigen.config.values import ConfigError
from unigen.launch.claims import holder
from unigen.tools.studio.composing import checked
from unigen.tools.studio.places import Places, inside, run_path

NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,79}", re.ASCII)
OWN = ("run_dir", "hydra")  # keys that the studio itself decides
MANY = ("table", "until", "seeds", "tune")  # keys of sweeps


def words_of(experiment: str | None, text: str) -> list[str]:
    """Return the words of a run: +exp= and what was typed, split as a shell does.

    Raises ConfigError for a flag, for several runs at once, and for what the studio decides itself.
    """
    try:
        typed = shlex.split(text or "")
    except ValueError as error:
        raise ConfigError(f"the overrides cannot be read: {error}") from error
    for word in typed:
        key = word.lstrip("+~").partition("=")[0]
        if word.startswith("-"):
            raise ConfigError(f"'{word}' is a flag; here are group=choice and key=value alone")
        if key.partition(".")[0] in OWN:
            raise ConfigError(f"'{word}' is decided by the studio; name the run in its own field")
        if key.partition(".")[0] in MANY:
            raise ConfigError(f"'{word}' is of a sweep; the studio starts single runs, and run.py sweeps")
    return [*([f"+exp={experiment}"] if experiment else []), *typed]


def start(places: Places, name: str, words: Sequence[str]) -> str:
    """Start a new run below `places.runs`; return a line about it. Raises ConfigError for what is refused at once."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"name='{name}' cannot be a run's folder; letters, digits and . _ + - are legal")
    folder = inside(places.runs / name, places.runs)
    if folder.exists():
        raise ConfigError(f"there is a run '{name}' already; resume it, or choose another name")
    checked(places, words)
    write_text(_record(places, name), json.dumps(list(words)))
    return _begun(places, folder, words)


def resume(places: Places, name: str, words: Sequence[str]) -> str:
    """Continue a run with the words that it was started with here, else with `words`; return a line about it.

    Raises ConfigError if it is running, and for words that its configuration contradicts (run.py says so in the log).
    """
    folder = run_path(places, name)
    if held := holder(folder):
        raise ConfigError(f"'{name}' is running already, as process {held['process']}")
    known = started_with(places, name)
    if known is None and not words:
        raise ConfigError(f"'{name}' was not started here; choose its experiment and overrides above, and resume again")
    checked(places, known or words)
    return _begun(places, folder, known or words)


def stop(places: Places, name: str) -> str:
    """Ask a run to save and leave, by SIGTERM. Raises ConfigError if no process of this machine and user holds it."""
    held = holder(run_path(places, name))
    if held is None:
        raise ConfigError(f"'{name}' is not running on this machine")
    try:
        os.kill(int(held["process"]), signal.SIGTERM)
    except (ProcessLookupError, PermissionError) as error:
        raise ConfigError(f"'{name}' cannot be stopped: {error.strerror}") from error
    return f"'{name}' was asked to stop; it saves at the end of its step"


def started_with(places: Places, name: str) -> list[str] | None:
    """Return the words that a run was started with here; None for others."""
    try:
        words = json.loads(_record(places, name).read_bytes())
    except (OSError, ValueError):
        return None
    return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else None


def _record(places: Places, name: str) -> Path:
    return places.out / "started" / f"{name.replace('/', '__')}.json"


def _begun(places: Places, folder: Path, words: Sequence[str]) -> str:
    """Start run.py, whose output is added to NAME.log beside the run's folder."""
    places.runs.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, str(places.root / "experiments" / "run.py"), *words, f"run_dir={as_value(str(folder))}"]
    with open(folder.with_name(f"{folder.name}.log"), "ab") as log:
        log.write(f"$ {shlex.join(line)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=Path.cwd(), start_new_session=True
        )
    _children.append(process)
    return f"'{folder.name}' was started as process {process.pid}"


_children: list[subprocess.Popen] = []  # kept so that they are waited for, and leave no zombies


def reap() -> None:
    """Forget the runs that have ended."""
    _children[:] = [process for process in _children if process.poll() is None]
