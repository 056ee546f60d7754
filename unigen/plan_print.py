"""A plan on the terminal: tables of parameters, memory and time, what does not fit, and the cost of a sweep."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from unigen.plan import Plan, fitting, plan
from unigen.plan_memory import GIB
from unigen.plan_profile import Profile
from unigen.training import quiet

MOMENTS = {"step": "activations: forward and backward", "encoding": "codec on a batch", "update": "optimizer step"}


def decisive(config: Mapping[str, Any]) -> str:
    """What a plan of the learner's kind depends on, as a string: seeds and folders are no part of it."""
    groups = (
        "name",
        "learner",
        "backbone",
        "formatter",
        "mask",
        "conditioning",
        "encoder",
        "fill",
        "data",
        "trainer",
        "strategy",
    )
    left_out = {"seed", "default_root_dir", "plugins"}
    said = {g: config.get(g) for g in (*groups, "optimizer", "cache")} | {"callbacks": sorted(config["callback"])}
    for group in ("data", "trainer"):
        said[group] = {k: v for k, v in said[group].items() if k not in left_out}
    return json.dumps(said, sort_keys=True)


def show_plan(config: Mapping[str, Any], profile: Profile) -> Plan:
    """Make the plan, print it and, where it does not fit, what would make it fit."""
    quiet()
    made, console = plan(config, profile), Console(highlight=False)
    console.print(f"[bold]{made.name}[/bold] on {made.world} × {profile.name}: a plan; nothing was allocated")
    for table in (parameters_table(made), memory_table(made), time_table(made)):
        console.print(table)
    if made.warning:
        console.print(f"[bold]warning:[/bold] {made.warning}", soft_wrap=True)
    for line in verdict(made, fitting(config, profile) if made.over > 0 else ()):
        console.print(line, soft_wrap=True, markup=False)
    return made


def parameters_table(made: Plan) -> Table:
    """Millions of parameters by component."""
    table = _table("parameters, millions", "component", "frozen", "trained")
    for name, count in made.components.items():
        frozen = count["total"] - count["trained"]
        table.add_row(name, f"{frozen / 1e6:,.2f}", f"{count['trained'] / 1e6:,.2f}")
    return table


def memory_table(made: Plan) -> Table:
    """GiB on one device; of the three moments of a step only the largest adds to the peak."""
    table = _table(f"memory of one device, GiB of {made.profile.memory_gib:g}", "part", "held", "for a moment")
    for name, size in made.held._asdict().items():
        table.add_row(name, _gib(size), "")
    moments = {"step": made.step.peak, "encoding": made.encoding.peak, "update": made.update}
    for name, size in moments.items():
        table.add_row(MOMENTS[name], "", _gib(size))
    table.add_row("reserve (assumed)", f"{made.profile.reserve_gib:.2f}", "")
    table.add_section()
    table.add_row("peak", _gib(made.peak), "")
    return table


def time_table(made: Plan) -> Table:
    """FLOPs and hours; what rests on an assumption says so."""
    table = _table("FLOPs, time and cost", "", "")
    batch = made.batch * made.accumulate * made.world
    rows = {
        "tokens of a sample": f"{made.tokens:,}",
        "samples of an optimizer step": f"{batch} ({made.batch} × {made.accumulate} × {made.world} devices)",
        "model TFLOP of a sample (attended pairs, adapters, no recomputation)": f"{made.model_flops / 1e12:,.4g}",
        "executed TFLOP of a sample (recomputation, adapters)": f"{made.step.flops / made.batch / 1e12:,.4g}",
        "codec TFLOP of a sample": f"{made.encoding.flops / made.batch / 1e12:,.4g}",
        "GiB sent by a device in an optimizer step: gradients": _gib(made.traffic.gradients),
        "updated weights, or summed gradients, to all": _gib(made.traffic.updates),
        "weights gathered to compute with them": _gib(made.traffic.weights),
        f"seconds of computing in an optimizer step ({made.profile.efficiency:.0%} of peak assumed)": (
            f"{made.computing:,.4g}"
        ),
        "seconds of communicating (none of it overlapped: assumed)": f"{made.communicating:,.4g}",
        "seconds of an optimizer step": f"{made.seconds:,.4g}",
        "model FLOPs utilisation that follows": f"{made.mfu:.1%}",
        f"hours of {made.steps:,} steps, training alone": f"{made.hours:,.4g}",
        "GPU-hours": f"{made.hours * made.world:,.4g}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def verdict(made: Plan, others: Iterable[Plan]) -> list[str]:
    """Whether it fits, and with which switches it would; each of `others` has one more."""
    room = made.profile.memory_gib
    if made.over <= 0:
        return [f"fits: {_gib(made.peak)} of {room:g} GiB"]
    lines = [f"does not fit: {_gib(made.peak)} GiB, {_gib(made.over)} more than the {room:g} of {made.profile.name}"]
    for other in others:
        changed = {k: v for k, v in other.switches.items() if v != made.switches[k]}
        words = " ".join(f"{key}={str(value).lower()}" for key, value in changed.items())
        fate = "fits" if other.over <= 0 else f"{_gib(other.over)} too many"
        lines.append(f"  {words}: {_gib(other.peak)} GiB, {fate}; {other.seconds:.4g} s a step{_untried(words)}")
    if ", fits;" not in lines[-1]:
        lines.append("none of these switches makes it fit: take more devices, a smaller model or a larger profile")
    return lines


def _untried(words: str) -> str:
    return " (by formulas alone: this project has run DeepSpeed on CPUs only)" if "deepspeed" in words else ""


def sweep_table(plans: list[Plan]) -> Table:
    """The cost of all jobs of a multirun together."""
    table = _table("the whole sweep", "arm", "jobs", "peak GiB", "hours each", "GPU-hours")
    for name in dict.fromkeys(p.name for p in plans):
        jobs = [p for p in plans if p.name == name]
        cost = sum(p.hours * p.world for p in jobs)
        table.add_row(name, str(len(jobs)), _gib(max(p.peak for p in jobs)), f"{jobs[0].hours:,.4g}", f"{cost:,.4g}")
    table.add_section()
    table.add_row("all", str(len(plans)), "", "", f"{sum(p.hours * p.world for p in plans):,.4g}")
    return table


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _table(title: str, *header: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="", show_header=any(header))
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left")
    return table
