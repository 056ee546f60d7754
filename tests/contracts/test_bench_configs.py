"""The benchmarks: each says its command and source, composes, asks for its folder alone, and has metrics that exist."""

import re
from functools import cache

import pytest
import yaml
from tiny import CONF, ROOT, choices

from unigen.config.values import ConfigError
from unigen.evaluation.benchmark import asked, bench_config
from unigen.evaluation.scoring import graph_facts
from unigen.pipeline.build import build

NAMES = choices("bench")
OVERVIEW = "scene_tasks"  # many tasks on few items, for one sheet


def command_of(name: str) -> list[str]:
    """The words of the command in the file's header, with a folder in the place of what is to be filled in."""
    text = (CONF / "bench" / f"{name}.yaml").read_text()
    [said] = re.findall(rf"^# python experiments/evaluate.py run=<run folder> bench={name}(.*)$", text, re.M)
    return [f"{word}=/nowhere" for word in re.findall(r"(\S+)=<[^>]*>", said)]


@cache
def composed(name: str, *words: str) -> dict:
    return bench_config(CONF, name, [*command_of(name), *words], CONF, 64)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_is_whole(name):
    config = composed(name)
    assert config["bench"]["name"] == name and config["data"]["size"] == 64
    assert config["evaluation"]["items"] >= (4 if name == OVERVIEW else 128)
    assert config["data"]["test_items"] == config["evaluation"]["items"]
    metrics = {key: build(node) for key, node in config["metric"].items()}
    assert metrics and all(metric.name == key for key, metric in metrics.items())
    data = build(config["data"])
    if name == OVERVIEW:
        assert len(data.test_tasks) > 10
    else:
        assert len(data.tasks) == (2 if name == "emoji_subject" else 1), "a glyph in one style to the other: both ways"
    key = "test_tasks" if name == OVERVIEW else "tasks"
    assert asked(config)["data"][key] == config["data"][key]
    rows = 2 if name.endswith("_examples") else int(name[-1]) if name[-1].isdigit() else 0
    assert data.row_shares["test"] == {rows: 1.0}
    assert (config["evaluation"]["examples"] > 1) == name.endswith("_examples")


@pytest.mark.parametrize("name", [name for name in NAMES if name[-1].isdigit()])
def test_benchmarks_that_differ_in_examples_have_one_protocol(name):
    """What an ablation compares is not part of a card (unigen.evaluation.scoring.graph_facts)."""
    many, none = composed(name)["data"], composed(name[:-2])["data"]
    assert graph_facts(many) == graph_facts(none) and many["test_rows"] != none["test_rows"]
    assert graph_facts(many | {"rows": [0, 0]}) != graph_facts(none), (
        "negative control: what training had is part of it"
    )


@pytest.mark.parametrize("name", ["coco_canny", "coco_depth", "dreambench", "graph200k_deblur_2", "own_folder"])
def test_a_set_asks_for_its_folder_alone(name):
    assert command_of(name) == ["data.test.root=/nowhere"]
    with pytest.raises(ConfigError, match=r"^'data\.test\.root' has no value; give it on the command line"):
        bench_config(CONF, name, [], CONF, 64)
    with pytest.raises(ValueError, match="/nowhere"):
        build(composed(name)["data"]).prepare_data()


def test_where_data_lie_is_not_asked_and_what_they_are_is():
    here, there = (asked(bench_config(CONF, "coco_canny", [f"data.test.root={r}"], CONF, 64)) for r in ("/a", "/b"))
    assert here == there and here != asked(composed("coco_canny", "data.test.limit=9"))
    assert here != asked(composed("coco_canny", "solver.steps=9")) and here != asked(
        composed("coco_canny", "data.size=512")
    )
    assert composed("coco_canny", "data.size=512")["data"]["size"] == 512, "the line's, not the run's"


def test_as_many_items_as_the_docs_say():
    """docs/evaluation.md: "`dreambench` | 750 prompts, 4 images each" and "... 5,000"."""
    text = (ROOT / "docs" / "evaluation.md").read_text()
    prompts, images = re.search(r"\| `dreambench` \| (\d+) prompts, (\d+) images each", text).groups()
    [items] = re.findall(r"\| `coco_canny`, `coco_depth` \| COCO 2017 val, ([\d,]+)", text)
    dreambench, coco = composed("dreambench")["evaluation"], composed("coco_canny")["evaluation"]
    assert (dreambench["items"], dreambench["images"]) == (int(prompts), int(images))
    assert coco["items"] == composed("coco_depth")["evaluation"]["items"] == int(items.replace(",", ""))


def test_no_metric_downloads_unasked():
    for path in (CONF / "metric").glob("*.yaml"):
        assert yaml.safe_load(path.read_text()).get("download", False) is False, path.name


def test_those_with_a_folder_are_the_published_sets():
    bundled = {name for name in NAMES if name.startswith(("emoji_", "scene_"))}
    assert {name for name in NAMES if not command_of(name)} == bundled
