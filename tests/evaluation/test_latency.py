"""How long an image takes: what is measured, and which of several settings is told."""

import time

import pytest
import torch

from unigen.core.types import Batch
from unigen.evaluation.costs import latency
from unigen.evaluation.latency import Draw, sampling, timed_sample


class Slow:
    device = torch.device("cpu")

    def sample(self, batch, seed):
        time.sleep(0.05)
        return {"target": seed}


def test_a_draw_is_wall_seconds_an_image():
    outputs, took = timed_sample(Slow(), Batch((), {}, [""] * 5, [()] * 5, [""] * 5), seed=3)
    assert outputs == {"target": 3} and took.together == 5 and took.device == "CPU, 1 threads"
    assert 0.01 <= took.seconds < 0.05, "of one image, not of the batch"


def test_the_most_usual_setting_counts_by_its_median():
    draws = [Draw(9.0, 8, "a"), *(Draw(s, 8, "a") for s in (1.0, 3.0)), Draw(0.1, 2, "a"), Draw(0.2, 8, "b")]
    assert sampling(draws) == {"seconds_per_image": 3.0, "batch_size": 8, "device": "a"}
    assert sampling([]) == {} and sampling(draws[3:4])["batch_size"] == 2, "negative control"


@pytest.mark.parametrize("name", ["seconds_per_image", "seconds_per_picture"])
def test_the_seconds_of_older_runs_are_read(name):
    _, get, _ = latency("blur", "8", "a")
    said = {name: 0.5, "batch_size": 8, "device": "a"}
    assert get({"sampling": {"blur": said}}) == 0.5
    assert get({"sampling": {"blur": said | {"device": "b"}}}) is None, "measured elsewhere"
