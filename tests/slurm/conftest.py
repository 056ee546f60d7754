"""What tests of slurm/ share: a small config folder, and one real SLURM for all tests of a process that want one."""

import shutil
import textwrap
from pathlib import Path

import local_cluster
import pytest
from tiny import CONF

# A config folder with all that a sweep reads of the real one, and nothing that takes time.
FILES = {
    "config": """
        defaults: [_self_, {override hydra/job_logging: none}, {override hydra/hydra_logging: none}]
        name: base
        paper: null
        seed: 0
        tasks: [line]
        run_dir: runs/${now:%H-%M-%S}
        debug: false
        table: {name: null}
        trainer: {devices: 1, num_nodes: 1, accelerator: auto, max_steps: 9}
        hydra:
          run: {dir: "${run_dir}"}
          sweep: {dir: "runs/sweeps/${now:%H-%M-%S}", subdir: "${hydra.job.num}_${name}_seed${seed}"}
          output_subdir: null
    """,
    "exp/a": "# @package _global_\nname: a",
    "exp/b": "# @package _global_\nname: b",
    "table/both": """# @package _global_
        table: {name: both}
        hydra: {mode: MULTIRUN, sweep: {dir: "runs/sweeps/${now:%H-%M-%S}_${table.name}"},
                sweeper: {params: {+exp: "a,b"}}}
    """,
}


@pytest.fixture(scope="session")
def slurm_cluster():
    """The folder of a two-node SLURM that is up; the test is skipped, with the reason, where there can be none."""
    if why := local_cluster.missing():
        pytest.skip(why)
    with local_cluster.cluster() as folder:
        yield folder


@pytest.fixture
def conf(tmp_path) -> Path:
    """FILES as a config folder, with the real cluster files."""
    shutil.copytree(CONF / "cluster", tmp_path / "conf" / "cluster")
    for name, text in FILES.items():
        path = tmp_path / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        head, _, body = text.partition("\n") if text.startswith("#") else ("", "", text)
        path.write_text(f"{head}\n{textwrap.dedent(body)}")
    return tmp_path / "conf"
