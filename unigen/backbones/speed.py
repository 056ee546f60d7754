"""Switches that change how fast and in how much memory a backbone's blocks run, and nothing of what they compute."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

# The other modes record CUDA graphs, in which one compiled block, called for every layer, overwrites its own outputs.
MODES = ("default", "max-autotune-no-cudagraphs")
COMPILE = {"mode": "default", "dynamic": False, "backend": "inductor"}
RECOMPILATIONS = 64  # torch gives up silently at 8: buckets of layouts, with and without gradients, need more


def checked_interval(every: int) -> int:
    """`backbone.checkpoint_every`: of so many blocks one, the first, is recomputed in the backward; 1: every block.

    Raises ValueError for anything but a whole number above 0.
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"backbone.checkpoint_every is {every!r}; legal are whole numbers from 1 (every block)")
    return every


def compile_blocks(blocks: Iterable[nn.Module], options: Mapping[str, Any]) -> None:
    """torch.compile of each block by itself: equal blocks share one compilation (diffusers' regional compilation).

    `options` is `backbone.compile`: `mode` (default, or max-autotune-no-cudagraphs), `dynamic` (false: a compilation
    for each layout; true: one for all lengths; null: torch's choice) and `backend`; what is absent is as in `COMPILE`.
    Nothing is compiled before the first step. A step compiles anew only for another layout, mask or gradient mode.
    Raises ValueError for anything else.
    """
    if not isinstance(options, Mapping):
        raise ValueError(f"backbone.compile is {options!r}; legal are null and a mapping of {', '.join(COMPILE)}")
    unknown = [key for key in options if key not in COMPILE]
    if unknown:
        raise ValueError(f"backbone.compile has the unknown key '{unknown[0]}'; legal are {', '.join(COMPILE)}")
    said = {**COMPILE, **options}
    if said["mode"] not in MODES:
        raise ValueError(f"backbone.compile.mode is {said['mode']!r}; legal are {', '.join(MODES)}")
    if said["dynamic"] not in (True, False, None):
        raise ValueError(f"backbone.compile.dynamic is {said['dynamic']!r}; legal are true, false and null")
    legal = [*torch.compiler.list_backends(), "eager", "aot_eager"]
    if said["backend"] not in legal:
        raise ValueError(f"backbone.compile.backend is {said['backend']!r}; legal are {', '.join(legal)}")
    if said["backend"] != "inductor":
        del said["mode"]  # the others have none
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILATIONS)
    # tables of layouts are looked up through caches, which are traced through: they depend on their arguments alone
    warnings.filterwarnings("ignore", message=".*functools.lru_cache.*", category=UserWarning)
    for block in blocks:
        block.compile(**said)
