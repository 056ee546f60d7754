"""Arrows between rooms: every import of every file, read with `ast`, stays at home or goes to a room further down."""

import ast
from pathlib import Path

import pytest
from tiny import ROOT

FOLDERS = ("unigen", "callbacks", "datamodules", "experiments", "slurm")
# Rooms from the bottom up. Those of one line do not know each other.
FLOORS = (
    ("unigen",),  # the package itself, its version
    ("unigen.core", "unigen.config"),
    ("unigen.launch", "unigen.nn", "unigen.protocols"),
    ("unigen.weights",),
    (  # plug-ins
        *("unigen.formatters", "unigen.backbones", "unigen.conditioning", "unigen.encoders", "unigen.processes"),
        *("unigen.losses", "unigen.solvers", "unigen.metrics"),
    ),
    ("unigen.cache",),
    ("unigen.pipeline",),
    ("unigen.inference",),
    ("unigen.evaluation",),
    ("unigen.learners", "unigen.training"),
    ("callbacks", "datamodules"),  # leaves, which `_target_` reaches
    ("unigen.tools.forms",),
    ("unigen.tools.report", "unigen.tools.plan", "unigen.tools.cache", "unigen.tools.export", "unigen.tools.lora"),
    ("unigen.tools.preview", "unigen.tools.bench", "unigen.tools.sweep", "unigen.tools.methods", "unigen.tools.sample"),
    ("unigen.tools.push",),
    ("unigen.tools.notebook", "unigen.tools.studio"),
    ("unigen.comfyui",),  # a leaf, which ComfyUI loads
    ("experiments", "slurm"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room(module: str) -> str:
    """The folder whose door a module stands behind: unigen.core of unigen.core.masks."""
    parts = module.split(".")
    if parts[0] != "unigen":
        return parts[0]
    return ".".join(parts[: 3 if parts[1:2] == ["tools"] else 2])


def imports(source: str) -> list[tuple[int, str]]:
    """(line, module) of every import, lazy ones and those for type checkers too; `from unigen import x` is unigen.x."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative import"
            whole = {"unigen", "unigen.tools", "callbacks", "datamodules", "experiments", "slurm"}
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module in whole else [node.module]
            names = ["unigen" if name == "unigen.__version__" else name for name in names]
            found += [(node.lineno, name) for name in names]
    return [(line, name) for line, name in found if name.split(".")[0] in FOLDERS]


def violations(module: str, source: str) -> list[str]:
    """Imports of `module` that do not go to a room on a lower floor."""
    own, wrong = room(module), []
    for line, name in imports(source):
        if room(name) != own and FLOOR[room(name)] >= FLOOR[own]:
            wrong.append(f"{module}, line {line}: {own} imports {name}")
    return wrong


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES = [p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_point_down(path):
    assert violations(module_of(path), path.read_text()) == []


def test_every_folder_is_a_room():
    """`ls unigen` shows rooms: a page of protocols is the one file, and each door says what its room is for."""
    assert {p.name for p in (ROOT / "unigen").glob("*.py")} == {"__init__.py", "protocols.py"}
    assert {room(module_of(p)) for p in SOURCES} <= set(FLOOR) | {"unigen.tools"}
    doors = [p for p in SOURCES if p.name == "__init__.py"]
    assert [module_of(p) for p in doors if not ast.get_docstring(ast.parse(p.read_text()))] == []


def test_a_files_private_names_stay_in_its_room():
    """A name that begins with an underscore is not imported from another room."""
    taken = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in FOLDERS:
                names = [alias.name for alias in node.names if alias.name.startswith("_") and alias.name[1] != "_"]
                taken += [f"{module_of(path)}: {name}" for name in names if room(node.module) != room(module_of(path))]
    assert taken == []


def test_slurm_knows_the_config_folder_alone():
    """A login node submits a sweep in a second: nothing of unigen that could want torch."""
    used = {name for p in SOURCES if p.parent.name == "slurm" for _, name in imports(p.read_text())}
    assert {room(name) for name in used} == {"slurm", "unigen.config", "unigen.launch"}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("unigen.formatters.bad", "from unigen.backbones.cogvideox import CogVideoX"),
        ("unigen.formatters.bad", "import unigen.backbones"),
        ("unigen.formatters.bad", "from unigen.pipeline import pipeline"),
        ("unigen.core.layout", "from unigen.protocols import Backbone"),
        ("unigen.metrics.judge", "from unigen.pipeline.learner import Learner"),
        ("unigen.nn.rope", "def f():\n    from unigen.solvers.ddim import DDIM"),
        ("unigen.protocols", "if TYPE_CHECKING:\n    from unigen.pipeline.pipeline import Pipeline"),
        ("unigen.pipeline.pipeline", "import callbacks.ema"),
        ("unigen.pipeline.pipeline", "from unigen.tools import report"),
        ("unigen.pipeline.learner", "from datamodules import emoji"),
        ("unigen.evaluation.benchmark", "from unigen.learners.denoising import Denoising"),
        ("unigen.tools.report.page", "import experiments.run"),
        ("unigen.config.jobs", "from slurm.script import render"),
        ("callbacks.ema", "from datamodules.emoji.splits import EmojiSplits"),
        ("datamodules.emoji.splits", "import experiments.run"),
    ],
)
def test_an_arrow_that_points_up_or_sideways_is_found(module, source):
    """Negative control."""
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("unigen.solvers.dpm", "from unigen.solvers.loop import integrate\nfrom unigen.core.noise import clock"),
        ("unigen.pipeline.pipeline", "from unigen.core import canvas\nfrom unigen.losses import weighted"),
        ("callbacks.sample_grid", "from unigen.learners.denoising import Denoising"),
        ("experiments.run", "import torch\nfrom unigen.launch.start import launch"),
    ],
)
def test_arrows_that_point_down_pass(module, source):
    assert violations(module, source) == []
