"""Tasks between named images: which are legal for records, and how often training draws each of them."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import NamedTuple

UNIFORM_OVER = ("groups", "tasks")
LISTED = 12  # names in an error, at the most


class Task(NamedTuple):
    """Conditions and targets of a task: names of images, each in order."""

    conditions: tuple[str, ...]
    targets: tuple[str, ...]
    group: str
    meta_task: str

    @property
    def name(self) -> str:
        """Conditions, then targets: 'reference+depth>target'."""
        return f"{'+'.join(self.conditions)}>{'+'.join(self.targets)}"

    @property
    def images(self) -> tuple[str, ...]:
        """Conditions, then targets: a grid's columns, not shuffled yet. Their number is the paper's L."""
        return self.conditions + self.targets

    @property
    def key(self) -> tuple[frozenset[str], frozenset[str]]:
        """A value that is equal for tasks that differ only in the order of their images."""
        return frozenset(self.conditions), frozenset(self.targets)

    def fits(self, *records: Collection[str]) -> bool:
        """True if every record, a collection of names, has all images of the task (those that can be computed
        included).
        """
        return all(image in record for record in records for image in self.images)


class TaskDistribution:
    """The distribution from which training draws its tasks.

    uniform_over: 'groups', as released (every group alike, then every task inside it alike), or 'tasks'.
    weights: {pattern: factor}, patterns as in `matching`; factors multiply. One for groups weighs groups, one for tasks
        weighs tasks. With 'groups' that is against the others of the group alone, which is drawn as often as before.
    known: all tasks that a pattern may match, those that are never drawn included.

    Raises ValueError for another `uniform_over`, a pattern that matches nothing, or a factor that is not above 0.
    """

    def __init__(
        self, tasks: Iterable[Task], uniform_over: str, weights: Mapping[str, float], known: Sequence[Task]
    ) -> None:
        if uniform_over not in UNIFORM_OVER:
            raise ValueError(f"uniform_over={uniform_over!r} must be {' or '.join(UNIFORM_OVER)}")
        self.tasks = tuple(tasks)
        inside = dict.fromkeys(known, 1.0)
        across = {task.group: 1.0 for task in known}
        for pattern, factor in weights.items():
            check_factor(pattern, factor)
            matched = matching(known, pattern, "weights")
            for task in matched if names_tasks(pattern) else ():
                inside[task] *= factor
            for group in () if names_tasks(pattern) else {task.group for task in matched}:
                across[group] *= factor
        totals = dict.fromkeys(across, 1.0)
        if uniform_over == "groups":
            totals = {group: math.fsum(inside[t] for t in self.tasks if t.group == group) for group in across}
        self._weights = {task: across[task.group] * inside[task] / totals[task.group] for task in self.tasks}

    def legal(self, *records: Collection[str]) -> tuple[Task, ...]:
        """The tasks whose images are in every record. The rows of a grid share one task: give them all."""
        return tuple(task for task in self.tasks if task.fits(*records))

    def probabilities(self, *records: Collection[str]) -> dict[str, float]:
        """{name of a task: its probability}, summing to 1.

        Given records, the tasks that are legal for all of them keep their proportions, as if one drew until one was.
        Raises ValueError if none is legal.
        """
        weights = self._legal_weights(*records)
        total = math.fsum(weights.values())
        return {task.name: weight / total for task, weight in weights.items()}

    def draw(self, rng: random.Random | int, *records: Collection[str]) -> Task:
        """A task that is legal for all records, by `probabilities`; an integer is a seed.

        Raises ValueError if none is legal.
        """
        return self._draws(rng, 1, *records)[0]

    def histogram(self, n: int, seed: int) -> dict[str, int]:
        """{name of a task: number of n draws that got it}, tasks without a draw included."""
        counts = Counter(task.name for task in self._draws(seed, n))
        return {task.name: counts[task.name] for task in self.tasks}

    def _draws(self, rng: random.Random | int, n: int, *records: Collection[str]) -> list[Task]:
        weights = self._legal_weights(*records)
        rng = random.Random(rng) if isinstance(rng, int) else rng
        return rng.choices(list(weights), list(weights.values()), k=n)

    def _legal_weights(self, *records: Collection[str]) -> dict[Task, float]:
        """Weights, of any sum, of the tasks that are legal; at least one."""
        weights = {task: self._weights[task] for task in self.legal(*records)}
        if not weights:
            shared = [image for image in records[0] if all(image in record for record in records)]
            raise ValueError(
                f"none of {len(self.tasks)} training tasks is legal for these {len(records)} records: "
                f"the images that all of them have are {listed(shared)}"
            )
        return weights


def names_tasks(pattern: str) -> bool:
    """True if a pattern is for the names of tasks; one without the grammar's signs is for the names of groups."""
    return ">" in pattern or "+" in pattern


def matching(tasks: Sequence[Task], pattern: str, where: str) -> tuple[Task, ...]:
    """The tasks that match (fnmatch) by their own name, if the pattern has a '>' or '+', else by their group's name.

    A task's whole name matches it in whatever order it has the images. Raises ValueError, with the nearest name, if
    there are none; `where` is the pattern's place in the configuration.
    """
    pattern = "".join(pattern.split())
    names = {task: task.name if names_tasks(pattern) else task.group for task in tasks}
    key = tuple(frozenset(side.split("+")) for side in pattern.split(">"))
    found = tuple(task for task, name in names.items() if fnmatchcase(name, pattern) or task.key == key)
    if not found:
        what = "task" if names_tasks(pattern) else "group (one for tasks has a '>' or '+')"
        raise ValueError(f"{where}: '{pattern}' matches the name of no {what}{meant(pattern, names.values())}")
    return found


def check_factor(pattern: str, factor: object) -> None:
    """Check a weight. Raises ValueError if it is not a finite number above 0."""
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
        raise ValueError(f"weights: '{pattern}' is {factor!r}; it must be a number above 0 (held_out leaves tasks out)")


def meant(word: str, legal: Iterable[str]) -> str:
    """The end of an error about an unknown word: the legal word most like it, or else all legal ones."""
    legal = list(dict.fromkeys(legal))
    close = get_close_matches(word, legal, 1)
    return f"; did you mean '{close[0]}'?" if close else f"; legal are {listed(legal)}"


def listed(names: Sequence[str]) -> str:
    """Names for an error, the first few of many."""
    rest = len(names) - LISTED
    return (", ".join(names[:LISTED]) or "none") + (f" and {rest} more" if rest > 0 else "")
