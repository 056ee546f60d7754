"""Training and sampling from Python do what the commands do; the lines of docs/notebook.md run."""

import re
from pathlib import Path

import pytest
from PIL import Image
from small_runs import SMALL, kept_images, line, summary
from tiny import ROOT

import unigen
from unigen.config.values import ConfigError
from unigen.tools import notebook

WORDS = line("+exp=fcd_mask_a", "logger=[jsonl]")
IMAGES = ROOT / "docs" / "own_images"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return unigen.train(*WORDS, f"run_dir={tmp_path_factory.mktemp('runs') / 'mine'}")


def test_a_run_is_trained_sampled_and_goes_on(run):
    assert summary(run)["steps"] == 2 and (run / "export").is_dir()
    images = unigen.sample(run, condition=IMAGES / "boat.png", prompt="boat", seed=1)
    assert {name: image.size for name, image in images.items()} == {"output": (32, 32), "condition": (32, 32)}
    again = unigen.sample(run, condition=IMAGES / "boat.png", prompt="boat", seed=1)
    other = unigen.sample(run, condition=IMAGES / "boat.png", prompt="boat", seed=2)
    assert again["output"].tobytes() == images["output"].tobytes()
    assert other["output"].tobytes() != images["output"].tobytes(), "negative control"
    assert unigen.train(*WORDS, "trainer.max_steps=3", f"run_dir={run}") == run
    assert summary(run)["steps"] == 3


def test_a_generated_folder_is_a_new_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "exp").mkdir(parents=True)
    (tmp_path / "conf" / "exp" / "own.yaml").write_text("# @package _global_\ndefaults: [fcd_mask_a]\nname: own\n")
    made = unigen.train("+exp=own", *WORDS[:-2], "logger=[jsonl]", config_dir="conf")
    assert made.parent.parent == Path("runs") and summary(made)["steps"] == 2
    assert notebook.composed(["+exp=own"], "conf").name == "own"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["+exp=fcd_mask_a", "trainer.max_step=1"], "unknown key 'trainer.max_step' on the command line; did you mean"),
        (["+exp=fcd_mask_a", "seed=0,1"], "'seed=0,1' names several values"),
        (["+table=realgeneral_masks"], "train() runs one experiment; +table= starts a sweep: unigen run +table=NAME"),
        (["+exp=fcd_mask_a", "trainer.devices=2"], "trainer.devices is 2, which takes as many processes"),
        (["+exp=nothing"], "unknown choice 'nothing' for group 'exp'"),
    ],
)
def test_refuses_what_the_command_refuses(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        unigen.train(*words)
    assert said in str(caught.value) and not any(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="does not exist"):
        unigen.train("+exp=fcd_mask_a", config_dir=tmp_path / "nowhere")


def test_a_sample_refuses_what_the_command_refuses(run, tmp_path):
    with pytest.raises(ValueError, match="unknown key 'conditions'"):
        unigen.sample(run, conditions="a.png")
    with pytest.raises(ValueError, match="run="):
        unigen.sample(tmp_path / "nowhere", prompt="a")


def test_values_of_python_are_words():
    rows = [["a b.png", Path("c.png")], ["d.png", None]]
    assert notebook.spelt(rows) == "[[a b.png, c.png], [d.png, null]]"
    assert [notebook.spelt(value) for value in (True, 3, "x", Path("a"))] == ["true", "3", "x", "a"]


def test_an_unknown_name_of_the_package_is_an_error():
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        unigen.tarin


@pytest.mark.slow
def test_the_lines_of_the_page_run(tmp_path, monkeypatch):
    """Made small by words that come last."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "notebook.md").read_text(), re.S)
    assert len([text for text in code.splitlines() if text.strip()]) <= 10
    train, ran = unigen.train, []

    def small(*words: str) -> Path:
        steps = int(words[1].partition("=")[2]) // 150
        kept = [word for word in SMALL if not word.startswith(("trainer.max_steps", "validation.every"))]
        ran.append(steps)
        return train(*words[:1], f"trainer.max_steps={steps}", "validation.every=1", *words[3:], *kept, kept_images())

    monkeypatch.setattr(unigen, "train", small, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    names: dict = {}
    exec(code, names)
    assert ran == [2, 4] and summary(names["run"])["steps"] == 4
    assert isinstance(names["boat"]["output"], Image.Image) and names["held_out"]["sheet"].width > 64
