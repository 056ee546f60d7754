"""What runs cost: steps, samples, hours, FLOPs, memory and latency, as columns that a report can show."""

import re
from collections.abc import Callable
from typing import Any

from unigen.evaluation.arms import Arm
from unigen.evaluation.runs import Get, number, shown

Show = Callable[[float], str]


def times(*factors: object) -> float | None:
    """Return the product of the factors, or None if one is not a number."""
    product = 1.0
    for factor in map(number, factors):
        if factor is None:
            return None
        product *= factor
    return product


def hours(summary: dict[str, Any], processor: str) -> float | None:
    """Return hours of training times GPUs, or times CPU threads; None for the other processor, and if unknown.

    Older summaries have no `ranks`; such runs count as one process.
    """
    device = str(summary.get("device", ""))
    threads = re.fullmatch(r"CPU, (\d+) threads", device)
    if not device or (processor == "CPU") != bool(threads):
        return None
    return times(summary.get("seconds"), 1 / 3600, summary.get("ranks", 1), int(threads[1]) if threads else 1)


FACTS: tuple[tuple[str, Get, Show], ...] = (
    ("steps", lambda s: s["steps"], "{:,.0f}".format),
    ("samples seen", lambda s: s.get("samples_seen"), "{:,.0f}".format),
    ("trained", lambda s: s["parameters"].get("trained"), lambda value: f"{value / 1e6:,.2f} M"),
    ("tokens a sample", lambda s: s.get("tokens"), "{:,.0f}".format),
    ("minutes", lambda s: s.get("seconds"), lambda value: f"{value / 60:,.1f}"),
    ("GPU-hours", lambda s: hours(s, "GPU"), "{:,.3g}".format),
    ("CPU-hours", lambda s: hours(s, "CPU"), "{:,.3g}".format),
    ("TFLOP", lambda s: times(s["throughput"].get("model_tflops"), s["throughput"].get("seconds")), "{:,.3g}".format),
    ("host GiB", lambda s: s.get("peak_memory_gib"), "{:,.2f}".format),
    ("GPU GiB", lambda s: s.get("peak_gpu_memory_gib"), "{:,.2f}".format),
    ("samples/s", lambda s: s["throughput"].get("samples_per_s"), "{:,.1f}".format),
)


def facts(arms: list[Arm]) -> list[tuple[str, Get, Show]]:
    """Return FACTS, and a column of the latency for each device, batch size and benchmark."""
    told = [run.summary["sampling"] for arm in arms for run in arm.runs]
    settings = dict.fromkeys((part, *setting(said)) for each in told for part, said in each.items() if said)
    return [*FACTS, *(latency(*found) for found in settings)]


def setting(said: dict[str, Any]) -> tuple[str, str]:
    """Return the batch size and the device of a latency as text."""
    return shown(said.get("batch_size", "?")), shown(said.get("device", "?"))


def latency(part: str, together: str, device: str) -> tuple[str, Get, Show]:
    """Return the column of wall seconds an image, for runs measured with this batch size on this device."""

    def get(summary: dict[str, Any]) -> object:
        said = summary["sampling"].get(part, {})
        seconds = said.get("seconds_per_image", said.get("seconds_per_picture"))  # as older runs call it
        return seconds if setting(said) == (together, device) else None

    return f"s an image{' of ' + part if part else ''} ({together} at once, {device})", get, "{:,.3g}".format
