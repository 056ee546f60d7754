"""Filling, checking and tidying a cache from the command line: all that a run encodes is there before it starts."""

import subprocess
import sys

import pytest
import torch
from small_runs import command, line, small, train
from tiny import ROOT, composed

from unigen.cache.files import read_shard, shards, write_shard
from unigen.config.values import write_config
from unigen.pipeline.build import build
from unigen.pipeline.pipeline import Pipeline
from unigen.tools.cache.commands import run_command
from unigen.tools.cache.filling import build_cache, reencode


def counts(made: Pipeline) -> tuple[int, int]:
    """(images, prompts) that were encoded."""
    return tuple(made.cache.shelf(encoder).made for encoder in (made.codec, made.text))


@pytest.fixture(scope="module")
def with_text(tmp_path_factory) -> list[str]:
    """The words of a run whose frozen text encoder has weights in a folder."""
    folder = tmp_path_factory.mktemp("weights") / "text"
    torch.manual_seed(0)
    build(small(folder)["encoder"]["text"]).model.save_pretrained(folder)
    return ["encoder/codec=autoencoder_mini", f"encoder.text.pretrained={folder}", "encoder.text.trained=false"]


def test_build_covers_what_a_run_encodes(tmp_path, with_text, capsys):
    config = small(tmp_path / "run", *with_text, f"cache={tmp_path / 'kept'}")
    assert sum(shelf.made for shelf in build_cache(config, batches=1)._shelves.values()) > 0
    assert "train: 50.0% covered, 1 of 2 batches" in capsys.readouterr().out
    build_cache(config)
    assert "train: 100.0% covered, 2 of 2 batches" in capsys.readouterr().out
    assert sum(shelf.made for shelf in build_cache(config)._shelves.values()) == 0
    write_config(tmp_path / "run", config)
    last = train(config)
    assert counts(last) == (0, 0) and last.cache.shelf(last.text).read > 0
    assert reencode(config, 3) == (6, [])
    home = last.cache.shelf(last.codec).folder
    for path in shards(home):
        entries, about = read_shard(path)
        write_shard(home, {key: x + 0.5 for key, x in entries.items()}, about)
        path.unlink()
    compared, wrong = reencode(config, 3)
    assert compared == 6 and len(wrong) == 3 and "is encoded differently now (by up to 0.5" in wrong[0]


def test_build_covers_black_images_and_blank_prompts_too(tmp_path, with_text):
    hides = "+guidance.hide={text:blank,condition:black}", "dropout.text=0.5", "+dropout.condition=0.5"
    config = small(tmp_path / "run", *with_text, *hides, f"cache={tmp_path / 'kept'}")
    build_cache(config | {"dropout": {"text": 0, "condition": 0}, "guidance": config["guidance"] | {"strength": 1.0}})
    added = sum(shelf.made for shelf in build_cache(config)._shelves.values())
    assert added > 0, "negative control: what hides nothing has neither"
    write_config(tmp_path / "run", config)
    assert counts(train(config)) == (0, 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("encoder/codec=flux_vae", "encoder.codec.pretrained=null"), "encoder.codec.pretrained is null"),
        (("encoder.text.trained=false",), "encoder.text.pretrained is null"),
        (("+exp=mini/codec",), "has no frozen encoders"),
    ],
)
def test_build_refuses_what_no_run_would_find(tmp_path, words, said):
    with pytest.raises(ValueError, match=said):
        build_cache(composed(*line(*words), f"cache={tmp_path}"))


# --- the command line ------------------------------------------------------------------------------------------


def test_the_three_commands(tmp_path, capsys):
    words = [f"cache={tmp_path / 'kept'}", *line("encoder/codec=autoencoder_mini")]
    config = composed(*words)
    assert command("cache.py", "build", "batches=1", *words) == 0
    run_command("verify", config, {"sample": "2"}, with_exp=True)
    assert "2 kept entries of held-out data were encoded again, 0 of them differ" in capsys.readouterr().out
    home = next((tmp_path / "kept").iterdir())
    broken = shards(home)[0]
    broken.write_bytes(broken.read_bytes()[:-1])
    stranger = home.with_name("0" * 64) / "stranger.safetensors"
    stranger.parent.mkdir()
    stranger.write_bytes(b"another encoder's")
    assert command("cache.py", "verify", words[0]) == 1
    out, err = capsys.readouterr()
    assert str(broken) in out and str(stranger) in out and err.startswith("error: 2 bad shards")
    run_command("gc", config, {"others": "drop"}, with_exp=True)
    assert broken.exists() and stranger.exists(), "without yes=true nothing that may hold data goes"
    run_command("gc", config, {"yes": "true", "others": "drop"}, with_exp=True)
    assert not broken.exists() and not stranger.exists()
    with pytest.raises(ValueError, match="others=drop needs"):
        run_command("gc", config, {"others": "drop"}, with_exp=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fill"], "unknown command 'fill' (known: build, verify, gc)"),
        (["gc", "yes=1", "cache=x"], "yes=1: it may be true or false"),
        (["build", "batches=many", "cache=x"], "batches=many is not a whole number"),
        (["build", "cache=x", "-m"], "one experiment at a time"),
        (["verify"], "say which folder: cache=<folder>"),
        (["verify", "cache=x", "yes=true"], "unknown key 'yes'"),
    ],
)
def test_a_bad_line_is_one_sentence(words, said, capsys):
    assert command("cache.py", *words) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_help_answers_without_torch():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['cache.py', '--help']\n"
        "try: runpy.run_path('experiments/cache.py', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert 'torch' not in sys.modules and 'hydra' not in sys.modules"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(word in said for word in ("build", "verify", "gc"))
