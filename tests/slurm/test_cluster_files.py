"""A cluster's file: merged over the reference, and refused where it says what nothing reads."""

import pytest
from tiny import CONF, choices

from slurm.cluster import read_cluster
from unigen.config.values import ConfigError

FOLDERS = [CONF / "cluster"]


@pytest.mark.parametrize("name", choices("cluster"))
def test_every_file_is_read(name):
    assert set(read_cluster(FOLDERS, name)) == set(read_cluster(FOLDERS, "slurm"))


def test_a_file_replaces_some_keys_and_the_command_line_others(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("partition: a100\ncpus_per_task: 4\nenvironment: {A: 1}\n")
    words = ["cluster.cpus_per_task=6", "cluster.environment.B=2", "cluster.sbatch=['--exclude=n[1-2]']"]
    settings = read_cluster(FOLDERS, str(own), words)
    assert (settings["partition"], settings["cpus_per_task"], settings["array_limit"]) == ("a100", 6, 0)
    assert settings["environment"] == {"A": 1, "B": 2} and settings["sbatch"] == ["--exclude=n[1-2]"]
    assert read_cluster([*FOLDERS, tmp_path], "own") == read_cluster(FOLDERS, str(own)) != settings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partion: a", "unknown key 'partion' in {}; did you mean 'partition'?"),
        ("zzz: a", "unknown key 'zzz' in {}; legal are partition, account"),
        ("time: 24:00:00", "expected a string like the default '24:00:00'; quote it"),
        ("cpus_per_task: '4'", "'cpus_per_task' is '4' in {}; expected an integer"),
        ("array_limit: -1", "'array_limit' is -1 in {}; it cannot be negative"),
        ("mem: true", "'mem' is true in {}; expected a string or null"),
        ("sbatch: --exclusive", "expected a list"),
        ("setup: [[a]]", "'setup' holds ['a'] in {}; expected one line of text"),
        ('setup: ["a\\nb"]', "expected one line of text"),
        ("environment: [A]", "'environment' is ['A'] in {}; expected a mapping"),
        ("[a]", "{} holds a list; a cluster file is a mapping of keys"),
        ("a: [", "cannot read {}"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, said):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_cluster(FOLDERS, str(path))
    assert said.format(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("lcal", [], "cluster=lcal is unknown; did you mean 'local'? there are local, slurm"),
        ("nowhere.yaml", [], "cluster=nowhere.yaml is unknown"),
        (
            "local",
            ["cluster.partion=a"],
            "unknown key 'cluster.partion' on the command line; did you mean 'cluster.part",
        ),
        ("local", ["cluster.partition=a,b"], "a sweep has one cluster"),
        ("local", ["cluster.sbatch=[--a=b"], "cannot read 'cluster.sbatch=[--a=b'"),
    ],
)
def test_bad_words_are_refused(name, words, said):
    with pytest.raises(ConfigError) as error:
        read_cluster(FOLDERS, name, words)
    assert said in str(error.value)
