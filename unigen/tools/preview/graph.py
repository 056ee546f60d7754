"""Tables of an annotation graph: its types, its tasks, which types lead back to the target, and the draws by task.

`graph` is a `datamodules.graph.graph.AnnotationGraph` everywhere.
"""

from collections.abc import Iterable, Mapping
from textwrap import fill
from typing import Any

from unigen.tools.forms.tables import Cell, Table

BAR = 24  # characters of the longest bar
CENTRE = "target"
WIDTH = 90  # characters in a line of a list of names


def graph_tables(graph: Any, drawn: Mapping[str, int], expected: Mapping[str, float]) -> list[Table]:
    """Return all tables of one graph.

    `drawn` and `expected` hold the number of draws and the probability of every training task, by name.
    """
    return [
        types_table(graph),
        groups_table(graph, drawn, expected),
        connection_table(graph),
        *left_out_table(graph),
        draws_table(drawn, expected, "Draws by task"),
    ]


def types_table(graph: Any) -> Table:
    """Return the table of annotation types by kind."""
    said = graph.summary()
    rows = [
        [Cell(kind), Cell(str(count)), Cell(fill(", ".join(graph.of_kind(kind)), WIDTH))]
        for kind, count in said["nodes_by_kind"].items()
    ]
    title = f"{said['nodes']} annotation types"
    return Table(title, ["kind", "types", "names"], rows, [], [], terminal=True)


def groups_table(graph: Any, drawn: Mapping[str, int], expected: Mapping[str, float]) -> Table:
    """Return the table of tasks by meta-task and group: their number, their length, how often they are drawn."""
    members: dict[tuple[str, str], list[Any]] = {}
    for task in graph.tasks:
        members.setdefault((task.meta_task, task.group), []).append(task)
    most = max((sum(drawn.get(t.name, 0) for t in tasks) for tasks in members.values()), default=0)
    rows = []
    for (meta, group), tasks in members.items():
        count = sum(drawn.get(task.name, 0) for task in tasks)
        rows.append([Cell(f"{meta} / {group}"), *numbers(graph, tasks, expected, drawn), bar(count, most)])
    total = [Cell("all"), *numbers(graph, graph.tasks, expected, drawn), Cell("")]
    metas = {meta: sum(len(ts) for (m, _), ts in members.items() if m == meta) for meta, _ in members}
    sums = ", ".join(f"{meta} {count}" for meta, count in metas.items())
    lengths = ", ".join(f"{count} of {n}" for n, count in graph.summary()["tasks_by_length"].items())
    notes = [f"Tasks by meta-task: {sums}.", f"Tasks by length (images of one row, the paper's L): {lengths}."]
    header = ["meta-task / group", "tasks", "held out", "images", "likely", "drawn", ""]
    title = f"{len(graph.tasks)} tasks, and {sum(drawn.values()):,} draws of them"
    return Table(title, header, rows, [total], notes, terminal=True)


def numbers(graph: Any, tasks: Iterable[Any], expected: Mapping[str, float], drawn: Mapping[str, int]) -> list[Cell]:
    """Return cells on some tasks: their number, the number held out, their lengths, probability and draws in sum."""
    names = [task.name for task in tasks]
    held_out = sum(task in graph.held_out_tasks for task in tasks)
    lengths = sorted({len(task.images) for task in tasks})
    likely, count = sum(expected.get(name, 0.0) for name in names), sum(drawn.get(name, 0) for name in names)
    return [
        Cell(str(len(names)), len(names)),
        Cell(str(held_out), held_out),
        Cell(" to ".join(dict.fromkeys(map(str, (lengths[0], lengths[-1])))), lengths[0]),
        Cell(f"{likely:.2%}", likely),
        Cell(f"{count:,}", count),
    ]


def bar(count: int, most: int) -> Cell:
    """Return a bar of BAR characters, filled to the share of `count` in `most`."""
    return Cell(("█" * round(BAR * count / most) if most else "").ljust(BAR, "░"))


def connection_table(graph: Any) -> Table:
    """Return a table that says, for several sets of tasks, if every annotation leads to every other."""
    sets = {f"the {len(graph.tasks)} of its groups": graph.tasks}
    if graph.held_out_tasks:
        sets[f"the {len(graph.training_tasks)} trained on"] = graph.training_tasks
    if graph.unseen_tasks:
        everything = (*graph.tasks, *graph.unseen_tasks)
        sets[f"with the {len(graph.unseen_tasks)} unseen ones, {len(everything)}"] = everything
    rows = [[Cell(what), Cell(fill(connection(graph, tasks), WIDTH))] for what, tasks in sets.items()]
    results = {graph.node_of[name] for task in graph.tasks for name in task.targets}
    never = [name for name in graph.nodes if name not in results]
    notes = [
        "Strongly connected: between every two types there is a path either way. Every annotation was made from the "
        "target, so this asks which types lead back to it.",
        "A path may use a task if any one of its conditions is at hand; the table notes "
        "where the result differs if all are needed.",
        f"No task of the groups makes {len(never)} of {len(graph.nodes)} types: only annotating the target does.",
    ]
    return Table("Strongly connected?", ["tasks", "strongly connected"], rows, [], notes, terminal=True)


def connection(graph: Any, tasks: Iterable[Any]) -> str:
    """Return a sentence that says if these tasks connect all types."""
    loose, strict = graph.dead_ends(tasks), strict_dead_ends(graph, tasks)
    more = f"; but {verdict(strict)}, if a task needs all of its conditions at hand" if strict != loose else ""
    return verdict(loose) + more


def verdict(dead_ends: tuple[str, ...]) -> str:
    """Return yes or no, with the reason."""
    if not dead_ends:
        return "yes: every type leads to every other"
    return f"no: {', '.join(dead_ends)} {'does' if len(dead_ends) == 1 else 'do'} not lead back to the target"


def strict_dead_ends(graph: Any, tasks: Iterable[Any]) -> tuple[str, ...]:
    """Return the types that do not lead to the target if a task needs all of its conditions to be known.

    A walk starts with the images of one type and adds the targets of every task whose conditions it has.
    """
    tasks, found = tuple(tasks), []
    for name, node in graph.nodes.items():
        have, before = set(node.images), -1
        while len(have) != before and CENTRE not in have:
            before = len(have)
            have |= {image for task in tasks if have.issuperset(task.conditions) for image in task.targets}
        if CENTRE not in have:
            found.append(name)
    return tuple(found)


def left_out_table(graph: Any) -> list[Table]:
    """Return the table of tasks that training never draws, if there are any."""
    rows = [[Cell(task.name), Cell("held out"), Cell(task.group)] for task in graph.held_out_tasks]
    rows += [[Cell(task.name), Cell("unseen"), Cell("in no group")] for task in graph.unseen_tasks]
    title = f"Never trained on: {len(graph.held_out_tasks)} held out, {len(graph.unseen_tasks)} unseen"
    return [Table(title, ["task", "why", "group"], rows, [], [], terminal=True)] if rows else []


def draws_table(drawn: Mapping[str, int], expected: Mapping[str, float] | None, title: str) -> Table:
    """Return a histogram by task, the most likely (or most frequent) first; `expected` is None without a graph."""
    names = sorted(drawn, key=lambda name: (-(expected or drawn)[name], name))
    most, total = max(drawn.values(), default=0), sum(drawn.values())
    rows = []
    for name in names:
        likely = [] if expected is None else [Cell(f"{total * expected[name]:.1f}", expected[name])]
        rows.append([Cell(name), Cell(f"{drawn[name]:,}", drawn[name]), *likely, bar(drawn[name], most)])
    likely = [] if expected is None else [Cell(f"{total * sum(expected.values()):.1f}", 1.0)]
    foot = [[Cell("all"), Cell(f"{total:,}", total), *likely, Cell("")]]
    header = ["task", "drawn", *(["expected"] if expected is not None else []), ""]
    return Table(title, header, rows, foot, [])


def choices_table(graphs: Mapping[str, Any]) -> Table:
    """Return a table that compares all graphs, named by their files."""
    rows = []
    for name, graph in graphs.items():
        said = graph.summary()
        counts = (said["nodes"], said["tasks"], len(said["held_out_tasks"]), len(said["unseen_tasks"]))
        connected = (graph.strongly_connected(graph.tasks), graph.strongly_connected())
        words = (Cell("yes" if whole else "no") for whole in connected)
        rows.append([Cell(name), *(Cell(str(count), count) for count in counts), *words])
    header = ["graph", "annotation types", "tasks", "of which held out", "unseen tasks besides"]
    header += ["strongly connected", "with the unseen"]
    return Table("The graphs of conf/graph", header, rows, [], [], terminal=True)
