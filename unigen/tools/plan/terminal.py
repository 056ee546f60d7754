"""Prints a resource estimate: tables of parameters, memory and time, switches that make it fit, cost of a sweep."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from unigen.tools.plan.estimate import Plan, fitting, plan
from unigen.tools.plan.memory import GIB
from unigen.tools.plan.profile import Profile
from unigen.training.experiment import quiet

MOMENTS = {"step": "activations: forward and backward", "encoding": "codec on a batch", "update": "optimizer step"}


def decisive(config: Mapping[str, Any]) -> str:
    """Return the part of a configuration that an estimate depends on, as a string, without seeds and folders."""
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
    """Make the resource estimate and print it; if the run does not fit, print the switches that make it fit."""
    quiet()
    made, console = plan(config, profile), Console(highlight=False)
    console.print(
        f"[bold]{made.name}[/bold] on {made.world} × {profile.name}: a resource estimate; nothing was allocated"
    )
    for table in (parameters_table(made), memory_table(made), time_table(made)):
        console.print(table)
    if made.warning:
        console.print(f"[bold]warning:[/bold] {made.warning}", soft_wrap=True)
    for line in verdict(made, fitting(config, profile) if made.over > 0 else ()):
        console.print(line, soft_wrap=True, markup=False)
    return made


def parameters_table(made: Plan) -> Table:
    """Return the table of parameters in millions by component."""
    table = _table("parameters, millions", "component", "frozen", "trained")
    for name, count in made.components.items():
        frozen = count["total"] - count["trained"]
        table.add_row(name, f"{frozen / 1e6:,.2f}", f"{count['trained'] / 1e6:,.2f}")
    return table


def memory_table(made: Plan) -> Table:
    """Return the table of GiB on one device; only the largest of the three moments of a step adds to the peak."""
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
    """Return the table of FLOPs, traffic and hours; its rows name the assumptions."""
    table = _table("FLOPs, time and cost", "", "")
    batch = made.batch * made.accumulate * made.world
    rows = {
        "tokens of a sample": f"{made.tokens:,}",
        "samples of an optimizer step": f"{batch} ({made.batch} × {made.accumulate} × {made.world} devices)",
        "model TFLOP of a sample (attended pairs, adapters, no recomputation)": f"{made.model_flops / 1e12:,.4g}",
        "executed TFLOP of a sample (recomputation, adapters)": f"{made.step.flops / made.batch / 1e12:,.4g}",
        "codec TFLOP of a sample": f"{made.encoding.flops / made.batch / 1e12:,.4g}",
        "GiB sent by a device in an optimizer step: gradients": _gib(made.traffic.gradients),
        "GiB of updated weights, or summed gradients, to all devices": _gib(made.traffic.updates),
        "GiB of weights gathered for computing": _gib(made.traffic.weights),
        f"seconds of computing in an optimizer step ({made.profile.efficiency:.0%} of peak assumed)": (
            f"{made.computing:,.4g}"
        ),
        "seconds of communicating (none of it overlapped: assumed)": f"{made.communicating:,.4g}",
        "seconds of an optimizer step": f"{made.seconds:,.4g}",
        "resulting model FLOPs utilisation": f"{made.mfu:.1%}",
        f"hours of {made.steps:,} steps, training alone": f"{made.hours:,.4g}",
        "GPU-hours": f"{made.hours * made.world:,.4g}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def verdict(made: Plan, others: Iterable[Plan]) -> list[str]:
    """Return lines that say if the run fits, and with which switches it would; each of `others` has one more switch."""
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
    return " (from formulas alone: this project has run DeepSpeed on CPUs only)" if "deepspeed" in words else ""


def sweep_table(plans: list[Plan]) -> Table:
    """Return the table of the cost of all jobs of a multirun."""
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
