"""Arrows point down only: every import of every file, read with `ast`, goes to a lower level or stays at home."""

import ast
from pathlib import Path

import pytest
from tiny import ROOT

FOLDERS = ("unigen", "callbacks", "datamodules", "experiments", "slurm")
# facts and maths
FACTS = {"types", "layout", "masks", "attention", "canvas", "tokens", "noise", "weights", "memo", "intervals", "shift"}
FACTS |= {"finite", "places", "repositories"}
# what plug-ins of several packages use
SHARED = {"protocols", "judge", "interchange", "lora_files", "lora_names", "lora_stock"}
CONFIG = {  # the config folder as data
    *("config", "configtree", "jobs", "preflight", "files", "arguments", "terminal", "claims", "preemption"),
    *("ranges", "quoting", "user_configs", "machine"),
}
PACKAGES = {p.parent.name for p in (ROOT / "unigen").glob("*/__init__.py")} - {"nn", "learners"}  # the plug-ins
LEAVES = {"callbacks", "datamodules"}


def level(module: str) -> int:
    """0 facts and maths, 1 protocols and the judge, 2 plug-ins, 3 what puts them together, 4 leaves, 5 entry points.

    A module of unigen that nothing above names is of level 3.
    """
    top, _, rest = module.partition(".")
    part = rest.split(".")[0]
    if top != "unigen":
        return 4 if top in LEAVES else 5
    if part in FACTS | CONFIG | {"nn"} or not part:
        return 0
    return 1 if part in SHARED else 2 if part in PACKAGES else 3


def home(module: str) -> str:
    """The package of a plug-in or leaf, within which imports are free."""
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] == "unigen" else 1])


def imports(source: str) -> list[tuple[int, str]]:
    """(line, module) of every import, lazy ones and those for type checkers too; `from unigen import x` is unigen.x."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative import"
            whole = {"unigen", *LEAVES, "experiments", "slurm"}
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module in whole else [node.module]
            found += [(node.lineno, name) for name in names]
    return [(line, name) for line, name in found if name.split(".")[0] in FOLDERS]


def violations(module: str, source: str) -> list[str]:
    """Imports of `module` that point up, or sideways from one plug-in or leaf package into another."""
    wrong, own = [], level(module)
    for line, name in imports(source):
        sideways = level(name) == own and own in (2, 4) and home(name) != home(module)
        if level(name) > own or sideways:
            wrong.append(f"{module}, line {line}: level {own} imports {name} of level {level(name)}")
    return wrong


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES = [p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_point_down(path):
    assert violations(module_of(path), path.read_text()) == []


def test_level_0_is_in_import_order():
    """types, layout, masks, attention, canvas, tokens, noise: each imports only what stands before it."""
    order = ["types", "layout", "masks", "attention", "canvas", "tokens", "noise"]
    for i, name in enumerate(order):
        used = {m.removeprefix("unigen.") for _, m in imports((ROOT / "unigen" / f"{name}.py").read_text())}
        assert used <= set(order[:i]), name


def test_slurm_knows_the_config_folder_alone():
    """A login node submits a sweep in a second: nothing of unigen that could want torch."""
    used = {name for p in SOURCES if p.parent.name == "slurm" for _, name in imports(p.read_text())}
    assert {name for name in used if not name.startswith("slurm")} <= {f"unigen.{name}" for name in CONFIG}
    assert "unigen.preflight" in used


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("unigen.formatters.bad", "from unigen.backbones.cogvideox import CogVideoX"),
        ("unigen.formatters.bad", "import unigen.backbones"),
        ("unigen.formatters.bad", "from unigen import pipeline"),
        ("unigen.layout", "from unigen.protocols import Backbone"),
        ("unigen.judge", "from unigen.metrics.psnr import PSNR"),
        ("unigen.judge", "from unigen.learner import Learner"),
        ("unigen.nn.rope", "def f():\n    from unigen.solvers.ddim import DDIM"),
        ("unigen.protocols", "if TYPE_CHECKING:\n    from unigen.pipeline import Pipeline"),
        ("unigen.pipeline", "import callbacks.ema"),
        ("unigen.learner", "from datamodules import emoji"),
        ("unigen.report", "import experiments.run"),
        ("unigen.jobs", "from slurm.manifest import expand"),
        ("callbacks.ema", "from datamodules.emoji import EmojiSplits"),
        ("datamodules.emoji", "import experiments.run"),
    ],
)
def test_an_arrow_that_points_up_or_sideways_is_found(module, source):
    """Negative control."""
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("unigen.solvers.dpm", "from unigen.solvers.loop import integrate\nfrom unigen.noise import clock"),
        ("unigen.pipeline", "from unigen import canvas, noise\nfrom unigen.losses.weighted import weighted_mean"),
        ("callbacks.sample_grid", "from unigen.learners.denoising import Denoising"),
        ("experiments.run", "import torch\nfrom unigen.launch import launch"),
    ],
)
def test_arrows_that_point_down_pass(module, source):
    assert violations(module, source) == []
