"""Pixel metrics against independent numpy versions of their formulas."""

import math

import cv2
import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from unigen.metrics.pixels import PSNR, RMSE, SSIM, CannyF1

METRICS = [SSIM(sigma=1.5), PSNR(), RMSE(), CannyF1(low=100, high=200)]


def shapes(n: int, seed: int) -> torch.Tensor:
    """Images with edges: a few filled boxes on a coloured ground."""
    rng = np.random.default_rng(seed)
    images = np.empty((n, 3, 48, 56), np.uint8)
    for image in images:
        image[:] = rng.integers(0, 256, (3, 1, 1))
        for _ in range(4):
            y, x, size = rng.integers(0, 40), rng.integers(0, 40), rng.integers(5, 16)
            image[:, y : y + size, x : x + size] = rng.integers(0, 256, (3, 1, 1))
    return torch.from_numpy(images)


def ssim_numpy(a: np.ndarray, b: np.ndarray, sigma: float, border: str | None = None) -> float:
    """Wang et al. 2004: windowed moments by explicit sums, averaged over pixels: the valid ones, or `border` padded."""
    radius = int(3.5 * sigma + 0.5)
    line = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    window = np.outer(line, line) / line.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for p, q in zip(a.astype(np.float64), b.astype(np.float64)):
        if border:
            p, q = (np.pad(x, radius, mode=border) for x in (p, q))
        p, q = (np.lib.stride_tricks.sliding_window_view(x, window.shape) for x in (p, q))
        mp, mq, pp, qq, pq = ((x * window).sum((-2, -1)) for x in (p, q, p * p, q * q, p * q))
        vp, vq, cov = pp - mp**2, qq - mq**2, pq - mp * mq
        values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(values))


def ssim_skimage(a: np.ndarray, b: np.ndarray, sigma: float) -> float:
    """skimage with the options under which its documentation says that it matches Wang et al. 2004."""
    return structural_similarity(
        a, b, gaussian_weights=True, sigma=sigma, use_sample_covariance=False, data_range=255, channel_axis=0
    )


def f1_numpy(a: np.ndarray, b: np.ndarray) -> float:
    edges = [cv2.Canny(cv2.cvtColor(x.transpose(1, 2, 0).copy(), cv2.COLOR_RGB2GRAY), 100, 200) == 255 for x in (a, b)]
    hits = (edges[0] & edges[1]).sum()
    precision, recall = hits / max(edges[0].sum(), 1), hits / max(edges[1].sum(), 1)
    return float(2 * precision * recall / (precision + recall)) if hits else 0.0


def close_pair() -> tuple[torch.Tensor, torch.Tensor]:
    truth = shapes(3, 0)
    noise = torch.randint(-30, 31, truth.shape, generator=torch.Generator().manual_seed(0))
    return (truth.int() + noise).clamp(0, 255).to(torch.uint8), truth


@pytest.mark.parametrize("sigma", [1.5, 1.0, 3.0, 0.1])
def test_ssim_equals_skimage_and_the_formula(sigma):
    output, truth = close_pair()
    scores = SSIM(sigma=sigma)(output, truth)
    for reference in (ssim_numpy, ssim_skimage):
        expected = [reference(a, b, sigma) for a, b in zip(output.numpy(), truth.numpy())]
        torch.testing.assert_close(scores.double(), torch.tensor(expected), rtol=0, atol=1e-7, check_dtype=False)
    assert abs(SSIM(sigma=sigma + 0.5)(output, truth)[0] - scores[0]) > 1e-3, "the window would not matter"


def test_ssim_counts_no_reflected_border():
    output, truth = close_pair()
    scores = SSIM(sigma=1.5)(output, truth)
    reflected = torch.tensor([ssim_numpy(a, b, 1.5, border="reflect") for a, b in zip(output.numpy(), truth.numpy())])
    assert ((scores - reflected).abs() > 1e-3).all(), "the test would not tell one from the other"
    assert "valid region alone" in SSIM(sigma=1.5).protocol["parameters"], "former numbers would share its column"
    assert SSIM(sigma=1.5).window == 11


def test_ssim_of_images_as_large_as_the_window_is_one_value():
    output, truth = (x[..., :11, :11] for x in close_pair())
    scores = SSIM(sigma=1.5)(output, truth)
    expected = [ssim_numpy(a, b, 1.5) for a, b in zip(output.numpy(), truth.numpy())]
    torch.testing.assert_close(scores.double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-7)


def test_psnr_and_rmse_equal_numpy():
    output, truth = close_pair()
    mse = ((output.numpy().astype(np.float64) - truth.numpy()) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(RMSE()(output, truth), torch.from_numpy(np.sqrt(mse)).float())
    torch.testing.assert_close(PSNR()(output, truth), torch.from_numpy(10 * np.log10(255**2 / mse)).float())
    assert abs(math.sqrt(mse.mean()) - RMSE()(output, truth)[0]) > 1e-3, "a score over the batch would pass"


def test_canny_f1_equals_numpy():
    output, truth = shapes(6, 1), shapes(6, 2)
    output[:3, :, 12:] = truth[:3, :, 12:]
    scores = CannyF1(low=100, high=200)(output, truth)
    expected = [f1_numpy(a, b) for a, b in zip(output.numpy(), truth.numpy())]
    torch.testing.assert_close(scores, torch.tensor(expected), rtol=1e-6, atol=1e-6)
    assert (scores[:3] > 0.3).all() and (scores[:3] < 1).all(), "the images must agree in part"


def test_canny_f1_has_no_tolerance():
    truth = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    truth[..., 12:28, 12:28] = 255
    f1 = CannyF1(low=100, high=200)
    assert f1(truth, truth).item() == 1
    assert f1(truth.roll((3, 3), dims=(2, 3)), truth).item() < 0.2


def test_canny_f1_of_empty_edge_maps():
    f1 = CannyF1(low=100, high=200)
    flat, busy = torch.full((1, 3, 48, 56), 90, dtype=torch.uint8), shapes(1, 1)
    assert f1(flat, flat + 40).item() == 1
    assert f1(flat, busy).item() == f1(busy, flat).item() == 0


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_scores_are_per_item_and_point_the_stated_way(metric):
    output, truth = close_pair()
    scores, perfect = metric(output, truth), metric(truth, truth)
    assert scores.shape == perfect.shape == (3,)
    alone = torch.cat([metric(output[i : i + 1], truth[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(scores, alone)
    assert len(set(scores.tolist())) == 3
    assert ((perfect > scores) if metric.better == "higher" else (perfect < scores)).all()
    assert perfect[0].item() == {"ssim": pytest.approx(1), "psnr": math.inf, "rmse": 0, "canny_f1": 1}[metric.name]
    assert set(metric.protocol) == {"library", "version", "parameters"}
    assert all(isinstance(v, str) and v for v in metric.protocol.values())


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_wrong_input_is_refused(metric):
    image = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert metric(image, image).shape == (2,)
    with pytest.raises(ValueError, match="uint8"):
        metric(image.float(), image)
    with pytest.raises(ValueError, match="uint8"):
        metric(image, image[0])
    with pytest.raises(ValueError, match="differ in shape"):
        metric(image, image[:1])


def test_ssim_refuses_images_smaller_than_its_window():
    small = torch.zeros(1, 3, 10, 32, dtype=torch.uint8)
    with pytest.raises(ValueError, match="at least 11 pixels"):
        SSIM(sigma=1.5)(small, small)
