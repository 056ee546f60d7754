"""The data configs of published sets: each asks for its folder in one sentence, and is whole before that is there."""

import re
import shlex

import pytest
import yaml
from hydra import compose, initialize_config_dir
from small_runs import command
from tiny import CONF, choices, composed

from unigen.config.preflight import preflight
from unigen.config.values import ConfigError, plain
from unigen.pipeline.build import build, build_on_meta
from unigen.pipeline.pipeline import Pipeline
from unigen.training.experiment import dry_run


def asks_for_roots(name: str) -> list[str]:
    """The splits whose reader a data config leaves without its folder."""
    node = yaml.safe_load((CONF / "data" / f"{name}.yaml").read_text())
    return [split for split, reader in node.items() if isinstance(reader, dict) and reader.get("root") == "???"]


ROOT_OF = {name: asks_for_roots(name) for name in choices("data")}
SETS = [name for name, asked in ROOT_OF.items() if asked]
FRAMES = ("data.rows=[0,0]", "conditioning/embedding=none", "data.num_workers=0")  # what the default formatter can hold


def words(name: str, root: str = "/nowhere", *more: str) -> list[str]:
    """The command line of a set at the mini scale, with every folder that it asks for."""
    return [f"data={name}", "task=graph", *(f"data.{split}.root={root}" for split in ROOT_OF[name]), *FRAMES, *more]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return build_on_meta(composed("conditioning/embedding=none"))


def test_the_sets_are_found():
    assert (
        {"graph200k", "coco", "own_folder", "painting"} <= set(SETS) and "emoji_graph" not in SETS and "set" not in SETS
    )
    assert ROOT_OF["dreambench"] == ["train", "test"] and ROOT_OF["viton_hd"] == ["train"]


@pytest.mark.parametrize("name", ["graph200k", "dreambench"])
def test_a_folder_that_is_not_given_is_asked_for(name):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        asking = compose("config", overrides=[f"data={name}", "task=graph", "run_dir=x"])
        with pytest.raises(ConfigError) as caught:
            plain(asking)
        first = f"data.{ROOT_OF[name][0]}.root"
        assert str(caught.value) == f"'{first}' has no value; give it on the command line: {first}=..."


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_whole_before_its_data_is_there(name, pipeline):
    """It has tasks, and slots that a model can place; on use its folder is missed."""
    node = composed(*words(name))["data"]
    made = build(node)
    assert made.tasks and {slot.height for slot in made.slots} <= {48, 64, 80}
    assert len(pipeline.plan(made.slots).layout.visual) == len(made.slots)
    assert {slot.role for slot in build({**node, "rows": [2, 2]}).slots} == {"example", "condition", "target"}
    assert node["batch_size"] == composed()["data"]["batch_size"], "the scale's"
    with pytest.raises(ValueError, match="/nowhere"):
        made.prepare_data()


@pytest.mark.parametrize("name", ["coco", "painting"])
def test_the_check_of_the_command_line_knows_a_set(name):
    preflight(CONF, words(name, "/nowhere", "data.train.limit=5"))
    with pytest.raises(ConfigError, match=r"did you mean 'data\.train\.limit'"):
        preflight(CONF, words(name, "/nowhere", "+data.train.limits=5"))


@pytest.mark.parametrize("name", SETS)
def test_a_header_says_how_to_run_it_and_under_what_licence(name):
    said = [text[2:] for text in (CONF / "data" / f"{name}.yaml").read_text().splitlines() if text.startswith("# ")]
    assert any(text.startswith(f"python experiments/run.py data={name} task=") for text in said)
    assert all(f"data.{split}.root=<" in " ".join(said) for split in ROOT_OF[name])
    assert re.search(r"licence|Apache-2\.0|Mit by|\(mit\)|CC BY", " ".join(said))


def commands(name: str) -> list[list[str]]:
    """The words of every run.py command in a config's header, which may go on in the next line."""
    found, inside = [], False
    for text in (CONF / "data" / f"{name}.yaml").read_text().splitlines():
        said = shlex.split(re.sub(r"<[^>]*>", "/nowhere", text[2:])) if text.startswith("# ") and "=" in text else []
        begins = said[:2] == ["python", "experiments/run.py"]
        inside = begins or (inside and bool(said) and all("=" in word for word in said))
        if inside:
            found = [*found, said[2:]] if begins else [*found[:-1], found[-1] + said]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_a_command_of_a_header_gets_as_far_as_the_header_of_the_run(name, capsys):
    """It is the first thing that is tried: every part fits, before the data are there."""
    assert commands(name)
    for line in commands(name):
        preflight(CONF, line)
        dry_run(composed(*line))
        assert "tokens per sample" in capsys.readouterr().out


def test_without_its_last_words_the_command_of_a_header_is_refused():
    """Negative control."""
    line = commands("graph200k")[0]
    with pytest.raises(ValueError, match=r"set data\.tasks, or conditioning/embedding=none"):
        dry_run(composed(*(word for word in line if word != "conditioning/embedding=none")))


def test_the_commands_of_realgeneral_have_its_tasks_and_uce():
    subjects = ("task=subject", "data.tasks=['reference>target']")
    for name, task, words in (
        ("subjects200k", "reference>target", subjects),
        ("text_to_image_2m", "canny>target", ("task=canny",)),
    ):
        config = composed("+exp=fcd_mask_a", f"data={name}", "data.train.root=/nowhere", *words)
        assert build(config["data"]).tasks == (task,) and config["conditioning"]["embedding"]["tasks"] == [task]
        assert {slot.role for slot in build(config["data"]).slots} == {"condition", "target"}


def test_a_set_composes_at_the_papers_scale_and_takes_another_graph():
    config = composed("scale=paper", *words("graph200k", "/nowhere", "graph@data.graph=graph200k_bbox"))
    assert config["data"]["size"] == 512 and len(build(config["data"]["graph"]).tasks) == 134
    assert "bbox>target" in build(config["data"]).tasks
    assert "bbox>target" not in build(composed(*words("graph200k"))["data"]).tasks


def test_the_command_line_ends_in_one_sentence_or_in_the_header(tmp_path, capsys):
    assert command("run.py", "data=own_folder", "task=graph", f"run_dir={tmp_path}") == 1
    error = capsys.readouterr().err
    assert error == "error: 'data.train.root' has no value; give it on the command line: data.train.root=...\n"
    assert command("run.py", *words("own_folder", "/nowhere", "dry_run=true"), f"run_dir={tmp_path}") == 0
    assert "task graph, seed 0" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_what_the_sets_have_in_common_is_no_set():
    with (
        initialize_config_dir(version_base="1.3", config_dir=str(CONF)),
        pytest.raises(ConfigError, match=r"'data\.graph'"),
    ):
        plain(compose("config", overrides=["data=set", "task=graph", "run_dir=x"]))
