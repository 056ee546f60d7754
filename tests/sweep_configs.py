"""A config folder with all that a sweep reads of the real one, and nothing that takes time."""

import shutil
import textwrap
from pathlib import Path

from tiny import CONF

FILES = {
    "config": """
        defaults: [_self_, {metric: [x]}, {override hydra/job_logging: none}, {override hydra/hydra_logging: none}]
        name: base
        paper: null
        seed: 0
        tasks: [line]
        run_dir: runs/${now:%H-%M-%S}
        debug: false
        table: {name: null}
        metric: {}
        validation: {metrics: null}
        trainer: {devices: 1, num_nodes: 1, accelerator: auto, max_steps: 9}
        optimizer: {warmup: 9}
        hydra:
          run: {dir: "${run_dir}"}
          sweep: {dir: "runs/sweeps/${now:%H-%M-%S}", subdir: "${hydra.job.num}_${name}_seed${seed}"}
          output_subdir: null
    """,
    "metric/x": "x: {a: 1}",
    "exp/a": "# @package _global_\nname: a",
    "exp/b": "# @package _global_\nname: b",
    "table/both": """# @package _global_
        table: {name: both}
        hydra: {mode: MULTIRUN, sweep: {dir: "runs/sweeps/${now:%H-%M-%S}_${table.name}"},
                sweeper: {params: {+exp: "a,b"}}}
    """,
}


def write_conf(folder: Path) -> Path:
    """Write FILES into folder/conf, beside the real cluster files; return it."""
    shutil.copytree(CONF / "cluster", folder / "conf" / "cluster")
    for name, text in FILES.items():
        path = folder / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        head, _, body = text.partition("\n") if text.startswith("#") else ("", "", text)
        path.write_text(f"{head}\n{textwrap.dedent(body)}")
    return folder / "conf"
