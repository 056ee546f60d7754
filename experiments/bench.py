"""Time ours against plain PyTorch and stock diffusers: `python experiments/bench.py [section ...] [key=value ...]`.

sections (by default all but block, peers and gpu: some minutes on 2 idle CPU cores)
  attention  grouped and flex against dense-mask SDPA, at the mini and the paper shape
  step       one training step of the mini model against the same step on the stock diffusers model
  block      the same for one layer at the paper's width and sequence (slow on a CPU: some minutes, 5 GB)
  profile    the time of each stage of one mini training step
  cache      sampling that keeps the keys and values of clean conditions, against sampling that never does
  codec      encoding and decoding a batch of images
  degradations  each of the 32 restoration tasks' corruptions at 512 × 512, one thread
  loader     how long a training step of the mini model waits for its batch
  peers      only if named: time and memory of training and sampling, beside the way of released codes
  calibration  peak memory and FLOPs of mini steps: plan.py's estimate and PyTorch's measurement
  gpu        only if named: a step of both published settings at full size under every switch of speed, beside
             plan.py's estimate; some minutes on a GPU of 80 GB; a second start continues where the first stopped
keys
  exp=NAME      the experiment that step, block, profile, codec and loader are composed from (default fcd_mask_a)
  scale=NAME    of the gpu section: paper, or mini, which a CPU can do (default paper)
  profile=NAME  of the gpu section's plans: a file of conf/profile (default: the one of this device, else h100)
  resume=FILE   where the gpu section writes each row when it is done (default runs/bench_gpu_<scale>.jsonl)
  sizes=A,B     sizes of the peers section: mini, medium, and paper on a GPU of 80 GB (default mini,medium)
  batch=N       samples in a mini batch (default: the config's)
  workers=N     loader workers of the loader section (default: the config's)
  masks=A,B     mask files of the attention section (default fcd_a,fcd_b,fcd_c,fcd_d)
  shapes=A,B    shapes of the attention section: mini, paper (default both)
  rounds=N      at most so many rounds of a comparison, at least 3 (default 30)
  seconds=N     no new round after so many seconds of a comparison (default 3)
  threads=N     CPU threads (default: torch's choice)
  clock=NAME    wall, or cpu: with threads=1 the process's CPU time, for a machine that others load (default wall)
  device=NAME   cpu or cuda (default: cuda where there is one)
  out=FILE      also write the tables there, as Markdown
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unigen.config.arguments import parse
from unigen.config.commands import as_here
from unigen.launch.terminal import program

if TYPE_CHECKING:
    from unigen.tools.bench.turns import Effort, Table

SECTIONS = (
    "attention",
    "step",
    "block",
    "profile",
    "cache",
    "codec",
    "degradations",
    "loader",
    "calibration",
    "peers",
    "gpu",
)
NAMED = ("block", "peers", "gpu")  # run only if they are named
DEFAULTS = {
    "exp": "fcd_mask_a",
    "scale": "paper",
    "profile": "",
    "resume": "",
    "sizes": "mini,medium",
    "batch": "",
    "workers": "",
    "masks": "fcd_a,fcd_b,fcd_c,fcd_d",
    "shapes": "mini,paper",
    "rounds": "30",
    "seconds": "3",
    "threads": "",
    "clock": "wall",
    "device": "",
    "out": "",
}
CONF = Path(__file__).resolve().parent / "conf"
ONE_LAYER = (
    "backbone.config.num_layers=1",
    "backbone.gradient_checkpointing=false",
    "encoder.text.config.num_layers=1",
)
GRAPH = ("task=graph", "data.rows=[0,0]", "conditioning/embedding=none")  # a task that the frames formatter can hold
PROTOCOL = (
    "Protocol: every comparison is one run in which the candidates take turns (A B C A B C ...) after a round that "
    "does not count; ms are medians over rounds, ratios the median over rounds of the ratio within a round. Ratios "
    "are what counts: the speed of a shared machine varies, and slows all candidates of a round alike."
)


def arguments(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Sections and options. Raises ValueError, one sentence, for anything unknown or out of range."""
    sections = [word for word in words if "=" not in word]
    for word in sections:
        if word not in SECTIONS:
            near = difflib.get_close_matches(word, SECTIONS, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known sections: {', '.join(SECTIONS)}"
            raise ValueError(f"unknown section '{word}' ({hint})")
    given = DEFAULTS | parse([word for word in words if "=" in word], legal=tuple(DEFAULTS), required=())
    for key in ("batch", "workers", "rounds", "seconds", "threads"):
        if given[key] and not (given[key].isascii() and given[key].isdigit() and int(given[key]) > 0):
            raise ValueError(f"{key}={given[key]} is not a whole number above 0")
    _among("exp", given["exp"], [p.stem for p in (CONF / "exp").glob("*.yaml")])
    _among("masks", given["masks"], [p.stem for p in (CONF / "mask").glob("*.yaml")])
    _among("shapes", given["shapes"], ["mini", "paper"])
    _among("sizes", given["sizes"], ["mini", "medium", "paper"])
    _among("scale", given["scale"], ["mini", "paper"])
    _among("profile", given["profile"] or "h100", [p.stem for p in (CONF / "profile").glob("*.yaml")])
    _among("clock", given["clock"], ["wall", "cpu"])
    if given["clock"] == "cpu" and given["threads"] != "1":
        raise ValueError("clock=cpu sums over threads: use it with threads=1")
    return sections or [s for s in SECTIONS if s not in NAMED], given


def _among(key: str, value: str, legal: list[str]) -> None:
    for name in value.split(","):
        if name not in legal:
            raise ValueError(f"{key}={value}: '{name}' is not one of {', '.join(sorted(legal))}")


def composed(exp: str, *overrides: str) -> dict[str, Any]:
    """An experiment's whole config, as plain data."""
    from hydra import compose, initialize_config_dir

    from unigen.config.values import plain

    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return plain(compose("config", overrides=[f"+exp={exp}", "run_dir=bench", *overrides]))


def tables(sections: list[str], given: dict[str, str], effort: Effort) -> Iterator[Table]:
    """The tables of the sections, each as soon as it is measured."""
    keys = {"batch": "data.batch_size", "workers": "data.num_workers"}
    overrides = [f"{key}={given[word]}" for word, key in keys.items() if given[word]]
    mini = composed(given["exp"], *overrides)
    for section in sections:
        if section == "attention":
            yield from _attention(mini, given, effort)
        elif section == "step":
            yield _step(mini, effort)
        elif section == "block":
            yield _block(given["exp"], effort)
        elif section == "profile":
            yield _profile(mini, effort)
        elif section == "cache":
            yield _cache(effort)
        elif section == "codec":
            yield _codec(mini, effort)
        elif section == "degradations":
            yield _degradations(effort)
        elif section == "gpu":
            yield _gpu(given, effort)
        elif section == "peers":
            yield from _peers(given, effort)
        elif section == "calibration":
            yield _calibration()
        else:
            yield _loader(given["exp"], overrides, effort)


def _attention(mini: dict[str, Any], given: dict[str, str], effort: Effort) -> Iterator[Table]:
    from unigen.pipeline.build import build
    from unigen.tools.bench.attention import Shape, attention_tables

    shapes = []
    for name in given["shapes"].split(","):
        config = mini if name == "mini" else composed(given["exp"], "scale=paper", *ONE_LAYER)
        c, batch = config["backbone"]["config"], mini["data"]["batch_size"] if name == "mini" else 1
        shapes.append(Shape(name, _layout(config), batch, c["num_attention_heads"], c["attention_head_dim"]))
    found = [build(composed(given["exp"], f"mask={name}")["mask"]) for name in given["masks"].split(",")]
    yield from attention_tables(shapes, found, effort)


def _layout(config: dict[str, Any]) -> Any:
    """The layout of a condition and a target of the config's size under its formatter."""
    from unigen.pipeline.build import build_on_meta
    from unigen.tools.bench.profile import image_slots

    return build_on_meta(config).plan(image_slots(config["data"]["size"])).layout


def _step(mini: dict[str, Any], effort: Effort) -> Table:
    from unigen.pipeline.build import build_pipeline
    from unigen.tools.bench.profile import random_batch
    from unigen.tools.bench.step import Rivals, step_table, whole_pipeline
    from unigen.training.experiment import precision

    size, batch = mini["data"]["size"], mini["data"]["batch_size"]
    rivals = Rivals(mini, _layout(mini), batch, effort.device)
    images = random_batch(size, batch, mini["data"]["tasks"][0])
    whole = whole_pipeline(build_pipeline(mini), images, precision(mini["trainer"]["precision"]), effort.device)
    runs = rivals.runs() | rivals.short_runs() | whole
    return step_table("One training step, mini", rivals, runs, True, effort._replace(limit=4 * effort.limit))


def _block(exp: str, effort: Effort) -> Table:
    from unigen.tools.bench.step import REFERENCE, Rivals, step_table

    config = composed(exp, "scale=paper", "backbone.pretrained=null", *ONE_LAYER)
    rivals = Rivals(config, _layout(config), 1, effort.device)
    runs = {name: rivals.runs()[name] for name in (REFERENCE, "ours, grouped")}
    return step_table("One layer at the paper's width and sequence", rivals, runs, False, effort)


def _profile(mini: dict[str, Any], effort: Effort) -> Table:
    from unigen.tools.bench.profile import profile_table, random_batch

    batch = random_batch(mini["data"]["size"], mini["data"]["batch_size"], mini["data"]["tasks"][0])
    return profile_table(batch, mini, effort)


def _cache(effort: Effort) -> Table:
    from unigen.tools.bench.cache import CASES, cache_table

    return cache_table({case: composed(case.exp, *case.overrides) for case in CASES}, effort)


def _codec(mini: dict[str, Any], effort: Effort) -> Table:
    from unigen.pipeline.build import build
    from unigen.tools.bench.profile import codec_table

    codec = build(mini["encoder"]["codec"])
    return codec_table(codec, mini["data"]["size"], mini["data"]["batch_size"], effort)


def _degradations(effort: Effort) -> Table:
    from unigen.tools.bench.degradations import degradations_table

    return degradations_table(effort)


def _calibration() -> Table:
    from unigen.tools.bench.calibration import calibration_table

    return calibration_table(composed)


def _peers(given: dict[str, str], effort: Effort) -> Iterator[Table]:
    from unigen.tools.bench.peers import peer_tables

    yield from peer_tables(composed, given["sizes"].split(","), effort)


def _loader(exp: str, overrides: list[str], effort: Effort) -> Table:
    from unigen.tools.bench.loader import loader_table

    rows = {exp: composed(exp, *overrides), "all tasks of a graph": composed(exp, *GRAPH, *overrides)}
    return loader_table(rows, effort)


def _gpu(given: dict[str, str], effort: Effort) -> Table:
    from unigen.tools.bench.gpu import gpu_section

    resume = Path(given["resume"] or f"runs/bench_gpu_{given['scale']}.jsonl")
    return gpu_section(composed, CONF / "profile", given["scale"], given["profile"], resume, effort)


def main(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(as_here(__doc__.strip()))
        return 0
    try:
        sections, given = arguments(words)
        run(sections, given)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(sections: list[str], given: dict[str, str]) -> None:
    """Measure, print, and write `out` if it is given."""
    import time

    import torch

    from unigen.config.files import write_text
    from unigen.tools.bench.turns import Effort, chosen_device, machine

    device, out = chosen_device(given["device"]), Path(given["out"]) if given["out"] else None
    if out is not None:  # refuse now what cannot be written, not after four minutes
        if out.is_dir():
            raise ValueError(f"out={out} is a folder; give a file")
        out.parent.mkdir(parents=True, exist_ok=True)
    if given["threads"]:
        torch.set_num_threads(int(given["threads"]))
    torch.manual_seed(0)
    clock = time.process_time if given["clock"] == "cpu" else time.perf_counter
    effort = Effort(device, int(given["rounds"]), float(given["seconds"]), clock)
    parts = [f"{machine(device)}, {given['clock']} clock\n\n{PROTOCOL}\n"]
    print(parts[0])
    for table in tables(sections, given, effort):
        table.print()
        parts.append(table.markdown())
    if out is not None:
        write_text(out, "\n".join(parts))
        print(f"markdown: {out}")


if __name__ == "__main__":
    program(main)
