"""The config folder is the registry: groups mirror packages, every choice builds, every experiment composes."""

import importlib
import re
from functools import cache
from itertools import combinations, product
from pathlib import Path

import pytest
import yaml
from hydra.errors import ConfigCompositionException
from tiny import CONF, ROOT, adapted, choices, composed, composes, experiments, methods, slots, tiny, trained

from unigen.core.masks import Mask
from unigen.core.types import TEXT, ImageSlot
from unigen.pipeline.build import build, build_on_meta, build_pipeline
from unigen.pipeline.pipeline import Pipeline

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
    **{
        ("backbone", name): ["process=rectified_flow"]
        for name in (
            "flux_mini",
            "flux_fill_mini",
            "flux2_mini",
            "wan_mini",
            "qwen_image_mini",
            "qwen_image",
            "qwen_image_edit",
        )
    },
    **{("backbone", f"wan2_1_t2v_{size}"): ["process=rectified_flow"] for size in ("1_3b", "14b")},
    ("backbone", "wan2_2_ti2v_5b"): ["process=rectified_flow", "encoder/codec=wan2_2_vae"],
    ("backbone", "hunyuan_video_mini"): ["process=rectified_flow"],
    ("backbone", "hunyuan_video1_5"): ["process=rectified_flow", "encoder/codec=hunyuan_video1_5_vae"],
    ("encoder/codec", "hunyuan_video1_5_vae"): ["process=rectified_flow", "backbone=hunyuan_video1_5"],
    ("encoder/text", "qwen2_5_vl_video"): [
        "process=rectified_flow",
        "backbone=hunyuan_video1_5",
        "encoder/codec=hunyuan_video1_5_vae",
    ],
    ("encoder/text", "qwen2_5_vl_glyphs"): [
        "process=rectified_flow",
        "backbone=hunyuan_video1_5",
        "backbone.glyphs=256",
        "encoder/codec=hunyuan_video1_5_vae",
    ],
    **{
        ("backbone", name): ["process=rectified_flow", "encoder/codec=flux2_vae"]
        for name in ("flux2_klein_4b", "flux2_klein_9b", "flux2_dev")
    },
    **{
        ("encoder/text", name): ["process=rectified_flow", "backbone=qwen_image"]
        for name in ("qwen2_5_vl", "qwen2_5_vl_edit")
    },
    **{
        ("encoder/text", text): ["process=rectified_flow", "encoder/codec=flux2_vae", f"backbone={name}"]
        for text, name in (
            ("qwen3_4b", "flux2_klein_4b"),
            ("qwen3_8b", "flux2_klein_9b"),
            ("mistral_small", "flux2_dev"),
        )
    },
    ("encoder/codec", "flux2_vae"): ["process=rectified_flow", "backbone=flux2_klein_4b"],
    ("encoder/codec", "wan2_2_vae"): ["process=rectified_flow", "backbone=wan2_2_ti2v_5b"],
    ("encoder/codec", "autoencoder_scenes"): ["+exp=mini/scene_base", "encoder.codec.pretrained=null"],  # 32 channels
    **{("process", f"rectified_flow{way}"): ["backbone.pretrained=null"] for way in ("", "_shifted", "_uniform")},
}
FILES = sorted(CONF.rglob("*.yaml"))


def named(path: Path) -> str:
    return path.relative_to(CONF).as_posix()


def choices_below(group: str) -> list[Path]:
    """The files of a group and of the groups inside it that can be chosen: all but what others have in common."""
    return [path for path in (CONF / group).rglob("*.yaml") if path.parent.name != "base"]


def targets(node: object) -> list[str]:
    """Every `_target_` anywhere below."""
    if isinstance(node, dict):
        return [v for k, v in node.items() if k == "_target_" and v != "???"] + [
            t for v in node.values() for t in targets(v)
        ]
    return [t for v in node for t in targets(v)] if isinstance(node, list) else []


def shallow_on_meta(*overrides: str) -> Pipeline:
    """The parts as shapes, every stack of layers one deep (42 of them take a second to build)."""
    config = composed(*overrides)
    for node in (config["backbone"], config["encoder"]["text"]):
        node["config"] |= dict.fromkeys({"num_layers", "num_single_layers"} & set(node["config"]), 1)
    return build_on_meta(config)


@cache
def slots_at(scale: str) -> tuple[ImageSlot, ...]:
    """The images of a sample of this scale's data."""
    return build(composed(f"scale={scale}")["data"]).slots


def resolve(target: str) -> object:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


# --- groups and files --------------------------------------------------------------------------------------------


def test_groups_and_packages_are_one_to_one():
    """What a YAML names stands in the package of a group, or in `core`: masks, attention and shifts are no plug-ins."""
    named = {target for path in FILES for target in targets(yaml.safe_load(path.read_text()))}
    rooms = {target.split(".")[1] for target in named if target.startswith("unigen.")}
    assert rooms - {"core"} == set(PACKAGES.values()), "a new package needs a config group, and the reverse"
    assert all((CONF / group).is_dir() for group in PACKAGES)


@pytest.mark.parametrize("group", PACKAGES)
def test_a_group_points_into_its_package(group):
    for path in choices_below(group):
        node = yaml.safe_load(path.read_text())
        target = node.get("_target_")  # without one it is that of the file which it goes on from
        assert "defaults" in node if target is None else target.startswith(f"unigen.{PACKAGES[group]}."), named(path)


@pytest.mark.parametrize("group", PACKAGES)
def test_every_plug_in_file_is_reachable_from_a_yaml(group):
    """A module of the package that no YAML names is a helper of one that is (imported by it), or is dead."""
    folder = ROOT / "unigen" / PACKAGES[group]
    used = {
        t.rpartition(".")[0] for p in (CONF / group).rglob("*.yaml") for t in targets(yaml.safe_load(p.read_text()))
    }
    source = "\n".join(p.read_text() for p in (ROOT / "unigen").rglob("*.py"))
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
    folders = {path.parent for group in groups for path in choices_below(group)}
    folders |= {CONF / "mask", CONF / "fill"}
    return sorted((f.relative_to(CONF).as_posix(), p.stem) for f in folders for p in f.glob("*.yaml"))


@pytest.mark.parametrize("scale", ["mini", pytest.param("paper", marks=pytest.mark.slow)])  # scratch has mini's models
@pytest.mark.parametrize(("group", "name"), model_choices())
def test_every_choice_builds_a_whole_pipeline(scale, group, name):
    """On the meta device, published widths included."""
    pipeline = shallow_on_meta(f"scale={scale}", f"{group}={name}", *BESIDE.get((group, name), []))
    assert pipeline.plan(slots_at(scale)).layout.names[0] == TEXT


@pytest.mark.parametrize("name", choices("metric"))
def test_every_metric_builds(name):
    node = composed(f"metric=[{name}]")["metric"]
    assert list(node) == [name] and build(node[name]).name == name


def families() -> list[str]:
    return sorted(
        path.relative_to(CONF / "family").with_suffix("").as_posix() for path in (CONF / "family").rglob("*.yaml")
    )


TABLES = [
    arm
    for name in ("realgeneral_masks", "realgeneral_modules")
    for arm in yaml.safe_load((CONF / "table" / f"{name}.yaml").read_text())["table"]["order"]
]
GRIDS = ["cross_grid_cogvideox_fcd_a", "cross_grid_cogvideox_fcd_d"]


# Families that no experiment names, and their backbones.
BY_FAMILY = {"wan": "Wan", "flux2": "Flux2", "qwen_image": "QwenImage", "hunyuan_video1_5": "HunyuanVideo15"}


def on_families() -> list:
    """(family, experiment): slow but for one arm and one grid of each small family; test_family_table.py has more."""
    named, found = [name for name in families() if name.startswith(tuple(BY_FAMILY))], []
    for family, exp in product(named, [*TABLES, *GRIDS]):
        quick = family.endswith("/mini") and exp in (TABLES[0], GRIDS[0])
        found.append(pytest.param(family, exp, marks=() if quick else pytest.mark.slow))
    return found


@pytest.mark.parametrize(("family", "exp"), on_families())
def test_realgenerals_tables_and_the_grid_run_on_others_by_family_alone(family, exp):
    scale = family.rpartition("/")[2]
    words = (f"+exp={exp}", f"family={family}", f"scale={scale}")
    pipeline = shallow_on_meta(*words)
    kind = next(kind for name, kind in BY_FAMILY.items() if family.startswith(name))
    assert type(pipeline.backbone).__name__ == kind and pipeline.process.predicts == "flow"
    config, plain = composed(*words), composed(f"+exp={exp}")
    same = ("mask", "formatter", "name", "published")
    assert all(config[key] == plain[key] for key in same), "the family changes nothing of the experiment"
    layout = pipeline.plan(build(config["data"]).slots).layout
    assert [s.role for s in layout.segments] == ["text", "condition", "target"]


# --- experiments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["mini", "paper", pytest.param("scratch", marks=pytest.mark.slow)])
@pytest.mark.parametrize("exp", experiments())
def test_every_experiment_composes_and_its_tables_cover_its_roles(scale, exp):
    """`Pipeline` refuses a role without an entry in a table; an experiment names itself after its file."""
    words = (f"+exp={exp}", f"scale={scale}", *(adapted(exp) if scale == "scratch" else ()))
    assert composed(*words)["name"] == exp.rpartition("/")[2]
    pipeline = shallow_on_meta(*words)
    roles = set(pipeline.formatter.roles)
    tables = [dict(pipeline.mask.rows), pipeline.modulation.branches, pipeline.modulation.timing, pipeline.loss.weights]
    assert all(roles <= set(table) for table in tables)


def twins(exps: dict[str, dict]) -> list[tuple[str, str]]:
    """The experiments that differ by what they are called alone."""
    said = {name: {k: v for k, v in config.items() if k not in ("name", "paper")} for name, config in exps.items()}
    return [(a, b) for a, b in combinations(said, 2) if said[a] == said[b]]


@pytest.mark.parametrize(
    "scale", [name if name in ("mini", "paper") else pytest.param(name, marks=pytest.mark.slow) for name in SCALES]
)
def test_no_experiment_is_another_one_under_a_second_name(scale):
    lines = {exp: (f"+exp={exp}", f"scale={scale}") for exp in experiments()}
    made = {exp: composed(*words) for exp, words in lines.items() if composes(*words)}
    assert twins(made) == []
    assert twins({**made, "again": made["fcd_mask_a"]}) == [("fcd_mask_a", "again")], "negative control"


ON_SCENES = ("fcd_mask_a", "wo_uce")  # the others are slow


@pytest.mark.parametrize(
    "exp", [name if name in ON_SCENES else pytest.param(name, marks=pytest.mark.slow) for name in choices("exp")]
)
def test_an_experiment_runs_on_scenes_by_its_scale_alone(exp):
    """But for those of a family that has no such scale, and those of a task that names its data (task=graph)."""
    if not composes(f"+exp={exp}", "scale=scenes") or composed(f"+exp={exp}")["task"]["name"] == "graph":
        assert exp not in ON_SCENES
        pytest.skip("no such scale, or data of its own")
    config = composed(f"+exp={exp}", "scale=scenes")
    assert config["data"]["_target_"].startswith("datamodules.scenes.") and "scene_subject" in config["metric"]
    assert shallow_on_meta(f"+exp={exp}", "scale=scenes").plan(build(config["data"]).slots)


@pytest.mark.parametrize("exp", experiments())
def test_an_experiments_header_shows_its_command(exp):
    lines = (CONF / "exp" / f"{exp}.yaml").read_text()
    assert f"# python experiments/run.py +exp={exp}\n" in lines


METHODS = ("methods/ominicontrol2", "methods/kontext", "methods/icedit")  # the others are slow


@pytest.mark.parametrize(
    "exp",
    [name if name in METHODS else pytest.param(name, marks=pytest.mark.slow) for name in methods()] + choices("exp"),
)
def test_every_experiment_builds_for_real_at_a_tiny_size(exp):
    """Most methods are slow: test_methods.py builds each as shapes, and what they are made of is built here."""
    config = tiny(*adapted(exp), f"+exp={exp}")
    pipeline = build_pipeline(config)
    assert trained(pipeline.backbone) > 0
    square = (s._replace(height=64, width=64) for s in slots(roles=pipeline.formatter.roles))  # may be halved
    assert pipeline.plan(tuple(square)).layout.names[0] == TEXT


def test_a_misspelt_experiment_does_not_compose():
    """Negative control: composition is what finds a wrong choice."""
    with pytest.raises(ConfigCompositionException):
        composed("+exp=fcd_mask_z")
