"""Run folders in, arms out: what the ablation report reads. Nothing found in a run folder is fatal.

An *arm* is the runs of one name and configuration that differ in nothing but the seed.
"""

import json
import math
import os
import re
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

RUN_FILES = {"summary.json", "metrics.jsonl", "config.yaml"}
NOT_RUNS = {"wandb", "checkpoints", "export", "samples"}
# Who and where a run is, and what was published: no settings.
PLACE = re.compile(r"name|paper|(hydra|logger|paths|published|table)(\..*)?|(.*\.)?seed|(.*[._])?(dir|dirpath)")
UNREADABLE = (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError, yaml.YAMLError)
YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # omegaconf's own loader is pure Python and many times slower


Get = Callable[[dict[str, Any]], object]  # from a summary


class PaperTable(NamedTuple):
    """The published table that a run belongs to: arms as the paper lists them, {published column: our metric}."""

    name: str
    title: str
    order: list[str]
    metrics: dict[str, str]


class Run(NamedTuple):
    """A finished run: where it is, its name in the report, summary.json, and config.yaml by dotted keys as text."""

    path: Path
    folder: str
    summary: dict[str, Any]
    config: dict[str, str]
    table: PaperTable | None = None


class Arm(NamedTuple):
    label: str
    runs: list[Run]


def number(value: object) -> float | None:
    """`value` as a float; None for anything that is not a finite number."""
    try:
        return float(value) if type(value) in (int, float) and math.isfinite(value) else None
    except OverflowError:
        return None


def cleaned(node: Any) -> Any:
    """A JSON or YAML tree, keys as text, without control characters (terminals obey them) and lone surrogates."""
    if isinstance(node, dict):
        return {cleaned(str(key)): cleaned(value) for key, value in node.items()}
    if isinstance(node, list):
        return [cleaned(value) for value in node]
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", node) if isinstance(node, str) else node


def shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def flatten(node: Any, prefix: str = "") -> dict[str, str]:
    """Dotted keys to values as text. Lists of plain values stay whole; lists of tables are numbered."""
    if isinstance(node, list) and any(isinstance(value, dict) for value in node):
        node = dict(enumerate(node))
    if not isinstance(node, dict) or not node:
        return {prefix: shown(node)}
    return {k: v for key, value in node.items() for k, v in flatten(value, f"{prefix}.{key}".lstrip(".")).items()}


# reading -------------------------------------------------------------------------------------------------------------


def find_runs(runs: str) -> list[Path]:
    """Run folders at any depth under one folder or a comma-separated list, in natural order (9 before 10).

    Raises ValueError if a folder does not exist or if there is no run at all.
    """
    given = [Path(runs)] if Path(runs).is_dir() else [Path(part.strip()) for part in runs.split(",") if part.strip()]
    found: set[Path] = set()
    for folder in given:
        if not folder.is_dir():
            raise ValueError(f"runs: there is no folder '{folder}'")
        for path, names, files in os.walk(folder, onerror=lambda error: found.add(Path(error.filename).resolve())):
            is_run = bool(RUN_FILES & set(files))
            if is_run or ".hydra" in names:  # Hydra's mark alone: it crashed before it wrote anything
                found.add(Path(path).resolve())
            names[:] = [] if is_run else [name for name in names if name not in NOT_RUNS and name[0] != "."]
    if not found:
        raise ValueError(f"runs: no run in '{runs}' (a run folder holds summary.json, metrics.jsonl or config.yaml)")
    return sorted(found, key=lambda path: [p.zfill(12) if p.isdigit() else p for p in re.split(r"(\d+)", str(path))])


def read_tree(path: Path, parse: Callable[[bytes], Any]) -> dict[str, Any]:
    """The cleaned dictionary in a file. Raises ValueError, one sentence, if it is absent or unreadable."""
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
    """The run in `path`. Raises ValueError, the reason in one sentence, if it did not finish or cannot be read."""
    if not (path / "summary.json").exists():
        raise ValueError("no summary.json: the run did not finish")
    summary = read_tree(path / "summary.json", json.loads)
    for key, kind in {"name": str, "seed": int, "steps": int, "metrics": dict}.items():
        if not isinstance(summary.get(key), kind):
            raise ValueError(f"summary.json has no usable '{key}' (was it written by another version?)")
    if not all(isinstance(metric, dict) for metric in summary["metrics"].values()):
        raise ValueError("summary.json has a metric without 'value' (was it written by another version?)")
    for key in ("parameters", "protocol", "published", "throughput"):
        summary[key] = summary[key] if isinstance(summary.get(key), dict) else {}
    config = read_tree(path / "config.yaml", lambda text: yaml.load(text, Loader=YAML))
    here = ("/", "~/", str(config.get("run_dir") or "/"))
    flat = {k: v for k, v in flatten(config).items() if not PLACE.fullmatch(k) and not v.startswith(here)}
    return Run(path, folder, summary, flat, paper_table(config.get("table")))


def paper_table(node: object) -> PaperTable | None:
    """`table` of a config; None for a run outside of every table, or if it is not usable."""
    node = node if isinstance(node, dict) else {}
    name, title, order, metrics = (node.get(key) for key in PaperTable._fields)
    if not (isinstance(name, str) and isinstance(order, list) and isinstance(metrics, dict)):
        return None
    return PaperTable(name, shown(title or name), [*map(shown, order)], {k: shown(v) for k, v in metrics.items()})


def last_step(path: Path) -> str:
    """The step of the last readable line of a metrics.jsonl, which a killed run may have left half-written."""
    try:
        for line in reversed(path.read_bytes().splitlines()):
            try:
                return f"{int(json.loads(line)['step']):,}"
            except UNREADABLE:
                continue
    except OSError:
        pass
    return "none"


# arms ----------------------------------------------------------------------------------------------------------------


def group_arms(runs: list[Run]) -> list[Arm]:
    """Arms in the order of their first run. Namesakes are told apart by their settings, or else by their folder."""
    by_config: dict[Any, list[Run]] = {}
    for run in runs:
        by_config.setdefault((run.summary["name"], *sorted(run.config.items())), []).append(run)
    by_name: dict[str, list[list[Run]]] = {}
    for group in by_config.values():
        by_name.setdefault(group[0].summary["name"], []).extend(without_repeats(group))
    arms = []
    for name, groups in by_name.items():
        keys = differing([group[0].config for group in groups])[:3]
        texts = [", ".join(f"{k.split('.')[-1]}={group[0].config.get(k, 'absent')}" for k in keys) for group in groups]
        for text, group in zip(texts, groups, strict=True):
            folder = os.path.commonpath([run.folder for run in group]) if texts.count(text) > 1 else ""
            detail = "; ".join(filter(None, (text, folder)))
            arms.append(Arm(f"{name} ({detail})" if detail else name, group))
    order = {id(run): i for i, run in enumerate(runs)}
    return sorted(arms, key=lambda arm: order[id(arm.runs[0])])


def without_repeats(runs: list[Run]) -> list[list[Run]]:
    """The runs cut by parent folder, or else one by one, until no part holds a seed twice: a repeat is no new seed."""
    if len({run.summary["seed"] for run in runs}) == len(runs):
        return [runs]
    parents: dict[Path, list[Run]] = {}
    for run in runs:
        parents.setdefault(run.path.parent, []).append(run)
    return [[r] for r in runs] if len(parents) == 1 else [p for g in parents.values() for p in without_repeats(g)]


def differing(configs: list[dict[str, str]]) -> list[str]:
    """Keys that do not have one value in all configs."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({config.get(key) for config in configs}) > 1]


def incomparable(arms: list[Arm]) -> dict[int, str]:
    """Index of an arm -> why its numbers cannot stand beside the others': another task, step count or protocol."""
    own_seed = all(r.summary["protocol"].get("seed") == r.summary["seed"] for arm in arms for r in arm.runs)
    facts: list[dict[str, str]] = []
    for arm in arms:
        seen: dict[str, set[str]] = {}
        for summary in (run.summary for run in arm.runs):
            protocol = {f"protocol '{k}'": v for k, v in summary["protocol"].items() if k != "seed" or not own_seed}
            for key, value in {"task": summary.get("task"), "training steps": summary["steps"], **protocol}.items():
                seen.setdefault(key, set()).add(shown(value))
        facts.append({key: " / ".join(sorted(values)) for key, values in seen.items()})
    reasons: dict[int, list[str]] = {}
    for key in dict.fromkeys(key for fact in facts for key in fact):
        values = [fact.get(key, "absent") for fact in facts]
        usual, count = Counter(values).most_common(1)[0]
        for i, value in enumerate(values):
            if 2 * count <= len(values) or " / " in value:
                reasons.setdefault(i, []).append(f"{key} {value} (arms or seeds differ)")
            elif value != usual:
                reasons.setdefault(i, []).append(f"{key} {value}, {usual} in most arms")
    return {i: "; ".join(texts) for i, texts in reasons.items()}


class Stat(NamedTuple):
    """Mean over seeds, sample standard deviation (0 for one seed) and the number of seeds."""

    mean: float
    std: float
    seeds: int


def over_seeds(arm: Arm, get: Get) -> Stat | None:
    """Mean and spread of a number over the runs that have it."""
    values = [value for run in arm.runs if (value := number(get(run.summary))) is not None]
    if not values:
        return None
    return Stat(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))


def by_seed(arm: Arm, metric: str) -> dict[int, float]:
    """The value of a metric by the seed of the run, for the runs that have it."""
    values = {run.summary["seed"]: number(run.summary["metrics"].get(metric, {}).get("value")) for run in arm.runs}
    return {seed: value for seed, value in values.items() if value is not None}


def metric_directions(arms: list[Arm]) -> dict[str, str]:
    """Metric names in the order of the summaries, each with "higher", "lower" or ""."""
    directions: dict[str, str] = {}
    for arm in arms:
        for run in arm.runs:
            for name, metric in run.summary["metrics"].items():
                directions.setdefault(name, shown(metric.get("better") or ""))
    return directions


def pick_grids(arms: list[Arm]) -> list[tuple[str, Path]]:
    """(caption, newest PNG) of each arm that has one, of the seed that most arms share so that they can be compared."""
    found: list[dict[int, tuple[str, Path]]] = []
    for arm in arms:
        grids = {}
        for run in arm.runs:
            steps = {p: int((re.findall(r"\d+", p.stem) or [-1])[-1]) for p in (run.path / "samples").glob("*.png")}
            if steps:
                newest = max(steps, key=lambda p: (p.stem == "final", steps[p], p.name))
                step = f"step {run.summary['steps'] if newest.stem == 'final' else steps[newest]:,}"
                seed = run.summary["seed"]
                grids[seed] = (f"{arm.label} · seed {seed} · {step}", newest)
        found.append(grids)
    counts = Counter(seed for grids in found for seed in grids)
    order = sorted(counts, key=lambda seed: (-counts[seed], seed))
    return [grids[next(seed for seed in order if seed in grids)] for grids in found if grids]
