"""A model card says what the run's summary says, and nothing else."""

from pathlib import Path

import pytest
from tiny import composed

from unigen.training.card import figures, write_card

SUMMARY = {
    "steps": 12000,
    "samples_seen": 240000,
    "seconds": 1500.0,
    "seed": 3,
    "device": "CPU, 2 threads",
    "parameters": {"trained": 2567568, "total": 2567568},
    "metrics": {"psnr_line": {"value": 27.5, "low": 9.25, "high": None, "better": "higher", "items": 128}},
    "bounds": {"low": "another image", "high": "the image"},
    "protocol": {"split": "test", "metric.psnr": {"library": "torchmetrics", "parameters": "RGB"}},
}


def card(folder: Path, **changes) -> str:
    write_card(folder, SUMMARY | changes, composed("+exp=mini/codec"))
    return (folder / "README.md").read_text()


def test_a_card_holds_recipe_data_licence_and_figures(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    said = card(tmp_path)
    for words in (
        "Class: AutoencoderKL",
        "python experiments/run.py +exp=mini/codec\n",
        "12,000 steps, 240,000 samples, 25 minutes",
        "CC BY-SA 4.0",
        "| psnr_line | 9.250 | 27.500 | - | 128 |",
        "Protocol: split: test.",
        "- psnr: torchmetrics, RGB",
    ):
        assert words in said, words
    assert card(tmp_path, steps=7) != said, "negative control"


def test_a_later_stage_says_what_it_began_with(tmp_path):
    assert "It began with the weights in `runs/first/export`" in card(tmp_path, began_with="runs/first/export")
    assert "began with" not in card(tmp_path, began_with=None) and "began with" not in card(tmp_path)


@pytest.mark.parametrize("value", [None, 0.12345])
def test_a_figure_that_is_missing_is_a_dash(value):
    metrics = {"m": {"value": value, "low": 0.0, "high": 1.0, "better": "higher", "items": 2}}
    assert f"| m | 0.000 | {'-' if value is None else '0.123'} | 1.000 | 2 |" in figures(SUMMARY | {"metrics": metrics})
