"""The mini family: recipes that compose, shipped weights that fit their configs, and nothing trained on the test."""

import json
import re
from pathlib import Path

import pytest
import torch
from tiny import CONF, ROOT, composed

from datamodules.emoji.names import base_of
from unigen.config.values import read_config
from unigen.pipeline.build import build
from unigen.weights.repositories import shipped_folder

SHIPPED = ROOT / "unigen" / "shipped"
RECIPES = sorted(path.stem for path in (CONF / "exp" / "mini").glob("*.yaml"))
MODELS = sorted(path.parent.relative_to(SHIPPED).as_posix() for path in SHIPPED.rglob("config.json"))
# the data configs of the bundled images: those that need nothing from the user
DATA = sorted(path.stem for path in (CONF / "data").glob("*.yaml") if "???" not in path.read_text())
RUNS = sorted(path.parent.parent.relative_to(SHIPPED).as_posix() for path in SHIPPED.rglob("export/unigen.json"))
LIMIT = 64 * 10**6  # bytes in the repository


def bases(data: str) -> dict[str, set[str]]:
    """The base glyphs of each split of a data config, as its datamodule cuts them."""
    overrides = ["task=clip"] if data == "clips" else ["~task"]
    emoji = build(composed(*overrides, f"data={data}", "conditioning/embedding=none")["data"]).emoji
    return {split: {base_of(emoji.images.names[i]) for i in found} for split, found in emoji.indices.items()}


@pytest.mark.parametrize("data", DATA)
def test_training_and_evaluation_share_no_base_glyph_in_any_data_of_the_family(data):
    found = bases(data)
    assert not found["train"] & found["test"] and not found["train"] & found["val"] and found["test"]


def test_all_data_of_the_family_cut_at_the_same_place():
    """So that what one model was trained on is in no other one's test: a base of one, trained on everything, is."""
    assert {"clips", "emoji_graph"} <= set(DATA) and "own_folder" not in DATA
    everyone = [bases(data) for data in DATA]
    assert all(found == everyone[0] for found in everyone)
    shifted = {"train": everyone[0]["train"] | everyone[0]["test"], "test": everyone[0]["test"]}
    assert shifted["train"] & shifted["test"], "negative control"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_composes_names_its_command_and_trains_on_that_data(name):
    config, text = composed(f"+exp=mini/{name}"), (CONF / "exp" / "mini" / f"{name}.yaml").read_text()
    assert config["name"] == f"mini_{name}" and f"# python experiments/run.py +exp=mini/{name}\n" in text
    assert config["data"]["_target_"].split(".")[1] in {composed_data.split(".")[1] for composed_data in targets()}
    with torch.device("meta"):
        assert build({**config["learner"], "_partial_": True})(config)


def targets() -> set[str]:
    return {re.search(r"_target_: (\S+)", (CONF / "data" / f"{name}.yaml").read_text())[1] for name in DATA}


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.relative_to(CONF).as_posix())
def test_what_a_config_asks_for_is_shipped(path):
    for source in re.findall(r"shipped:[\w/]+", path.read_text()):
        folder = shipped_folder(source)
        assert [*folder.rglob("config.json"), *folder.glob("tokenizer.json"), *folder.glob("export/*.json")], source


def test_the_weights_are_small_enough_and_fp16():
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) < LIMIT
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert {path.suffix for path in files if path.name != "LICENSE"} == {".safetensors", ".json", ".md", ".yaml"}
    assert len(weights) == len(MODELS) + len(RUNS)
    for path in weights:
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        assert {t["dtype"] for name, t in header.items() if name != "__metadata__"} <= {"F16", "I64"}, path


@pytest.mark.parametrize("name", [*MODELS, *RUNS])
def test_a_shipped_model_has_a_card_with_data_licence_recipe_and_figures(name):
    folder = SHIPPED / name
    card = next((d / "README.md" for d in (folder, folder.parent) if (d / "README.md").is_file()), Path("none"))
    said = card.read_text()
    for word in ("CC BY-SA 4.0", "Twemoji", "OpenMoji", "python experiments/run.py +exp=mini/", "Protocol: ", "| "):
        assert word in said, f"{card}: {word}"


@pytest.mark.parametrize(
    ("group", "name", "part"),
    [
        ("encoder/codec", "autoencoder_mini", "codec"),
        ("encoder/codec", "autoencoder_scenes", "scene_codec"),
        ("encoder/text", "byt5_mini", "text_encoder"),
        ("encoder/text", "t5_mini", "scene_text"),
        ("backbone", "cogvideox_mini", "video_base"),
        ("backbone", "flux_fill_mini", "infill_base"),
        ("backbone", "flux_mini", "plain_base"),
    ],
)
def test_a_config_that_builds_shapes_alone_says_what_the_weights_say(group, name, part):
    """dry_run builds from the YAML, a run from the weights: they must be the same model."""
    node = composed(f"{group}={name}")
    for key in group.split("/"):
        node = node[key]
    stored = json.loads((SHIPPED / part / "config.json").read_text())
    assert {key: stored[key] for key in node["config"]} == node["config"]
    assert {**stored, "num_layers": 99, "latent_channels": 99} != stored, "negative control"


def test_a_shipped_run_is_its_recipe_and_measured():
    """Its configuration is what the recipe says today, but for the loggers and the folder, which is a relative one."""
    assert RUNS == ["universal"]
    for name in RUNS:
        stored, said = read_config(SHIPPED / name), composed(f"+exp=mini/{name}")
        assert not Path(stored["run_dir"]).is_absolute()
        placed = json.loads(json.dumps(stored).replace(stored["run_dir"], said["run_dir"]))
        assert {**placed, "logger": {}} == {**json.loads(json.dumps(said)), "logger": {}}
        summary = json.loads((SHIPPED / name / "summary.json").read_text())
        assert summary["steps"] == said["trainer"]["max_steps"] and summary["metrics"]
