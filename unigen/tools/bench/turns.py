"""Fair timing on a noisy machine: candidates take turns in one run, and only medians and ratios are reported."""

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

LEAST_ROUNDS = 3
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
CPU_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
Cell = str | int | float | None


def flop_counter() -> FlopCounterMode:
    """Return torch's counter of FLOPs, silent, with the CPU's attention kernels, which not every release counts."""
    own = {
        CPU_ATTENTION: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        CPU_ATTENTION_BACKWARD: lambda out, q, k, v, *_, **__: sdpa_backward_flop_count(out, q, k, v),
    }
    return FlopCounterMode(display=False, custom_mapping=own)


@dataclass(frozen=True)
class Timings:
    """Seconds of every candidate in every round: `seconds[name][round]`."""

    seconds: Mapping[str, Sequence[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, reference: str) -> float:
        """Return the median over rounds of t_name / t_reference, both of one round, since a slow round slows both."""
        pairs = zip(self.seconds[name], self.seconds[reference], strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)

    @property
    def rounds(self) -> int:
        return min(len(s) for s in self.seconds.values())


class Effort(NamedTuple):
    """The effort of a comparison: the device, the largest number of rounds, and the seconds after which none begins.

    `clock` is time.perf_counter, or time.process_time for the CPU time of one thread on a machine that others use.
    """

    device: torch.device
    rounds: int
    limit: float
    clock: Callable[[], float] = time.perf_counter


def interleaved(candidates: Mapping[str, Callable[[], object]], effort: Effort) -> Timings:
    """Time the candidates A B C A B C ..., after one round that does not count.

    It ends with the effort's rounds or seconds, but not before LEAST_ROUNDS rounds. Garbage is collected before the
    rounds and not during them.
    """
    for run in candidates.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for done in range(effort.rounds):
            if done >= LEAST_ROUNDS and time.perf_counter() - start > effort.limit:
                break
            for name, run in candidates.items():
                seconds[name].append(timed(run, effort.device, effort.clock))
    finally:
        gc.enable()
    return Timings(seconds)


def timed(run: Callable[[], object], device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of one call, with all work that it queues on the device."""
    synchronize(device)
    start = clock()
    run()
    synchronize(device)
    return clock() - start


def synchronize(device: torch.device) -> None:
    """Wait for work that is queued on a GPU; a CPU queues nothing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Table:
    """A table with a title, columns, rows and a note that explains them."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)
    note: str = ""

    def add(self, *cells: Cell) -> None:
        assert len(cells) == len(self.columns), f"{len(cells)} cells for {len(self.columns)} columns"
        self.rows.append(cells)

    def markdown(self) -> str:
        lines = [self.columns, tuple("---" if i == 0 else "--:" for i in range(len(self.columns)))]
        lines += [tuple(shown(c) for c in row) for row in self.rows]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"### {self.title}\n\n{body}\n" + (f"\n{self.note}\n" if self.note else "")

    def print(self) -> None:
        from rich.console import Console
        from rich.table import Table as RichTable

        table = RichTable(title=self.title, caption=self.note or None, title_justify="left", caption_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
        for row in self.rows:
            table.add_row(*(shown(c) for c in row))
        console = Console()
        console.width = console.width if console.is_terminal else 130
        console.print(table)


def shown(cell: Cell) -> str:
    """Return a cell as text: floats with three significant digits, counts in full, None as a dash."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.0f}" if abs(cell) >= 99.95 else f"{cell:#.3g}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def machine(device: torch.device) -> str:
    """Describe the machine in one line: model, cores, threads, load, torch, date."""
    where = f"{cpu_model()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"
    if device.type == "cuda":
        where = f"{torch.cuda.get_device_name(device)}; host {where}"
    return f"{where}, torch {torch.__version__}, {date.today().isoformat()}"


def cpu_model() -> str:
    """Return the processor's name, with its family and model numbers if they are known."""
    facts = _cpu_facts()
    numbers = f" (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else ""
    return facts.get("model name", "unknown CPU") + numbers


def dtypes() -> tuple[torch.dtype, ...]:
    """Return fp32, and bf16 if the hardware multiplies it."""
    from unigen.training.experiment import precision

    return (torch.float32, torch.bfloat16) if precision("auto") == "bf16-mixed" else (torch.float32,)


def _cpu_facts() -> dict[str, str]:
    """Return the entry of the first processor in /proc/cpuinfo; {} if there is none."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    lines = (line.partition(":") for line in path.read_text().split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def chosen_device(name: str) -> torch.device:
    """Return the device of this name; for "" a GPU if there is one. Raises ValueError for an unavailable device."""
    if name not in ("", "cpu", "cuda"):
        raise ValueError(f"device={name} is unknown; legal are cpu and cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch sees no GPU here; use device=cpu")
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
