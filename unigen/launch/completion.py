"""What a shell completes behind `unigen`: programs, their own keys, and the groups, choices and keys of experiments."""

import ast
import re
from collections.abc import Mapping
from pathlib import Path

from unigen.config.commands import ROOT
from unigen.config.values import ConfigError

# Bash splits a word at "=": what stands before it is taken off the candidates. Zsh does not.
BASH = """_unigen() {
    local line="${COMP_LINE:0:COMP_POINT}" word
    word="${line##* }"
    mapfile -t COMPREPLY < <(command unigen --complete "$line" 2>/dev/null)
    [[ "$word" == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}")
}
complete -o nospace -o default -F _unigen unigen"""
ZSH = """_unigen() {
    local found
    found=("${(@f)$(command unigen --complete "${words[1,CURRENT]}" 2>/dev/null)}")
    if [[ -n "$found" ]]; then compadd -S '' -- "${found[@]% }"; else _files; fi
}
autoload -Uz compinit && compinit && compdef _unigen unigen"""
SCRIPTS = {"bash": BASH, "zsh": ZSH}
CONF = ROOT / "experiments" / "conf"
PLUS = ("exp", "table")  # groups that are given with a plus
ELSEWHERE = {
    "cluster": "sweep",
    "profile": "plan",
}  # groups that no run has: who takes a choice of one


def script(shell: str) -> str:
    """Return the script that sets completion up. Raises ConfigError for a shell without one."""
    if shell not in SCRIPTS:
        raise ConfigError(f"--completion {shell or 'of no shell'}: legal are {' and '.join(SCRIPTS)}")
    return SCRIPTS[shell]


def candidates(line: str, programs: Mapping[str, Path]) -> list[str]:
    """Return the words that may stand where a line ends, which begins with the command itself."""
    words = line.split()[1:]
    word = "" if line.endswith(" ") or not words else words.pop()
    if not words:
        return [f"{name} " for name in sorted(programs) if name.startswith(word)]
    if words[0] not in programs:
        return []
    said = ast.get_docstring(ast.parse(programs[words[0]].read_text(encoding="utf-8"))) or ""
    found = own_keys(said)
    if re.search(r"\+(exp|table)=", said):
        found += experiment_words(words[0], words[1:], word)
    elif "=" in word:
        found += _choices(*word.split("=", 1), [CONF])
    return sorted({each for each in found if each.startswith(word) and each != word})


def own_keys(said: str) -> list[str]:
    """Return the keys that the help of a program lists: `run=` of a line that begins "run=  a run folder"."""
    heads = [re.split(r"  ", line.strip())[0] for line in said.splitlines()]
    return [key for head in heads for key in re.findall(r"(?:^|, )(\w+=)", head)]


def experiment_words(program: str, words: list[str], word: str) -> list[str]:
    """Return choices of the group that `word` names; else group names, and the keys on its level."""
    from unigen.config.preflight import OVERLAYS, config_dir_flag

    try:
        folders = [CONF, *(Path(flag.partition("=")[2]) for flag in config_dir_flag(words))]
    except ConfigError:  # a line that is not finished
        folders = [CONF]
    if "=" in word:
        return _choices(*word.split("=", 1), folders)
    files = [file.relative_to(folder) for folder in folders for file in folder.rglob("*.yaml")]
    files = [file for file in files if len(file.parts) > 1 and "base" not in file.parts]
    groups = {file.parts[0] if file.parts[0] in OVERLAYS else file.parent.as_posix() for file in files} - {*PLUS}
    groups -= {group for group, owner in ELSEWHERE.items() if owner != program}
    return [*(f"{group}=" for group in groups), *(f"+{group}=" for group in PLUS), *_keys(words, word, folders)]


def _choices(key: str, value: str, folders: list[Path]) -> list[str]:
    """Return KEY=CHOICE for every choice of the group KEY; in a list, [a,b, for its last item."""
    group, before = key.lstrip("+"), value[: max(value.rfind(","), value.rfind("[")) + 1]
    roots = [folder / group.partition("@")[0] for folder in folders]
    files = [file.relative_to(root).with_suffix("") for root in roots for file in root.rglob("*.yaml")]
    return [f"{key}={before}{file.as_posix()}" for file in files if file.parts[0] != "base"]


def _keys(words: list[str], word: str, folders: list[Path]) -> list[str]:
    """Return the keys on the level of `word` in the reference of the chosen files, with a dot where more follow."""
    from unigen.config.preflight import OPEN_TABLES
    from unigen.config.tree import lookup, merge, opened_tree

    chosen = [each for each in words if "=" in each and (CONF / each.lstrip("+").partition("=")[0]).is_dir()]
    reference: dict = {}
    with opened_tree(folders, "config", OPEN_TABLES) as tree:
        try:
            files = tree.defaults(chosen)
        except Exception:  # Hydra's dozen kinds for a line that is not finished, or wrong
            files = tree.defaults([])
        for default in files:
            merge(reference, tree.content(default))
    above = word.rpartition(".")[0]
    level = lookup(reference, above.split(".")) if above else reference
    dot = f"{above}." if above else ""
    return [
        f"{dot}{name}{'.' if isinstance(value, dict) and value else '='}"
        for name, value in (level.items() if isinstance(level, dict) else ())
        if name != "defaults"
    ]
