"""The bench's section on the loader: what counts as waiting, and that a slow data set is seen. No other times."""

import sys
import time

import pytest
import torch
from small_runs import kept_images
from tiny import CONF, composed

from datamodules.emoji.samples import GraphDataset
from unigen.tools.bench.turns import Effort

sys.path.insert(0, str(CONF.parent))

from bench import arguments

from unigen.tools.bench.loader import COLUMNS, STEPS, Fetches, loader_table

ONCE = Effort(torch.device("cpu"), rounds=1, limit=0.0)
SLOW = 0.02  # seconds for an image


def test_only_asking_the_loader_counts_as_waiting(monkeypatch):
    fetches, now = Fetches(), [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    for wait, work in ((9.0, 9.0), (1.0, 4.0), (2.0, 5.0), (3.0, 6.0)):
        with fetches.profile("[_TrainingEpochLoop].train_dataloader_next"):
            now[0] += wait
        with fetches.profile("run_training_batch"):
            now[0] += work
    assert fetches.means(2) == ((4 + 2 + 5 + 3) / 2, (2 + 3) / 2)
    assert fetches.means(3) == ((9 + 1 + 4 + 2 + 5 + 3) / 3, (1 + 2 + 3) / 3)


@pytest.fixture
def config():
    words = [
        "data.size=16",
        "data.batch_size=8",
        "data.limit=40",
        "backbone.config.num_layers=1",
        "encoder/codec=patch_pca",
    ]
    return composed("+exp=fcd_mask_a", "backbone.pretrained=null", "seed=3", kept_images(), *words)


def test_a_slow_data_set_is_waited_for(config, monkeypatch):
    get = GraphDataset.__getitem__
    monkeypatch.setattr(GraphDataset, "__getitem__", lambda self, item: time.sleep(SLOW) or get(self, item))
    slow = loader_table({"slow": config}, ONCE)
    monkeypatch.undo()
    quick = loader_table({"quick": config}, ONCE)
    assert slow.columns == COLUMNS and slow.rows[0][:3] == ("slow, EmojiGraphData", 0, 8)
    step, waiting, share = slow.rows[0][3:]
    assert waiting > 8e3 * SLOW and step > waiting and share == f"{waiting / step:.1%}"
    assert 0 < quick.rows[0][4] < waiting / 4, "negative control"
    assert f"{STEPS} steps after one epoch" in slow.note


def test_it_is_a_section():
    assert "loader" in arguments([])[0] and arguments(["loader", "workers=2"])[1]["workers"] == "2"
    with pytest.raises(ValueError, match="workers=x is not a whole number above 0"):
        arguments(["workers=x"])
