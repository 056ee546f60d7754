"""Words that Hydra cannot read bare: they work by themselves where they have one meaning, else the advice works."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from test_preflight import TREE, write_tree

from unigen.config.preflight import preflight
from unigen.config.quoting import advice, as_text, readable
from unigen.config.values import ConfigError


@pytest.fixture(scope="module")
def conf(tmp_path_factory) -> Path:
    small = {"config": TREE["config"] + "optimizer: {betas: [0.9, 0.95]}\n        data: {tasks: [canny]}\n"}
    return write_tree(tmp_path_factory.mktemp("tree") / "conf", TREE | small)


def value(word: str) -> object:
    return OverridesParser.create().parse_override(word).value()


@pytest.mark.parametrize(
    "text",
    ["runs/猫", "a=b", "x#y", "it's", 'say "x"', "a[1]", "a;b", "a&b", "été", "C:\\new#", "#\\", 'a\\"b#', "a!b"],
)
def test_a_text_works_without_quotes(conf, text):
    word = f"run_dir={text}"
    with pytest.raises(ConfigError, match="cannot read"):
        preflight(conf, [word])
    (quoted,) = readable([word])
    assert value(quoted) == text
    preflight(conf, [quoted])
    assert readable([quoted]) == [quoted]


@pytest.mark.parametrize(
    "word",
    [
        *("seed=3", "run_dir=a b", "+exp=base", "~mask", "-m", "--config-dir=/tmp/été", "seed=1,2", "a.b=[1,'x>y']"),
        *("seed", "a=[x>y]", "a={x>y:1}", "a=(1#)", "a=b#,c", "a='b", "a=range(#)", "a=${b", "a=b#\n", "=#", "a b=#"),
    ],
)
def test_what_can_be_read_or_may_mean_something_else_stays(word):
    assert readable([word]) == [word]


def test_the_home_folder_is_what_a_shell_would_make_of_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert readable(["run_dir=~/runs"]) == ['run_dir="/home/me/runs"']


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("'seed=3'", 3),
        ('"seed=3"', 3),
        ("seed =3", 3),
        ("seed = 3", 3),
        (" seed=3", 3),
        ("seed:3", 3),
        ("optimizer.betas=(0.9,0.95)", [0.9, 0.95]),
        ("data.tasks=[canny>target]", ["canny>target"]),
        ("data.tasks=['depth>target', canny > target]", ["depth>target", "canny > target"]),
        ("optimizer.betas=[0.9,#]", [0.9, "#"]),
        ("run_dir=a#,b", "a#,b"),
        ("run_dir=(猫)", "(猫)"),
        ("name=it's", "it's"),
    ],
)
def test_the_advice_gives_what_was_meant(conf, word, meant):
    with pytest.raises(ConfigError) as caught:
        preflight(conf, [word])
    said = str(caught.value)
    assert said.endswith(advice(word)) and "\n" not in said
    (proposed,) = shlex.split(re.split(r": (?=['\w])|write (?=['\w])", said)[-1])
    assert value(proposed) == meant


@pytest.mark.parametrize(
    "word",
    [
        *("mask.rows.a>b=2", "+mask.rows.a>b=2", 'mask={rows:{"a>b":2}}', "mask={rows:{a>b:2}}"),
        *("guidance.by_task.a>b=2", 'guidance={by_task:{"a>b":{strength:2}}}'),
    ],
)
def test_a_key_that_hydra_cannot_read_goes_into_a_file_that_works(conf, tmp_path, monkeypatch, word):
    table = {"config": TREE["config"] + "guidance: {by_task: {}}\n"}
    with pytest.raises(ConfigError) as caught:
        preflight(conf, [word])
    said = re.search(r"the two lines (.*) into (.*), and begin the line with (.*) \(", str(caught.value))
    path, flags = Path(said[2]), shlex.split(said[3])
    text = "\n".join(re.findall(r"`([^`]*)`", said[1]))
    monkeypatch.chdir(tmp_path)
    own = write_tree(tmp_path / "conf", TREE | table)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    preflight(own, flags)
    made = yaml.safe_load(text)
    found = made["guidance"]["by_task"]["a>b"]["strength"] if "guidance" in made else made["mask"]["rows"]["a>b"]
    assert found == 2
    path.write_text(text.replace("rows", "row").replace("by_task", "by_tsk"))
    with pytest.raises(ConfigError, match="unknown key"):  # negative control: the file is read
        preflight(own, flags)


def test_a_key_that_hydra_cannot_read_is_removed_with_its_table():
    assert advice("~guidance.by_task.a>b").endswith("write guidance.by_task=null")


@pytest.mark.parametrize("word", ["a=[1,", "a={b", "data.tasks=['cannytarget", "+exp", "name=a\nb#", "=", ""])
def test_what_cannot_be_guessed_gets_the_rule(word):
    assert re.search("single quotes|write key=value|take that out", advice(word))
    assert "\n" not in advice(word)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("title=1e3", "quote it: 'title=\"1e3\"'"),
        ("title=true", "quote it: 'title=\"true\"'"),
        ("run_dir=a,b", "or quote one text: 'run_dir=\"a,b\"'"),
    ],
)
def test_a_text_that_looks_like_something_else(conf, word, said):
    with pytest.raises(ConfigError) as caught:
        preflight(conf, [word])
    assert str(caught.value).endswith(said)
    preflight(conf, shlex.split(said.split(": ")[1]))


def test_as_text():
    assert shlex.split(as_text("a=it's")) == ['a="it\'s"']


def test_a_run_whose_folder_hydra_cannot_read_bare_starts(tmp_path, monkeypatch, capsys):
    """Through the launcher: what reaches Hydra is quoted."""
    from unigen.launch.start import launch

    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "config.yaml").write_text("run_dir: x\nhydra: {run: {dir: '${run_dir}'}, output_subdir: null}\n")
    monkeypatch.setattr("sys.argv", ["run.py", f"run_dir={tmp_path}/猫=1"])
    seen = []
    launch(lambda cfg: seen.append(cfg.run_dir), conf)
    assert seen == [f"{tmp_path}/猫=1"] and Path(seen[0]).is_dir()
