"""Crosses of the two papers by command line alone: an experiment on another backbone trains, exports and loads."""

import pytest
import torch
from small_runs import LORA, small, summary, train
from tiny import batch

from unigen.pipeline import export

ON_FLUX = ["backbone=flux_mini", "backbone.config.num_single_layers=1", "backbone.config.axes_dims_rope=[4,6,6]"]
ON_WAN = ["backbone=wan_mini", "process=rectified_flow", "solver=euler_static"]
ON_QWEN = [
    "backbone=qwen_image_mini",
    "backbone.config.axes_dims_rope=[4,6,6]",
    "process=rectified_flow",
    "solver=euler_qwen_image",
]
CROSSES = {
    "frames on Flux": ["+exp=fcd_mask_a", *ON_FLUX],
    "frames on Wan": ["+exp=fcd_mask_b", *ON_WAN],
    "a grid on Wan, LoRA": ["+exp=cross_grid_cogvideox_fcd_a", *ON_WAN, *LORA],
    "frames on Qwen-Image, padding hidden": ["+exp=fcd_mask_c", *ON_QWEN, "encoder.text.mask_padding=true"],
    "frames on Flux as a flow, LoRA": ["+exp=fcd_mask_d", *ON_FLUX, *LORA, "process=rectified_flow"],
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
