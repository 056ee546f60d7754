"""AnnotationGraph: the images that a record may have, and the tasks that lead from some of them to others, as data.

VisualCloze, section 3.2 (Graph200K): annotations stand around an image, the `target`. A task shows some of these
images, its conditions, and asks for others, its targets. Tasks are written in this grammar:

    rule  = place + place + ... > place + ...     conditions, of which there may be none, then targets, each in order
    place = name | name | ...                     alternatives: a rule stands for every combination of them
    name  = an image, a kind (all nodes of that kind), or one of `sets`

A rule for one task, without spaces, is that task's name: 'reference+depth>target', or '>target' where the prompt alone
says what is wanted. Reversed and composed tasks are
written like any other: 'target>depth', 'canny>target+depth'. A combination that has an image twice is left out, and
so is one that differs from an earlier one only in order, for training shuffles the columns of a grid: where a and b
are maps, 'a|b + a|b > target' is the one task 'a+b>target'.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from datamodules.graph.sampling import Task, TaskDistribution, matching, meant

CENTRE = "target"
KINDS = ("condition", "degradation", "style", "edit", "reference")
UNSEEN = "unseen"  # the group and the meta-task of a task that no group has


class Node(NamedTuple):
    """An annotation type. `kind` is one of KINDS; a 'condition' is a map of the image, such as its edges."""

    name: str
    kind: str

    @property
    def images(self) -> tuple[str, ...]:
        """The images that this node adds to a record: for a style the reference and the stylised image, else
        one image.
        """
        return (f"{self.name}_ref", self.name) if self.kind == "style" else (self.name,)


class AnnotationGraph:
    """Annotation types, the tasks between their images, and the distribution that training draws tasks from.

    nodes: {kind: [annotation type, ...]}, kinds of KINDS.
    groups: {meta-task: {group: [rule, ...]}}; no task may be there twice.
    sets: {name: [name, ...]}, names for alternatives; a set may name those above it.
    uniform_over, weights: see `TaskDistribution`.
    held_out: patterns for tasks or groups, see `graph_sampling.matching`; what they match is not trained on.
    unseen: rules for further tasks, for evaluation alone; one that a group has is refused, in whatever order.

    Attributes: `nodes` by name; `node_of`, the name of every image's node (the target's is its own); `tasks`, those
    of all groups, in two parts `training_tasks` and `held_out_tasks`; `unseen_tasks`; `training`, the
    `TaskDistribution` over the training tasks, from which nothing else can be drawn.

    Raises ValueError, naming the argument and the nearest legal name, for an unknown or ambiguous name, a rule that
    gives no task, a task that is there twice, a pattern that matches nothing, and if no task is left to train on.
    """

    def __init__(
        self,
        *,
        nodes: Mapping[str, Sequence[str]],
        groups: Mapping[str, Mapping[str, Sequence[str]]],
        sets: Mapping[str, Sequence[str]] | None = None,
        uniform_over: str = "groups",
        weights: Mapping[str, float] | None = None,
        held_out: Sequence[str] = (),
        unseen: Sequence[str] = (),
    ) -> None:
        self.nodes = _checked_nodes(nodes)
        self.node_of = {image: node.name for node in self.nodes.values() for image in node.images}
        self.node_of[CENTRE] = CENTRE
        self._names = _named_images(self.nodes, sets or {})
        self._known: dict[tuple[frozenset[str], frozenset[str]], Task] = {}
        for meta_task, members in _items("groups", groups):
            for group, rules in _items(f"groups.{meta_task}", members):
                self._add_group(group, meta_task, rules)
        self.tasks = tuple(self._known.values())
        barred = {t for pattern in _strings("held_out", held_out) for t in matching(self.tasks, pattern, "held_out")}
        self.held_out_tasks = tuple(task for task in self.tasks if task in barred)
        self.training_tasks = tuple(task for task in self.tasks if task not in barred)
        if not self.training_tasks:
            raise ValueError(f"no task is left to train on: groups has {len(self.tasks)} and held_out takes them all")
        self.training = TaskDistribution(self.training_tasks, uniform_over, weights or {}, self.tasks)
        self.unseen_tasks = self._unseen(_strings("unseen", unseen))

    def of_kind(self, kind: str) -> tuple[str, ...]:
        """The names of the nodes of a kind. Raises ValueError for a kind that is not one of KINDS."""
        _check("kind", kind, KINDS)
        return tuple(node.name for node in self.nodes.values() if node.kind == kind)

    def expand(self, rule: str, where: str = "task") -> tuple[Task, ...]:
        """The tasks that a rule stands for, each as its group has it, or else in the group 'unseen'.

        Raises ValueError for what is no rule, an unknown annotation (with the nearest known name) and a rule that gives
        no task; `where` is the rule's place in the configuration.
        """
        return tuple(self._known.get(task.key, task) for task in self._expanded(rule, where, UNSEEN, UNSEEN))

    def task(self, name: str) -> Task:
        """Any one task by its name, with its images as its group orders them. Raises ValueError as `expand` does."""
        tasks = self.expand(name)
        if len(tasks) > 1:
            raise ValueError(f"task: '{name}' stands for {len(tasks)} tasks ({tasks[0].name}, ...); name one of them")
        return tasks[0]

    def edges(self, tasks: Iterable[Task]) -> frozenset[tuple[str, str]]:
        """(from, to) by nodes: from the target to every annotation, and from a task's conditions to its targets."""
        derived = {(CENTRE, name) for name in self.nodes}
        steps = {
            (self.node_of[a], self.node_of[b]) for task in tasks for a, b in product(task.conditions, task.targets)
        }
        return frozenset(derived | steps)

    def dead_ends(self, tasks: Iterable[Task] | None = None) -> tuple[str, ...]:
        """The nodes that do not reach the target by `edges` of these tasks; by default of all, the unseen ones too.

        Graph200K is said to be strongly connected: between every two nodes there is a path either way, the nodes inside
        it serving as conditions and the last one as the target (section 3.2). Here a path goes from the target to any
        annotation, because every annotation was made from it (a reference, beside it), and along a task from any one of
        its conditions to any one of its targets, though the other conditions are needed too. As the target reaches
        every annotation, all nodes reach each other exactly if all reach the target.
        """
        edges = self.edges((*self.tasks, *self.unseen_tasks) if tasks is None else tasks)
        reaching: set[str] = set()
        found = {CENTRE}
        while found:
            reaching |= found
            found = {start for start, end in edges if end in found} - reaching
        return tuple(name for name in self.nodes if name not in reaching)

    def strongly_connected(self, tasks: Iterable[Task] | None = None) -> bool:
        """True if every node reaches every other; `dead_ends` names those that do not."""
        return not self.dead_ends(tasks)

    def summary(self) -> dict[str, Any]:
        """The graph in numbers and names, plain data. A task's length is how many images it has, the paper's L."""
        return {
            "nodes": len(self.nodes),
            "nodes_by_kind": {kind: len(self.of_kind(kind)) for kind in KINDS},
            "degradations": list(self.of_kind("degradation")),
            "tasks": len(self.tasks),
            "tasks_by_meta_task": dict(Counter(task.meta_task for task in self.tasks)),
            "tasks_by_group": dict(Counter(task.group for task in self.tasks)),
            "tasks_by_length": dict(sorted(Counter(len(task.images) for task in self.tasks).items())),
            "training_tasks": len(self.training_tasks),
            "held_out_tasks": [task.name for task in self.held_out_tasks],
            "unseen_tasks": [task.name for task in self.unseen_tasks],
            "strongly_connected": self.strongly_connected(),
            "dead_ends": list(self.dead_ends()),
            "dead_ends_in_training": list(self.dead_ends(self.training_tasks)),
        }

    def _add_group(self, group: str, meta_task: str, rules: Sequence[str]) -> None:
        where = f"groups.{meta_task}.{group}"
        _word(where, group)
        if group == UNSEEN or any(task.group == group for task in self._known.values()):
            raise ValueError(f"{where}: a group is called '{group}' already; choose another name")
        for rule in _strings(where, rules):
            for task in self._expanded(rule, where, group, meta_task):
                if task.key in self._known:
                    other = self._known[task.key]
                    raise ValueError(f"{where}: '{rule}' gives {task.name}, which group {other.group} has already")
                self._known[task.key] = task

    def _unseen(self, rules: Sequence[str]) -> tuple[Task, ...]:
        found = {task.key: task for rule in rules for task in self.expand(rule, "unseen")}
        for task in found.values():
            if task.group != UNSEEN:
                raise ValueError(
                    f"unseen: '{task.name}' is a task of group {task.group}; list it under held_out instead"
                )
        return tuple(found.values())

    def _expanded(self, rule: str, where: str, group: str, meta_task: str) -> tuple[Task, ...]:
        """The tasks that a rule stands for, in the order of its alternatives."""
        sides = [side.split("+") if side.strip() else [] for side in rule.split(">")]
        if len(sides) != 2 or not sides[1]:
            raise ValueError(f"{where}: '{rule}' is no task; write conditions>targets, as in reference+depth>target")
        places = [self._alternatives(place, rule, where) for side in sides for place in side]
        found: dict[tuple[frozenset[str], frozenset[str]], Task] = {}
        for images in product(*places):
            task = Task(images[: len(sides[0])], images[len(sides[0]) :], group, meta_task)
            if len(set(images)) == len(images):
                found.setdefault(task.key, task)
        if not found:
            raise ValueError(f"{where}: '{rule}' gives no task: no image may be in two places of a task")
        return tuple(found.values())

    def _alternatives(self, place: str, rule: str, where: str) -> tuple[str, ...]:
        """The images that may stand in a place of a rule."""
        names = [name.strip() for name in place.split("|")]
        for name in names:
            if name not in self._names:
                raise ValueError(f"{where}: unknown annotation '{name}' in '{rule}'{meant(name, self._names)}")
        return tuple(image for name in names for image in self._names[name])


def _checked_nodes(nodes: Mapping[str, Sequence[str]]) -> dict[str, Node]:
    """The nodes by name. Raises ValueError for an unknown kind and for a name that is illegal or taken."""
    found: dict[str, Node] = {}
    taken = {CENTRE}
    for kind, names in _items("nodes", nodes):
        where = f"nodes.{kind}"
        _check("nodes", kind, KINDS)
        for name in _strings(where, names):
            node = Node(_word(where, name), kind)
            if clash := taken.intersection(node.images):
                raise ValueError(f"{where}: there is an image '{min(clash)}' already; choose another name")
            if name in KINDS and list(names) != [kind]:
                raise ValueError(f"{where}: '{name}' is a kind's name, which only the one node of that kind may have")
            taken.update(node.images)
            found[name] = node
    return found


def _named_images(nodes: Mapping[str, Node], sets: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The images that each name of the grammar stands for. Raises ValueError for a set's name that is taken."""
    names = {image: (image,) for node in nodes.values() for image in node.images} | {CENTRE: (CENTRE,)}
    for kind in {node.kind: None for node in nodes.values()}:  # the kind of a node of that name is that node alone
        names[kind] = tuple(node.name for node in nodes.values() if node.kind == kind)
    for name, members in _items("sets", sets):
        if _word("sets", name) in names:
            raise ValueError(f"sets: '{name}' is the name of an image or of a kind; choose another one")
        for member in _strings(f"sets.{name}", members):
            _check(f"sets.{name}", member, names)
        names[name] = tuple(dict.fromkeys(image for member in members for image in names[member]))
    return names


def _check(where: str, name: str, legal: Iterable[str]) -> None:
    if name not in legal:
        raise ValueError(f"{where}: unknown name '{name}'{meant(name, legal)}")


def _word(where: str, name: Any) -> str:
    """Return the name. Raises ValueError unless it consists of letters, digits and underscores."""
    if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
        raise ValueError(f"{where}: {name!r} is no name; it must be letters, digits and underscores")
    return name


def _items(where: str, value: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is {value!r}; it must be a mapping by name")
    return value.items()


def _strings(where: str, value: Any) -> Sequence[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{where} is {value!r}; it must be a list of strings, such as [canny>target]")
    return value
