"""Files of one's own, given with --config-dir: what is often wrong with them is said in one sentence."""

from pathlib import Path

import pytest
from test_preflight import GLOBAL, TREE, write_tree

from unigen.config.preflight import preflight
from unigen.config.values import ConfigError

OWN = {
    "good.yaml": GLOBAL + "seed: 1\n",
    "crlf.yaml": "# @package _global_\r\nseed: 1\r\n",
    "my.exp.yaml": GLOBAL + "seed: 1\n",
    "my exp.yaml": GLOBAL + "seed: 1\n",
    "007.yaml": GLOBAL + "seed: 1\n",
    "7.yaml": GLOBAL + "seed: 1\n",
    "été.yaml": GLOBAL + "seed: 1\n",
    "folder/deep.yaml": GLOBAL + "seed: 1\n",
    "folder/more.yaml": GLOBAL + "seed: 1\n",
    "only_header.yaml": GLOBAL,
    "no_header.yaml": "seed: 1\n",
    "late_header.yaml": "# mine\n" + GLOBAL + "seed: 1\n",
    "bom.yaml": "\ufeff" + GLOBAL + "seed: 1\n",
    "empty.yaml": "",
    "tabs.yaml": GLOBAL + "trainer:\n\tmax_steps: 1\n",
    "ending.yml": GLOBAL + "seed: 1\n",
    "base.yaml": GLOBAL + "seed: 1\n",
    "dotted.yaml": GLOBAL + "trainer.lr: 1\n",
    "emptied.yaml": GLOBAL + "trainer:\n",
    "nowhere.yaml": GLOBAL + "title: ${nope}\n",
    "shell.yaml": GLOBAL + "title: ${HOME}/x\n",
    "not_a_number.yaml": GLOBAL + "trainer: {lr: .nan}\n",
    "inf_deep.yaml": GLOBAL + "mask: {rows: {text: {mine: [1, .inf]}}}\n",
    "twice.yaml": GLOBAL + "seed: 1\nseed: 2\n",
    "second_choice.yaml": GLOBAL + "defaults: [/mask: b]\n",
    "relative_choice.yaml": GLOBAL + "defaults: [mask: b]\n",
    "deeper/first.yaml": GLOBAL + "seed: 1\n",
    "deeper/second.yaml": GLOBAL + "defaults: [deeper/first]\n",  # found, as Hydra reads the first list from exp
    "deeper/third.yaml": GLOBAL + "defaults: [deeper/second]\n",
    "../flat.yaml": GLOBAL + "seed: 1\n",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    conf = write_tree(tmp_path_factory.mktemp("tree") / "conf", TREE)
    own = tmp_path_factory.mktemp("own")
    for name, text in OWN.items():
        (own / "exp" / name).parent.mkdir(parents=True, exist_ok=True)
        (own / "exp" / name).write_bytes(text.encode())
    (own / "exp" / "latin.yaml").write_bytes(GLOBAL.encode() + b"title: \xe9t\xe9\n")
    (own / "exp" / "dangling.yaml").symlink_to("nothing.yaml")
    return conf, own


@pytest.mark.parametrize(
    "choice",
    [
        "good",
        "crlf",
        "my.exp",
        "my exp",
        '"my exp"',
        "007",
        '"7"',
        '"été"',
        "folder/deep",
        "only_header",
        "deeper/second",
    ],
)
def test_accepts(folders, choice):
    preflight(folders[0], ["--config-dir", str(folders[1]), f"+exp={choice}"])


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("no_header", "exp/no_header.yaml must begin with the line '# @package _global_'"),
        ("late_header", "exp/late_header.yaml must begin with the line '# @package _global_'"),
        ("bom", "exp/bom.yaml starts with a byte order mark (BOM); save it as UTF-8 without one"),
        ("empty", "exp/empty.yaml is empty; its first line must be '# @package _global_'"),
        ("tabs", r"cannot read exp/tabs.yaml, line 3: found character '\t'"),
        ("latin", "cannot read exp/latin.yaml, byte 27: it is no UTF-8 text; save it as UTF-8"),
        ("ending", "exp/ending.yml: config files end in .yaml"),
        ("ending.yml", "a choice is a name"),
        ("good.yaml", "a choice is a name without its ending: write +exp=good"),
        ("exp/good", "a choice is a name without folders and ending: write +exp=good"),
        ("/some/where/good.yaml", "a choice is a name without folders and ending: write +exp=good"),
        ("folder", "it is a folder, which has folder/deep, folder/more"),
        ("dangling", "exp/dangling.yaml is a link to nothing"),
        ("flat", "flat.yaml must lie in "),
        ("7", """quote it: '+exp="7"'"""),
        ("base", "exp/base.yaml is in "),
        ("dotted", "unknown key 'trainer.lr' in exp/dotted.yaml; a file nests its keys: trainer: {lr: ...}"),
        ("emptied", "'trainer' cannot be null in exp/emptied.yaml; expected a mapping of "),
        ("nowhere", "'title' refers to 'nope' in exp/nowhere.yaml, which is no key"),
        ("shell", "which is no key; a variable of the shell is ${oc.env:HOME}"),
        ("not_a_number", "'trainer.lr' is nan in exp/not_a_number.yaml; legal are finite numbers"),
        ("inf_deep", "'mask.rows.text.mine.1' is inf in exp/inf_deep.yaml; legal are finite numbers"),
        ("twice", "cannot read exp/twice.yaml, line 3: found duplicate key seed"),
        ("second_choice", "a defaults list chooses 'mask' a second time; write override /mask: b"),
        ("relative_choice", "in exp/relative_choice.yaml; in a defaults list write override /mask: b"),
        (
            "deeper/third",
            "in exp/deeper/second.yaml; a file's defaults list is read from the file's own folder: write ",
        ),
        ("deeper/third", "write /exp/deeper/first there"),
    ],
)
def test_refuses(folders, choice, said):
    with pytest.raises(ConfigError) as caught:
        preflight(folders[0], ["--config-dir", str(folders[1]), f"+exp={choice}"])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config-dir", "{own}/exp/good.yaml"], "is a file; --config-dir takes a folder"),
        (["--config-dir="], "--config-dir is empty"),
        (["--config-dir", "{own}", "--config-dir", "{own}"], "--config-dir is given twice"),
        (["hydra.searchpath=[file://{own}]"], "--config-dir <folder>"),
        (["hydra.run.dir=x"], "is for a key here: run_dir=x"),
        (["hydra/launcher=joblib"], "slurm/sweep.py"),
    ],
)
def test_how_the_folder_is_said(folders, words, said):
    with pytest.raises(ConfigError) as caught:
        preflight(folders[0], [word.replace("{own}", str(folders[1])) for word in words])
    assert said in str(caught.value) and "\n" not in str(caught.value)
