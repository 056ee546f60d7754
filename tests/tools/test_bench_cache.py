"""The cache section at tiny shapes: what it compares is equal, and would not be for segments that are not static."""

import math
import sys

import pytest
from tiny import CONF, randomise, tiny

from unigen.pipeline.build import build_pipeline

sys.path.insert(0, str(CONF.parent))

import torch
from bench import composed

from unigen.tools.bench.cache import CASES, COLUMNS, Latents, cache_table, measured, random_images, rows_of_images
from unigen.tools.bench.turns import Effort

ONCE = Effort(torch.device("cpu"), rounds=1, limit=0.0)
FORMS = {case.exp: case for case in CASES}


def tiny_config(case, *overrides: str) -> dict:
    """The case at the tests' sizes."""
    own = [word for word in case.overrides if not word.startswith(("backbone.config", "data.size"))]
    config = tiny(f"+exp={case.exp}", *own, *overrides)
    config["data"]["size"] = 32
    return config


def figures(case, *overrides: str) -> tuple[dict, Latents]:
    pipeline = build_pipeline(tiny_config(case, *overrides))
    randomise(pipeline.backbone, 0.1)
    pipeline.solver.steps, pipeline.guidance = 1, pipeline.guidance.at(1.0)
    batch = random_images(rows_of_images(case.examples, 32), "canny>target")
    return dict(zip(COLUMNS[2:], measured(pipeline, batch, ONCE), strict=True)), pipeline


@pytest.mark.slow
def test_the_table_is_whole_and_its_differences_are_rounding():
    table = cache_table({case._replace(steps=2): tiny_config(case) for case in FORMS.values()}, ONCE)
    assert [row[0] for row in table.rows] == [case.name for case in FORMS.values() for _ in range(2)]
    for row in table.rows:
        cells = dict(zip(COLUMNS, row, strict=True))
        assert all(math.isfinite(x) and x >= 0 for x in row[1:]) and cells["steps"] == 2
        assert 0 < cells["of which static"] < cells["tokens"] and cells["difference"] < 1e-3
    assert [row[1] for row in table.rows[:2]] == [1.0, 6.0]


@pytest.mark.parametrize("exp", FORMS)
def test_what_is_static_is_the_clean_images(exp):
    found, _ = figures(FORMS[exp])
    images = 1 + 2 * FORMS[exp].examples
    assert found["of which static"] == 4 * images and found["difference"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("exp", FORMS)
def test_an_illegal_memory_would_show(exp, monkeypatch):
    """Negative control: under mask D nothing is static, and to keep the condition all the same changes the image."""
    found, _ = figures(FORMS[exp], "mask=fcd_d")
    assert found["of which static"] == 0 and found["difference"] == 0
    monkeypatch.setattr(Latents, "static", lambda self, layout: ("condition",))
    assert figures(FORMS[exp], "mask=fcd_d")[0]["difference"] > 1e-2


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_cases_compose(case):
    config = composed(case.exp, *case.overrides)
    assert config["mask"]["name"] == "fcd_b" and config["backbone"]["pretrained"] is None
    timing = config["conditioning"]["modulation"]["timing"]
    assert timing["condition"] == timing["example"] == "own" != timing["target"]
