"""Finds and reads run folders for the ablation report. An unreadable run raises ValueError with a reason to print."""

import difflib
import functools
import glob
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from unigen.config.jobs import table_columns
from unigen.config.margins import Margin, read_margins
from unigen.config.moved import moved
from unigen.config.stages import TUNE

RUN_FILES = {"summary.json", "metrics.jsonl", "config.yaml"}
NOT_RUNS = {"wandb", "checkpoints", "export", "samples", TUNE}
# Keys that identify or place a run, or hold published numbers: they are no settings.
PLACE = re.compile(r"name|paper|(hydra|logger|paths|published|table)(\..*)?|(.*\.)?seed|(.*[._])?(dir|dirpath)")
UNREADABLE = (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError, yaml.YAMLError)
YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # omegaconf's own loader is pure Python and many times slower


Get = Callable[[dict[str, Any]], object]  # reads a value from a summary


class PaperTable(NamedTuple):
    """A published table: its rows as the paper lists them, {published column: our metrics}, {row: {column: number}}.

    `metrics` hold at every scale, unless `metrics_at` has others for it: {scale: {column: metrics}}. They are metrics
    of a run's own test, or `metric (benchmark)`. A column without a metric of ours has none.
    A row that we run has the name of its experiment, or `benches` names its experiment and benchmarks:
    {row: {"exp": experiment, scale: {part: benchmark}}}, with the metrics of a part as `metric (part)`. `published` is
    empty for older runs, whose summaries hold the published numbers. `margins` are those of columns that have one.
    """

    name: str
    title: str
    order: list[str]
    metrics: dict[str, tuple[str, ...]]
    source: str = ""
    published: dict[str, dict[str, Any]] = {}
    benches: dict[str, dict[str, Any]] = {}
    metrics_at: dict[str, dict[str, tuple[str, ...]]] = {}
    margins: dict[str, Margin] = {}

    def at(self, scale: str) -> dict[str, tuple[str, ...]]:
        """Return {published column: our metrics beside it} for runs of a scale."""
        return self.metrics | self.metrics_at.get(scale, {})

    def parts(self, scale: str) -> list[str]:
        """Return the benchmarks, or parts of `benches`, that a scale's metrics name; none for the runs' own test.

        These are the words in brackets: `dreambench` in `clip_t (dreambench)`.
        """
        found = (re.search(r" \((.+)\)$", metric) for ours in self.at(scale).values() for metric in ours)
        return list(dict.fromkeys(match[1] for match in found if match))


class Run(NamedTuple):
    """A finished run: its path, its folder's name in the report, summary.json, and config.yaml as dotted keys and text.

    `evaluations` are the folders of the evaluations that its scores come from, if they are not those of its own test
    (`unigen.evaluation.evaluations`).
    """

    path: Path
    folder: str
    summary: dict[str, Any]
    config: dict[str, str]
    table: PaperTable | None = None
    evaluations: Mapping[str, Path] = {}


def number(value: object) -> float | None:
    """Return `value` as a float, or None if it is not a finite number."""
    try:
        return float(value) if type(value) in (int, float) and math.isfinite(value) else None
    except OverflowError:
        return None


def cleaned(node: Any) -> Any:
    """Return a JSON or YAML tree with its keys as text, control characters and lone surrogates replaced.

    Terminals would obey control characters.
    """
    if isinstance(node, dict):
        return {cleaned(str(key)): cleaned(value) for key, value in node.items()}
    if isinstance(node, list):
        return [cleaned(value) for value in node]
    if not isinstance(node, str) or node.isprintable():  # the usual case, and quick
        return node
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", node)


def shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def flatten(node: Any, prefix: str = "") -> dict[str, str]:
    """Return {dotted key: value as text}. Lists of plain values stay whole; lists of tables are numbered."""
    if isinstance(node, list) and any(isinstance(value, dict) for value in node):
        node = dict(enumerate(node))
    if not isinstance(node, dict) or not node:
        return {prefix: shown(node)}
    return {k: v for key, value in node.items() for k, v in flatten(value, f"{prefix}.{key}".lstrip(".")).items()}


# reading -------------------------------------------------------------------------------------------------------------


def find_runs(runs: str, key: str = "runs") -> list[Path]:
    """Find run folders at any depth under one folder or a comma-separated list, in natural order (9 before 10).

    A part of the list may be a pattern, as in `sweep/*flux*`; links are followed.
    Raises ValueError, which names `key`, if a folder does not exist or if there is no run at all.
    """
    found: set[Path] = set()
    walked: set[str] = set()
    for folder in _folders(runs, key):
        walk = os.walk(folder, onerror=lambda error: found.add(Path(error.filename).resolve()), followlinks=True)
        for path, names, files in walk:
            if (real := os.path.realpath(path)) in walked:  # a link that leads back, or a folder named twice
                names.clear()
                continue
            walked.add(real)
            is_run = bool(RUN_FILES & set(files))
            if is_run or ".hydra" in names:  # .hydra alone: the run crashed before it wrote anything
                found.add(Path(real))
            names[:] = [] if is_run else [name for name in names if name not in NOT_RUNS and name[0] != "."]
    if not found:
        raise ValueError(f"{key}: no run in '{runs}' (a run folder holds summary.json, metrics.jsonl or config.yaml)")
    return sorted(found, key=lambda path: [natural(part) for part in path.parts])


def natural(name: str) -> list[str]:
    """Return a key that sorts names by their numbers, 9 before 10."""
    return [part.zfill(12) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def has_runs(folder: Path) -> bool:
    """Return True if there is a run in the folder, which need not exist; it may hold reports alone."""
    try:
        return folder.is_dir() and bool(find_runs(str(folder)))
    except ValueError:
        return False


def _folders(runs: str, key: str) -> list[Path]:
    """Return the folders that the words name: one folder, or a comma-separated list of folders and patterns."""
    if Path(runs).is_dir():
        return [Path(runs)]
    found = []
    for part in (part.strip() for part in runs.split(",") if part.strip()):
        folders = [Path(part)] if Path(part).is_dir() else [Path(p) for p in glob.glob(part) if os.path.isdir(p)]
        if not folders:
            raise ValueError(f"{key}: there is no folder '{part}'")
        found += folders
    return found


def read_tree(path: Path, parse: Callable[[bytes], Any]) -> dict[str, Any]:
    """Read the dictionary in a file, cleaned. Raises ValueError, in one sentence, if it is absent or unreadable."""
    try:
        tree = cleaned(parse(path.read_bytes()))
    except FileNotFoundError:
        raise ValueError(f"no {path.name}") from None
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ValueError(f"{path.name} cannot be read: {cleaned(reason)}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path.name} holds no keys")
    return tree


def read_run(path: Path, folder: str) -> Run:
    """Read the run in `path`. Raises ValueError, with the reason in one sentence, if it is unfinished or unreadable."""
    if not (path / "summary.json").exists():
        raise ValueError("no summary.json: the run did not finish")
    summary = read_tree(path / "summary.json", json.loads)
    for key, kind in {"name": str, "seed": int, "steps": int}.items():
        if not isinstance(summary.get(key), kind):
            raise ValueError(f"summary.json has no usable '{key}' (was it written by another version?)")
    check_metrics(summary, "summary.json")
    check_losses(path / "metrics.jsonl")
    for key in ("parameters", "protocol", "published", "throughput", "sampling"):
        summary[key] = summary[key] if isinstance(summary.get(key), dict) else {}
    summary["sampling"] = {"": summary["sampling"]}
    config, settings = read_settings(path / "config.yaml")
    here = ("/", "~/", str(config.get("run_dir") or "/"))
    flat = {k: v for k, v in settings.items() if not v.startswith(here)}
    return Run(path, folder, summary, flat, paper_table(config.get("table")))


def read_settings(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a config.yaml; return its tree, and its settings as dotted keys and text. Raises ValueError as `read_tree`.

    The runs of a sweep have most of their entries in common and reading YAML is slow, so each distinct entry of the top
    level is parsed once, if the file can be cut into such entries.
    """
    try:
        parts = [entry(block) for block in re.split(rb"^(?=[A-Za-z_]\w*:)", path.read_bytes(), flags=re.M) if block]
    except UNREADABLE:
        parts = []
    if not parts:
        tree = moved(read_tree(path, lambda text: yaml.load(text, Loader=YAML)))
        return tree, settings_of(tree)
    trees, settings = zip(*parts, strict=True)
    return {k: v for tree in trees for k, v in tree.items()}, {k: v for part in settings for k, v in part.items()}


@functools.lru_cache(maxsize=4096)
def entry(block: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tree and the settings of one top-level entry. Raises one of UNREADABLE if the block is no entry."""
    tree = moved(cleaned(yaml.load(block, Loader=YAML)))
    if not isinstance(tree, dict):
        raise ValueError("no entry of a mapping")
    return tree, settings_of(tree)


def settings_of(tree: dict[str, Any]) -> dict[str, str]:
    return {key: value for key, value in flatten(tree).items() if not PLACE.fullmatch(key)}


def check_metrics(said: Mapping[str, Any], file: str) -> None:
    """Raise ValueError, in one sentence, if a summary or an evaluation holds no usable metrics."""
    if not isinstance(said.get("metrics"), dict):
        raise ValueError(f"{file} has no usable 'metrics' (was it written by another version?)")
    if not all(isinstance(metric, dict) for metric in said["metrics"].values()):
        raise ValueError(f"{file} has a metric without 'value' (was it written by another version?)")


def check_losses(log: Path) -> None:
    """Raise ValueError, in one sentence, if a loss stayed NaN or infinite to the end, so that scores mean nothing."""
    try:
        lines = log.read_bytes()
    except OSError:
        return
    if lines.strip() and not any(line.lstrip().startswith(b"{") for line in lines.splitlines()):
        raise ValueError(f"{log.name} cannot be read: no line of it is JSON")
    if b"NaN" not in lines and b"Infinity" not in lines:
        return
    since: dict[str, int] = {}
    for line in lines.splitlines():
        try:
            entry = json.loads(line)
            losses = {k: float(v) for k, v in entry.items() if "/loss" in k}
        except (*UNREADABLE, AttributeError):
            continue
        for name, value in losses.items():
            if math.isfinite(value):
                since.pop(name, None)
            else:
                since.setdefault(name, entry.get("step"))
    if since:
        name, step = next(iter(since.items()))
        raise ValueError(f"{name} is not finite from step {step} on: its training broke there")


def paper_table(node: object) -> PaperTable | None:
    """Return the `table` of a config, or None if there is none or it is not usable. Raises ConfigError for a margin
    that is none.
    """
    node = node if isinstance(node, dict) else {}
    name, title, order, metrics, source, published, benches, at = (node.get(key) for key in PaperTable._fields[:-1])
    if not (isinstance(name, str) and isinstance(order, list) and isinstance(metrics, dict)):
        return None
    told, asked, by_scale = (x if isinstance(x, dict) else {} for x in (published, benches, at))
    return PaperTable(
        name,
        shown(title or name),
        [*map(shown, order)],
        metrics_of(metrics),
        shown(source or ""),
        {row: numbers for row, numbers in told.items() if isinstance(numbers, dict)},
        {row: said for row, said in asked.items() if isinstance(said, dict) and isinstance(said.get("exp"), str)},
        {scale: metrics_of(said) for scale, said in by_scale.items() if isinstance(said, dict)},
        read_margins(node.get("margin"), table_columns(node), f"table.margin of {name}"),
    )


def metrics_of(said: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return {published column: our metrics}; a table names one metric, several in a list, or null for none."""
    lists = {column: ours if isinstance(ours, list) else [ours] for column, ours in said.items()}
    return {column: tuple(shown(metric) for metric in ours if metric) for column, ours in lists.items()}


def read_table(folder: Path, name: str) -> PaperTable:
    """Read the published table in `folder`/NAME.yaml, or in the file `name` if that ends in .yaml.

    Raises ValueError if there is none or it is unusable.
    """
    path, legal = folder / f"{name}.yaml", sorted(path.stem for path in folder.glob("*.yaml"))
    if name.endswith(".yaml"):
        path = Path(name).expanduser()
        if not path.is_file():
            raise ValueError(f"table={name}: there is no such file")
    elif name not in legal:
        near = difflib.get_close_matches(name, legal, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(legal)}"
        raise ValueError(f"unknown table '{name}' ({hint}); a table of your own is named by its path, <path>.yaml")
    table = paper_table(read_tree(path, lambda text: yaml.load(text, Loader=YAML)).get("table"))
    if table is None:
        raise ValueError(f"{path}: 'table' has no usable name, order or metrics")
    return table


def table_name(path: Path) -> tuple[str, str]:
    """Return (name of the experiment, name of its table) from a run folder's config.yaml, "" if unknown."""
    try:
        config = read_tree(path / "config.yaml", lambda text: yaml.load(text, Loader=YAML))
    except ValueError:
        return "", ""
    table = config.get("table")
    return shown(config.get("name") or ""), shown((table.get("name") if isinstance(table, dict) else "") or "")


def last_step(path: Path) -> str:
    """Return the step of the last readable line of a metrics.jsonl; a killed run may have left its end half-written."""
    try:
        for line in reversed(path.read_bytes().splitlines()):
            try:
                return f"{int(json.loads(line)['step']):,}"
            except UNREADABLE:
                continue
    except OSError:
        pass
    return "none"
