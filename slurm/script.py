"""Writes the batch script of an array: slurm/array.sh.tmpl with a cluster's settings and the shape of a task."""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unigen.config.manifest import MANIFEST, Shape, Sweep
from unigen.config.values import ConfigError

TEMPLATE, SWEEP = (Path(__file__).resolve().with_name(name) for name in ("array.sh.tmpl", "sweep.py"))
GPUS = ("gpu", "cuda", "auto")  # of trainer.accelerator
FIRST_NODE = 'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'


class _Template(string.Template):
    delimiter = "%"  # bash has a use for $ and @


def render(sweep: Sweep, cluster: Mapping[str, Any], run: Path, work: Path, python: str) -> str:
    """The script that runs line i of the sweep's manifest as task i.

    Args:
        cluster: settings (`slurm.cluster.read_cluster`).
        run: experiments/run.py.
        work: the folder that relative paths on the command line are relative to.
        python: the interpreter, where the cluster names none.

    Raises:
        ConfigError: the tasks want GPUs of a cluster that has none; a variable's name is none.
    """
    words = [cluster["python"] or python, str(run)]
    command = [cluster["srun"], cluster["container"], shlex.join(words)]
    return _Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        options="\n".join(f"#SBATCH {option}" for option in options(sweep, cluster, work)),
        setup="\n".join(setup(cluster)),
        manifest=shlex.quote(str(sweep.folder / MANIFEST)),
        command=" ".join(word for word in command if word),
    )


def render_look(folder: Path, cluster: Mapping[str, Any], work: Path, python: str) -> str:
    """Return the script of the job that looks at a sweep in stages and submits its next stage.

    It asks for one process without a GPU, and runs SLURM's sbatch on its node.
    """
    given = {key: cluster[key] for key in ("partition", "account", "qos", "constraint", "time", "mem")}
    logs = str(folder / "logs").replace("%", "%%")
    given = {"job-name": f"{job_name(folder)}_look", **given, "ntasks": 1, "chdir": work}
    given |= {"output": f"{logs}/look.log", "open-mode": "append"}
    lines = [f"#SBATCH --{name}={shlex.quote(str(value))}" for name, value in given.items() if value not in (None, "")]
    words = [cluster["python"] or python, str(SWEEP), "look", str(folder)]
    command = " ".join(word for word in (cluster["container"], shlex.join(words)) if word)
    return "\n".join(["#!/bin/bash", *lines, "set -eo pipefail", *setup(cluster), command]) + "\n"


def options(sweep: Sweep, cluster: Mapping[str, Any], work: Path) -> list[str]:
    """The options of sbatch, quoted. In a log's name SLURM replaces %a by the task; any other per cent sign
    is doubled.
    """
    limit = f"%{cluster['array_limit']}" if cluster["array_limit"] else ""
    logs = str(sweep.folder / "logs").replace("%", "%%")
    values = {
        "job-name": job_name(sweep.folder),
        "array": f"0-{len(sweep.lines) - 1}{limit}",
        **{key: cluster[key] for key in ("partition", "account", "qos", "constraint", "time")},
        "nodes": sweep.shape.nodes,
        "ntasks-per-node": sweep.shape.devices,
        "cpus-per-task": cluster["cpus_per_task"],
        "mem": cluster["mem"],
        "gpus-per-node": gpus(sweep.shape, cluster),
        "signal": f"USR1@{cluster['signal_seconds']}" if cluster["signal_seconds"] else None,
        "chdir": work,
        "output": f"{logs}/%a.log",
        "open-mode": "append",
    }
    given = [f"--{name}={shlex.quote(str(value))}" for name, value in values.items() if value not in (None, "")]
    return [*given, "--requeue", *cluster["sbatch"]]


def gpus(shape: Shape, cluster: Mapping[str, Any]) -> str | None:
    """The value of --gpus-per-node: the number of devices, of the cluster's type; None where the run wants no GPU."""
    if cluster["gpus"] != "none":
        kind = "" if cluster["gpus"] == "any" else f"{cluster['gpus']}:"
        return f"{kind}{shape.devices}" if shape.accelerator in GPUS else None
    if shape.accelerator in GPUS[:2] and not any("gpu" in option for option in cluster["sbatch"]):
        raise ConfigError(f"trainer.accelerator is {shape.accelerator}, but the cluster says gpus: none")
    return None


def setup(cluster: Mapping[str, Any]) -> list[str]:
    """The lines of bash before the run. The processes meet on the first node, unless the cluster says otherwise."""
    for name in cluster["environment"]:
        if not re.fullmatch(r"[A-Za-z_]\w*", str(name), re.ASCII):
            raise ConfigError(f"cluster.environment: {str(name)!r} is no name of a variable")
    loads = [f"module load {shlex.quote(str(name))}" for name in cluster["modules"]]
    variables = [f"export {k}={shlex.quote(_spelt(v))}" for k, v in cluster["environment"].items()]
    meeting = [] if "MASTER_ADDR" in cluster["environment"] else [FIRST_NODE]
    return [*loads, *cluster["setup"], *meeting, *variables]


def _spelt(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def job_name(folder: Path) -> str:
    """The sweep's name in SLURM. It also distinguishes our jobs from others with the same number on another cluster."""
    return re.sub(r"[^\w.-]", "_", folder.name, flags=re.ASCII)
