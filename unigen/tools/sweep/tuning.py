"""Chooses for each arm of a sweep the values of what is tuned, by the loss on the validation split."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unigen.config.manifest import run_folder
from unigen.config.stages import Plan, arm_of
from unigen.config.values import ConfigError

MEASURE = "val/loss"


def choose(lines: Sequence[Sequence[str]], plan: Plan) -> dict[str, dict[str, Any]]:
    """Return {arm: {"chosen": {key: value}, "losses": {"key=value ...": loss}}} from the finished runs of these lines.

    The loss is that of the last validation, since the last step's weights are tested. Of equal losses the first is
    chosen. A loss that is not finite is null.

    Raises:
        ConfigError: a run has no validation, or no run of an arm has a finite loss.
    """
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        tuned = dict(word.partition("=")[::2] for word in line if word.partition("=")[0] in plan.tune)
        arm = found.setdefault(arm_of(line, plan), {"chosen": None, "losses": {}})
        loss = last_loss(run_folder(line))
        best = min((each for each in arm["losses"].values() if each is not None), default=math.inf)
        if loss is not None and loss < best:
            arm["chosen"] = tuned
        arm["losses"][spelt(tuned)] = loss
    for name, arm in found.items():
        if arm["chosen"] is None:
            words = name.replace("\t", " ")
            raise ConfigError(f"no run that tunes '{words}' has a finite {MEASURE}; choose another grid")
    return found


def last_loss(folder: Path) -> float | None:
    """Return the loss of the last validation of a run, None if it is not finite. Raises ConfigError without any."""
    try:
        logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        loss = float([entry[MEASURE] for entry in logged if MEASURE in entry][-1])
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise ConfigError(f"{folder / 'metrics.jsonl'} has no {MEASURE}, by which arms are tuned") from error
    return loss if math.isfinite(loss) else None


def spelt(values: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in values.items())
