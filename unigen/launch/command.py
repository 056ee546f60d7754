"""The command `unigen`: `unigen run +exp=NAME` runs experiments/run.py with these words, from any folder.

A program is found by its file and not by import: a folder of the user's that is called `experiments` hides nothing.
"""

import ast
import difflib
import os
import runpy
import sys
from pathlib import Path

import unigen
from unigen.config.commands import ROOT, RUN
from unigen.config.values import ConfigError, own_packages
from unigen.launch.completion import candidates, script
from unigen.launch.terminal import one_line_for_ctrl_c, steady_output

USAGE = """unigen: image and clip generation by visual in-context learning, as composed experiments

unigen PROGRAM [words]    PROGRAM --help explains the words

{programs}

unigen --version
unigen --completion bash  prints what completes programs, groups, choices and keys (or zsh); to use it:
                          eval "$(unigen --completion bash)"
Experiments of your own: unigen run --config-dir FOLDER +exp=NAME, for FOLDER/exp/NAME.yaml; put PYTHONPATH=. before it
if a `_target_` there names a module of the folder where you are.
The code is under Apache-2.0, the shipped weights are under CC BY-SA 4.0."""


def programs() -> dict[str, Path]:
    """Return the file of every program by its name."""
    found = {path.stem: path for path in sorted((ROOT / "experiments").glob("*.py"))}
    return found | {"sweep": ROOT / "slurm" / "sweep.py"}


def usage() -> str:
    """Return the help of the command, with what each program's file says of it."""
    said = {name: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for name, path in programs().items()}
    return USAGE.format(programs="\n".join(f"  {name:<10}{first_clause(text)}" for name, text in sorted(said.items())))


def first_clause(text: str | None) -> str:
    """Return the beginning of a docstring, up to the command line that it shows."""
    return (text or "").partition("\n")[0].partition(": `")[0].rstrip(".")


def main() -> None:
    """Run the program that the first word names. Exits with its code, and with 1 for an unknown one."""
    word, *words = sys.argv[1:] or ["--help"]
    if word in programs():
        try:
            own_packages(ROOT)  # before Hydra looks for a callback of ours
        except ConfigError as error:
            sys.exit(f"error: {error}")
        path = str(programs()[word])
        os.environ[RUN] = "unigen run"
        sys.argv = [path, *words]
        runpy.run_path(path, run_name="__main__")
        return
    steady_output()
    one_line_for_ctrl_c()
    try:
        print(_answer(word, words))
    except ValueError as error:
        sys.exit(f"error: {error}")


def _answer(word: str, words: list[str]) -> str:
    """Return what is printed for a line that names no program. Raises ValueError, one sentence, for an unknown word."""
    if word in ("-h", "--help"):
        return usage()
    if word == "--version":
        return f"unigen {unigen.__version__}"
    if word == "--completion":
        return script(words[0] if words else "")
    if word == "--complete":  # asked by that script: the line up to the cursor
        return "\n".join(candidates(" ".join(words), programs()))
    near = difflib.get_close_matches(word, programs(), n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known programs: {', '.join(sorted(programs()))}"
    raise ValueError(f"unknown program '{word}' ({hint})")


if __name__ == "__main__":
    main()
