"""`+exp=fcd_mask_a scale=paper` is RealGeneral's setting to the letter (section 4.1), down to the trained weights."""

import re

import pytest
import yaml
from small_runs import command, files
from tiny import ROOT, composed, reproductions, trained

from unigen.pipeline.build import build, build_on_meta
from unigen.pipeline.learner import parameters


def at(config: dict, key: str) -> object:
    for part in key.split("."):
        config = config[part]
    return config


def paper(*overrides: str) -> dict:
    return composed("+exp=fcd_mask_a", "scale=paper", *overrides)


def said(heading: str) -> dict[tuple[str, ...], object]:
    """{(key, the words that it is said of): value} of the table below a heading of docs/realgeneral.md."""
    text = (ROOT / "docs" / "realgeneral.md").read_text()
    rows = text.partition(heading)[2].partition("\n\n|")[2].partition("\n\n")[0]
    found = re.findall(r"^\| `([\w.]+)`(?: \(of `([^`]+)`\))? \| ([^|]+) \|", rows, re.M)
    assert len(found) == len(rows.splitlines()) - 2, "every row names a key and a value"
    return {(key, *words.split()): yaml.safe_load(value) for key, words, value in found}


STATED, INFERRED = said("**What the paper states**"), said("**What the paper does not state.**")
ROOTS = {"data=subjects200k": ("task=subject", "data.train.root=/nowhere")}  # what a choice needs beside it


@pytest.mark.parametrize("row", [*STATED, *INFERRED], ids=" ".join)
def test_a_value_is_as_the_docs_say_it_is(row):
    key, *words = row
    words += [beside for word in words for beside in ROOTS.get(word, ())]
    assert at(paper(*words), key) == (STATED | INFERRED)[row]


def test_what_is_stated_is_not_inferred_and_nothing_inferred_was_missed():
    """The last line is the negative control of the reading: these keys make a run differ."""
    assert not STATED.keys() & INFERRED.keys()
    needed = {"callback.ema.decay", "trainer.gradient_clip_val", "optimizer.weight_decay", "dropout.text"}
    assert needed <= {key for key, *_ in INFERRED} and {"data.batch_size", "optimizer.lr"} <= {
        key for key, *_ in STATED
    }


def test_mini_is_another_setting():
    """Negative control: the values above are the scale's, not the defaults."""
    mini = composed("+exp=fcd_mask_a", "scale=mini")
    same = {
        key
        for key in ("backbone.pretrained", "data.size", "optimizer.lr", "trainer.max_steps")
        if at(mini, key) == STATED[(key,)]
    }
    assert not same


# --- 891.9 M -----------------------------------------------------------------------------------------------------


def by_hand(
    tasks: int, rank: int = 256, layers: int = 42, width: int = 48 * 64, time: int = 512, text: int = 4096
) -> int:
    """LoRA of rank r on E -> D costs r (E + D). A block has four D -> D in attention and, in its two norms, three
    branches of time -> 3D each (shift, scale, gate). UCE: a map from text to 16 channels, and a bias for each task.
    """
    attention = 4 * rank * (width + width)
    modulation = 2 * 3 * rank * (time + 3 * width)
    return layers * (attention + modulation) + text * 16 + tasks * 16


def test_the_trained_parameters_are_the_papers_892_million():
    config = paper()
    pipeline = build_on_meta(config)
    count = parameters(*pipeline.modules)["trained"]
    assert count == by_hand(tasks=len(config["data"]["tasks"])) == 891_879_440
    assert abs(count / 1e6 - 891.9) < 0.05
    assert count == trained(pipeline.backbone, pipeline.embedding)
    assert all(p.is_meta for p in pipeline.backbone.parameters())


@pytest.mark.parametrize(
    ("exp", "count"),
    [
        ("wo_uce", by_hand(1) - 65_536 - 16),
        ("fcd_mask_d", by_hand(1)),
        ("wo_sc_adaln", by_hand(1) - 42 * 2 * 256 * (512 + 3 * 3072)),
    ],
)
def test_each_ablation_leaves_out_its_part(exp, count):
    assert parameters(*build_on_meta(composed(f"+exp={exp}", "scale=paper")).modules)["trained"] == count != by_hand(2)


def test_tokens_are_226_and_1024_for_each_image():
    config = paper()
    layout = build_on_meta(config).plan(build(config["data"]).slots).layout
    assert [(s.role, s.tokens) for s in layout.segments] == [("text", 226), ("condition", 1024), ("target", 1024)]


QUICK = ("fcd_mask_a", "visualcloze_fill", "visualcloze_dev")
REPRODUCED = reproductions("RealGeneral, Table", "VisualCloze")


@pytest.mark.parametrize("exp", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in REPRODUCED])
def test_the_paper_setting_is_checked_without_weights(exp, tmp_path, capfd):
    """891.9 M: LoRA of rank 256 on three SC-AdaLN branches and attention (891.81), and UCE (0.07). 1,390.4 M: on every
    linear of FLUX.1-Fill, with a bias; dev has 64 inputs instead of 384, which bounds that rank too."""
    run_dir = tmp_path / "run"
    assert command("run.py", f"+exp={exp}", "scale=paper", "dry_run=true", f"run_dir={run_dir}") == 0
    said = capfd.readouterr().out
    if exp.startswith("visualcloze"):
        fewer = 256 * (384 + 3072) - 64 * (64 + 3072) if exp == "visualcloze_dev" else 0
        trained = 1_390_434_368 - fewer
        assert f"({trained:,} of " in said and "text 512" in said
    else:
        trained = {"wo_sc_adaln": "682.7 M", "wo_uce": "891.8 M"}.get(exp, "891.9 M")
        assert f"parameters: {trained} trained of 11" in said
        assert "tokens per sample: 2274 (text 226, condition 1024, target 1024)" in said
    assert said.splitlines()[-1] == f"run folder: {run_dir}"
    assert files(tmp_path) == {}
