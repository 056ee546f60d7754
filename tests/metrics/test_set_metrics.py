"""FID and KID against torchmetrics with the same features, LPIPS against its own, and what is absent."""

from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
from tiny_judge import CLIP, VISION
from torch import nn
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from unigen.metrics import mini
from unigen.metrics.judge import Judge
from unigen.metrics.lpips import LPIPS
from unigen.metrics.mini import MiniKID
from unigen.metrics.quality import MANIQA, MUSIQ
from unigen.metrics.sets import FID, KID, Inception
from unigen.weights.loading import Unavailable

pytestmark = pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")  # keeps features, as it says


class Colours(nn.Module):
    """Features: the mean and the spread of each channel."""

    num_features = 6

    def forward(self, images):
        x = images.double() / 255
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], dim=1).float()


class Extractor:
    protocol = {"features": "colours", "model": "none"}

    def network(self):
        return Colours()


def images(n: int, seed: int, brightest: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    tops = torch.randint(2, brightest, (n, 3, 1, 1), generator=generator)
    return (torch.rand(n, 3, 16, 16, generator=generator) * tops).byte()


class Lazy:
    """Images that are never all together."""

    def __init__(self, held):
        self.held = held

    def __len__(self):
        return len(self.held)

    def __getitem__(self, part):
        assert part.stop - part.start <= 16
        return self.held[part]


def test_fid_equals_torchmetrics_over_the_whole_set():
    output, truth = images(40, 0, 200), images(40, 1)
    theirs = FrechetInceptionDistance(feature=Colours(), normalize=False)
    theirs.update(truth, real=True)
    theirs.update(output, real=False)
    ours = FID(Extractor())(Lazy(output), Lazy(truth))
    torch.testing.assert_close(ours, theirs.compute())
    features = [Colours()(x).double() for x in (output, truth)]
    means, covs = [x.mean(0) for x in features], [torch.cov(x.T) for x in features]
    root = torch.linalg.eigvals(covs[0] @ covs[1]).sqrt().real.sum()
    by_hand = (means[0] - means[1]).square().sum() + covs[0].trace() + covs[1].trace() - 2 * root
    assert float(ours) == pytest.approx(float(by_hand), rel=1e-3) and ours > 1e-3
    assert abs(FID(Extractor())(truth, truth)) < 1e-5 and FID(Extractor())(truth, truth[:20]) > 1e-5


def test_kid_equals_torchmetrics_and_is_the_same_again():
    output, truth = images(40, 0, 200), images(40, 1)
    ours = KID(Extractor(), subsets=7, subset_size=20)
    theirs = KernelInceptionDistance(feature=Colours(), subsets=7, subset_size=20)
    theirs.update(truth, real=True)
    theirs.update(output, real=False)
    torch.manual_seed(0)
    first = ours(Lazy(output), Lazy(truth))
    torch.testing.assert_close(first, theirs.compute()[0])
    before = torch.get_rng_state()
    assert ours(output, truth) == first and torch.equal(before, torch.get_rng_state())
    assert first > 10 * abs(ours(images(40, 2), truth)), "another draw of the same images is much nearer"


def test_the_mini_kid_is_kid_in_the_judges_features(tmp_path):
    torch.manual_seed(1)
    Judge(CLIP, VISION).save(tmp_path)
    ours = MiniKID(str(tmp_path), subsets=3, subset_size=20)
    output, truth = images(24, 0, 200), images(24, 1)
    theirs = KernelInceptionDistance(feature=mini._Judged(str(tmp_path), "k"), subsets=3, subset_size=20)
    theirs.update(truth, real=True)
    theirs.update(output, real=False)
    torch.manual_seed(0)
    torch.testing.assert_close(ours(output, truth), theirs.compute()[0])
    assert "SHA-256" in ours.protocol["model"] and ours.protocol["parameters"].startswith("3 subsets of 20")
    assert KID(Extractor(), 3, 20)(output, truth) != ours(output, truth)
    features = mini._Judged(str(tmp_path), "k")(truth)
    cosines = nn.functional.normalize(features) @ nn.functional.normalize(features).T
    torch.testing.assert_close(features @ features.T / features.shape[1], cosines)


def test_too_few_images_have_no_distance():
    with pytest.raises(Unavailable, match="needs two images of each, got 1"):
        FID(Extractor())(images(1, 0), images(1, 1))
    with pytest.raises(Unavailable, match=r"there are 5 images, and metric\.kid.subset_size=20"):
        KID(Extractor(), 3, 20)(images(5, 0), images(5, 1))
    with pytest.raises(ValueError, match="subset_size=1"):
        KID(Extractor(), 3, 1)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch's hub folder with untrained weights of torchvision's squeezenet."""
    from torchvision.models import squeezenet1_1

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(3)
    torch.save(squeezenet1_1().state_dict(), folder / "squeezenet1_1-b8a52dc0.pth")
    return folder


def test_lpips_equals_torchmetrics(hub):
    output, truth = images(3, 0).repeat(1, 1, 2, 2), images(3, 1).repeat(1, 1, 2, 2)
    ours = LPIPS("squeeze", download=False)
    unit = [x.double().float() / 127.5 - 1 for x in (output, truth)]
    alone = [learned_perceptual_image_patch_similarity(a[None], b[None], "squeeze") for a, b in zip(*unit, strict=True)]
    scores = ours(output, truth)
    torch.testing.assert_close(scores, torch.stack(alone).flatten(), rtol=1e-4, atol=1e-6)
    assert scores.shape == (3,) and len(set(scores.tolist())) == 3 and ours(truth, truth).abs().max() < 1e-6
    assert "squeeze, SHA-256" in ours.protocol["model"]


def test_a_network_that_is_not_there_is_named(hub):
    with pytest.raises(Unavailable, match=r"alexnet-owt-.*\.pth is not there; .*metric.lpips.download=true"):
        LPIPS("alex", download=False)(images(1, 0), images(1, 1))
    with pytest.raises(ValueError, match="net=resnet is unknown: it must be one of alex, vgg, squeeze"):
        LPIPS("resnet", download=False)


def installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


@pytest.mark.parametrize(
    ("metric", "library", "said"),
    [
        (FID(Inception(None)), "torch-fidelity", r"unigen\[fid\]"),
        (KID(Inception(None), 100, 1000), "torch-fidelity", r"unigen\[fid\]"),
        (MUSIQ(None), "pyiqa", r"unigen\[quality\].*non-commercial"),
        (MANIQA(None), "pyiqa", r"unigen\[quality\].*non-commercial"),
    ],
)
def test_a_library_that_is_not_there_is_named(metric, library, said, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(Unavailable, match="is not there|weights=" if installed(library) else said):
        dict(metric.protocol)
    assert metric.better == ("higher" if library == "pyiqa" else "lower")
