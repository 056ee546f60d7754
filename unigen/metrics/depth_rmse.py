"""Depth RMSE: measures how well a depth-to-image model keeps the depth. Shapes: N items, H and W pixels."""

import torch
from torch import Tensor
from torch.nn import functional as F

from unigen.metrics.images import require_images
from unigen.metrics.pretrained import Pretrained


class DepthRMSE(Pretrained):
    """RMSE between the depth maps that an estimator predicts for output and truth, each map scaled to 8 bits.

    A map is the estimator's relative (inverse) depth, resized to H x W (bicubic), shifted and scaled to [0, 255] by its
    own least and greatest value, and rounded; a constant map is 0. Images enter with both sides about `size` pixels,
    as multiples of `multiple`, with their aspect ratio (Depth Anything V2: 518 and 14). VisualCloze reports such an
    RMSE and names neither the estimator nor the scaling: these are our choice.
    """

    name = "depth_rmse"
    architecture = "DepthAnythingForDepthEstimation"
    better = "lower"

    def __init__(self, model: str, size: int, multiple: int, download: bool) -> None:
        if multiple < 1 or size < multiple:
            raise ValueError(
                f"metric.depth_rmse: size={size} must be at least multiple={multiple}, which must be at least 1"
            )
        super().__init__(model, download)
        self.size, self.multiple = size, multiple

    @property
    def parameters(self) -> str:
        return (
            f"RMSE of 8-bit maps, each scaled by its own range; in at {self.size}, multiples of {self.multiple}, "
            "PIL bicubic, ImageNet mean and std; back bicubic"
        )

    @torch.no_grad()
    def depth(self, images_N3HW: Tensor) -> Tensor:
        """Return the depth maps (N, H, W) of uint8 images: whole numbers from 0 to 255 in fp32, on the CPU."""
        from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

        processor = DPTImageProcessorPil(
            size={"height": self.size, "width": self.size},
            keep_aspect_ratio=True,
            ensure_multiple_of=self.multiple,
            resample=3,
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        )
        images = [image.permute(1, 2, 0).numpy() for image in images_N3HW.cpu()]
        pixels = processor(images=images, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
        seen = self.model(pixel_values=pixels.to(self.model.device)).predicted_depth.float().cpu()
        maps = F.interpolate(seen[:, None], images_N3HW.shape[2:], mode="bicubic", align_corners=False)[:, 0]
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        return ((maps - low) / (high - low).clamp(min=1e-12) * 255).round()

    def __call__(self, output: Tensor, truth: Tensor) -> Tensor:
        """Return scores (N,)."""
        require_images(output, truth)
        return (self.depth(output) - self.depth(truth)).square().mean((1, 2)).sqrt()
