"""The config folder is the registry: groups mirror packages, every choice builds, every experiment composes."""

import importlib
import re
from itertools import product
from pathlib import Path

import pytest
import yaml
from hydra.errors import ConfigCompositionException
from tiny import CONF, ROOT, choices, composed, plan_for, tiny, trained

from unigen.build import build, build_on_meta, build_pipeline
from unigen.masks import Mask
from unigen.pipeline import Pipeline
from unigen.types import TEXT

PACKAGES = {
    "backbone": "backbones",
    "formatter": "formatters",
    "conditioning": "conditioning",
    "encoder": "encoders",
    "process": "processes",
    "loss": "losses",
    "solver": "solvers",
    "metric": "metrics",
    "learner": "learners",
}
SCALES = choices("scale")
# Choices that need another one beside them: a published Flux takes pooled text of CLIP's width.
BESIDE = {
    **{
        ("backbone", name): ["encoder/text=flux_text", "process=rectified_flow"]
        for name in ("flux_dev", "flux_fill_dev")
    },
    **{("backbone", name): ["process=rectified_flow"] for name in ("flux_mini", "flux_fill_mini")},
    **{("process", f"rectified_flow{way}"): ["backbone.pretrained=null"] for way in ("", "_shifted")},
}
FILES = sorted(CONF.rglob("*.yaml"))


def named(path: Path) -> str:
    return path.relative_to(CONF).as_posix()


def targets(node: object) -> list[str]:
    """Every `_target_` anywhere below."""
    if isinstance(node, dict):
        return [v for k, v in node.items() if k == "_target_"] + [t for v in node.values() for t in targets(v)]
    return [t for v in node for t in targets(v)] if isinstance(node, list) else []


def shallow_on_meta(*overrides: str) -> Pipeline:
    """The parts as shapes, every stack of layers one deep (42 of them take a second to build)."""
    config = composed(*overrides)
    for node in (config["backbone"], config["encoder"]["text"]):
        node["config"] |= dict.fromkeys({"num_layers", "num_single_layers"} & set(node["config"]), 1)
    return build_on_meta(config)


def resolve(target: str) -> object:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


# --- groups and files --------------------------------------------------------------------------------------------


def test_groups_and_packages_are_one_to_one():
    packages = {p.parent.name for p in (ROOT / "unigen").glob("*/__init__.py")} - {"nn"}
    assert set(PACKAGES.values()) == packages, "a new package needs a config group, and the reverse"
    assert all((CONF / group).is_dir() for group in PACKAGES)


@pytest.mark.parametrize("group", PACKAGES)
def test_a_group_points_into_its_package(group):
    for path in (CONF / group).rglob("*.yaml"):
        node = yaml.safe_load(path.read_text())
        assert node["_target_"].startswith(f"unigen.{PACKAGES[group]}."), named(path)


@pytest.mark.parametrize("group", PACKAGES)
def test_every_plug_in_file_is_reachable_from_a_yaml(group):
    """A module of the package that no YAML names is a helper of one that is (imported by it), or is dead."""
    folder = ROOT / "unigen" / PACKAGES[group]
    used = {
        t.rpartition(".")[0] for p in (CONF / group).rglob("*.yaml") for t in targets(yaml.safe_load(p.read_text()))
    }
    source = "\n".join(p.read_text() for p in [*folder.glob("*.py"), *(ROOT / "unigen").glob("*.py")])
    for path in folder.glob("*.py"):
        module = f"unigen.{PACKAGES[group]}.{path.stem}"
        assert path.stem == "__init__" or module in used or f"from {module} import" in source, module


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_file_says_what_it_is(path):
    lines = path.read_text().splitlines()
    said = [line for line in lines[:3] if re.match(r"# (?!@package)\S", line)]
    assert said and lines[0].startswith("#"), "a header comment in the first lines"


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_target_exists(path):
    for target in targets(yaml.safe_load(path.read_text())):
        assert callable(resolve(target)), target


# --- every choice of every group -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "name"), product(SCALES, choices("mask")))
def test_every_mask_is_named_after_its_file(scale, name):
    made = build(composed(f"scale={scale}", f"mask={name}")["mask"])
    assert isinstance(made, Mask) and made.name == name


def model_choices() -> list[tuple[str, str]]:
    """(group, choice) of everything that a pipeline is made of."""
    groups = [g for g in PACKAGES if g not in ("metric", "learner")]
    folders = {p.parent for g in groups for p in (CONF / g).rglob("*.yaml")}
    folders |= {CONF / "mask", CONF / "fill"}
    return sorted((f.relative_to(CONF).as_posix(), p.stem) for f in folders for p in f.glob("*.yaml"))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("group", "name"), model_choices())
def test_every_choice_builds_a_whole_pipeline(scale, group, name):
    """On the meta device and at every scale, published widths included."""
    pipeline = shallow_on_meta(f"scale={scale}", f"{group}={name}", *BESIDE.get((group, name), []))
    data = build(composed(f"scale={scale}")["data"])
    assert pipeline.plan(data.slots).layout.names[0] == TEXT


@pytest.mark.parametrize("name", choices("metric"))
def test_every_metric_builds(name):
    node = composed(f"metric=[{name}]")["metric"]
    assert list(node) == [name] and build(node[name]).name == name


# --- experiments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "exp"), product(SCALES, choices("exp")))
def test_every_experiment_composes_and_its_tables_cover_its_roles(scale, exp):
    """`Pipeline` refuses a role without an entry in a table; an experiment names itself after its file.

    What is no cross of two papers says what it reproduces; of what a base draws from text nobody has published numbers.
    """
    config = composed(f"+exp={exp}", f"scale={scale}")
    assert config["name"] == exp
    pipeline = shallow_on_meta(f"+exp={exp}", f"scale={scale}")
    roles = set(pipeline.formatter.roles)
    tables = [dict(pipeline.mask.rows), pipeline.modulation.branches, pipeline.modulation.timing, pipeline.loss.weights]
    assert all(roles <= set(table) for table in tables)
    unpublished = exp.startswith(("cross_", "text_to_image_"))
    assert unpublished or (config["paper"] and config["published"])


@pytest.mark.parametrize("exp", choices("exp"))
def test_an_experiments_header_shows_its_command(exp):
    lines = (CONF / "exp" / f"{exp}.yaml").read_text()
    assert f"# python experiments/run.py +exp={exp}\n" in lines


@pytest.mark.parametrize("exp", choices("exp"))
def test_every_experiment_builds_for_real_at_a_tiny_size(exp):
    config = tiny(f"+exp={exp}")
    pipeline = build_pipeline(config)
    assert trained(pipeline.backbone) > 0
    assert plan_for(pipeline.formatter, pipeline.backbone).layout.names[0] == TEXT


def test_a_misspelt_experiment_does_not_compose():
    """Negative control: composition is what finds a wrong choice."""
    with pytest.raises(ConfigCompositionException):
        composed("+exp=fcd_mask_z")
