"""Collects the images of runs: the same held-out item over all arms, seeds and checkpoints, and sample grids."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unigen.evaluation.arms import Arm
from unigen.evaluation.evaluations import sheets
from unigen.evaluation.runs import UNREADABLE, Run, cleaned, shown

BENCH_ITEMS = 24  # items of a benchmark that are shown


class Shot(NamedTuple):
    """One output of an item; `last` is true for the newest of its run."""

    arm: int
    seed: int
    step: int
    last: bool
    path: Path


class Item(NamedTuple):
    """A held-out item: what it is, its conditions and its truth as (name, path), and the outputs for it."""

    key: str
    task: str
    prompt: str
    fixed: list[tuple[str, Path]]
    shots: list[Shot]


class Grids(NamedTuple):
    """The sample grids of one seed: (caption, newest PNG) of each arm that has one, and the arms that have none."""

    seed: int
    images: list[tuple[str, Path]]
    without: list[str]


def items(arms: Sequence[Arm]) -> list[Item]:
    """Return the items of all runs, from samples/items (`callbacks.sample_grid`), or of their evaluations."""
    found: dict[tuple[str, ...], Item] = {}
    for index, arm in enumerate(arms):
        for run in arm.runs:
            for key, task, prompt, fixed, shots in of_evaluations(run) if run.evaluations else of_samples(run):
                item = found.setdefault((key, task), Item(key, task, prompt, fixed, []))
                newest = max(step for step, _ in shots)
                item.shots.extend(Shot(index, run.summary["seed"], s, s == newest, path) for s, path in shots)
    return list(found.values())


def of_samples(run: Run) -> list[tuple[str, str, str, list[tuple[str, Path]], list[tuple[int, Path]]]]:
    """Return (key, task, prompt, fixed images, (step, output) pairs) of the items that a training drew."""
    found = []
    for folder in sorted((run.path / "samples").glob("items*")):
        files = sorted(path.name for path in folder.glob("*_step_*.png"))
        for number, said in enumerate(_read(folder / "items.json")):
            try:
                slots, targets = dict(said["slots"]), list(said["targets"])
                words = [shown(said[name]) for name in ("key", "task", "prompt")]
            except UNREADABLE:
                continue
            for target in targets:
                steps = [re.fullmatch(rf"{number:03d}_{re.escape(target)}_step_(\d+)\.png", file) for file in files]
                if shots := [(int(match[1]), folder / match[0]) for match in steps if match]:
                    fixed = [(n, folder / f) for n, f in slots.items() if n not in targets]
                    fixed += [("truth", folder / slots[target])] if target in slots else []
                    key = words[0] if len(targets) == 1 else f"{words[0]}, {target}"
                    found.append((key, *words[1:], fixed, shots))
    return found


def of_evaluations(run: Run) -> list[tuple[str, str, str, list[tuple[str, Path]], list[tuple[int, Path]]]]:
    """Return the same of the first items of the run's evaluations, with the run's last step."""
    found = []
    for part, folder in run.evaluations.items():
        for said in _read(folder / "manifest.jsonl", lines=True):
            try:
                files, words = dict(said["files"]), [shown(said.get(name, "")) for name in ("key", "task", "prompt")]
                if said["image"] or said["item"] >= BENCH_ITEMS or "output" not in files:
                    continue
                kept = [n for n in files if n.partition(".")[0] not in ("output", "truth", "through_codec")]
                fixed = [(n, folder / files[n]) for n in [*kept, *(["truth"] if "truth" in files else [])]]
                key = f"{words[0]} ({part})" if part else words[0]
                found.append((key, *words[1:], fixed, [(run.summary["steps"], folder / files["output"])]))
            except UNREADABLE:
                continue
    return found


def _read(path: Path, lines: bool = False) -> list[Any]:
    """Return the objects of a JSON file, cleaned; [] if it is absent or cannot be read."""
    try:
        text = path.read_text()
        found = cleaned([json.loads(line) for line in text.splitlines()] if lines else json.loads(text))
    except UNREADABLE:
        return []
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def grids(arms: Sequence[Arm]) -> list[Grids]:
    """Return the grids of the seed that most arms have, so that they can be compared, then of seeds for other arms."""
    found = [arm_grids(arm) for arm in arms]
    counts = Counter(seed for own in found for seed in own)
    picked, open_arms = [], {i for i, own in enumerate(found) if own}
    for seed in sorted(counts, key=lambda seed: (-counts[seed], seed)):
        if having := {i for i in open_arms if seed in found[i]}:
            open_arms -= having
            images = [image for own in found for image in own.get(seed, ())]
            without = [arm.label for arm, own in zip(arms, found, strict=True) if seed not in own]
            picked.append(Grids(seed, images, without))
    return picked


def arm_grids(arm: Arm) -> dict[int, list[tuple[str, Path]]]:
    """Return {seed: [(caption, path of the PNG)]}: the newest grid of a run, or the sheets of its evaluations."""
    found_by_seed = {}
    for run in arm.runs:
        who, steps = f"{arm.label} · seed {run.summary['seed']}", {}
        if not run.evaluations:
            steps = {p: int((re.findall(r"\d+", p.stem) or [-1])[-1]) for p in (run.path / "samples").glob("*.png")}
        found = [(f"{who} · {path.parent.name}", path) for _, path in sheets(run)]
        if steps:
            newest = max(steps, key=lambda p: (p.stem == "final", steps[p], p.name))
            step = run.summary["steps"] if newest.stem == "final" else steps[newest]
            found.append((f"{who} · step {step:,}", newest))
        if found:
            found_by_seed[run.summary["seed"]] = found
    return found_by_seed
