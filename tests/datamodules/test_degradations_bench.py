"""The bench's section on degradations is whole, at a tiny size. No times."""

import sys

import cv2
import numpy as np
import torch
from tiny import CONF

from datamodules.degradations import NAMES
from unigen.tools.bench.turns import Effort

sys.path.insert(0, str(CONF.parent))

from bench import arguments

from unigen.tools.bench.degradations import COLUMNS, degradations_table, photo_like


def test_a_row_for_each_degradation():
    threads = cv2.getNumThreads()
    table = degradations_table(Effort(torch.device("cpu"), rounds=1, limit=0.0), side=32, draws=2)
    assert table.columns == COLUMNS and [row[0] for row in table.rows] == list(NAMES)
    assert all(0 < row[2] <= row[3] for row in table.rows)
    assert "seed" not in table.markdown() and "Frost |" in table.markdown()
    assert cv2.getNumThreads() == threads


def test_it_is_a_section():
    assert arguments(["degradations"])[0] == ["degradations"] and "degradations" in arguments([])[0]


def test_the_image_uses_the_whole_range():
    image = photo_like(64)
    assert image.shape == (3, 64, 64) and image.dtype == np.uint8 and np.ptp(image) > 200
    assert not np.array_equal(image[0], image[1])
