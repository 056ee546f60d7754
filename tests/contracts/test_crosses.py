"""Crosses of the two papers by command line alone: an experiment on the other backbone trains, exports and loads."""

import pytest
import torch
from small_runs import LORA, small, summary, train
from tiny import batch

from unigen import export

ON_FLUX = ["backbone=flux_mini", "backbone.config.num_single_layers=1", "backbone.config.axes_dims_rope=[4,6,6]"]
CROSSES = {
    "frames on Flux": ["+exp=fcd_mask_a", *ON_FLUX],
    "frames on Flux as a flow, LoRA": ["+exp=wo_fcd", *ON_FLUX, *LORA, "process=rectified_flow"],
}


def drawn(pipeline) -> torch.Tensor:
    return pipeline.sample(batch(size=2), seed=3)["target"]


@pytest.mark.parametrize("cross", CROSSES)
def test_a_cross_leaves_a_run_that_loads(cross, tmp_path):
    pipeline = train(small(tmp_path, *CROSSES[cross]))
    assert summary(tmp_path)["steps"] == 2
    loaded, _ = export.load(tmp_path / "export")
    assert torch.equal(drawn(loaded), drawn(pipeline))
    with torch.no_grad():
        loaded.backbone.model.proj_out.bias += 1
    assert not torch.equal(drawn(loaded), drawn(pipeline)), "negative control"
