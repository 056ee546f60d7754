"""The folded autoencoder: its scale, and what may be kept of it."""

import pytest
import torch
from tiny import composed

from unigen.encoders.folded import FoldedVAE

SMALL = composed("encoder/codec=autoencoder_mini")["encoder"]["codec"]["config"]
SMALL |= {"block_out_channels": [8, 8], "norm_num_groups": 2}


def folded(**changes) -> FoldedVAE:
    torch.manual_seed(0)
    return FoldedVAE(SMALL | changes, fold=4)


def images(seed: int) -> torch.Tensor:
    """Stills in the codecs' range, (N, 1, 3, H, W)."""
    return torch.rand(6, 1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_normalised_latents_have_mean_0_and_variance_1():
    codec, x = folded(), images(0)
    before = codec.encode(x)
    assert abs(before.std() - 1) > 0.1, "negative control"
    pixels = codec.decode(before)
    codec.normalise(codec.posterior(x[:, 0]).mode())
    z = codec.encode(x)
    assert z.mean().abs() < 1e-5 and (z.std() - 1).abs() < 1e-5
    torch.testing.assert_close(codec.decode(z), pixels)  # decoding undoes the scale


def test_the_scale_travels_with_the_weights(tmp_path):
    codec, x = folded(), images(0)
    codec.normalise(codec.posterior(x[:, 0]).mode())
    codec.vae.save_pretrained(tmp_path / "vae")
    loaded = FoldedVAE(SMALL, fold=4, pretrained=str(tmp_path))
    assert torch.equal(loaded.encode(x), codec.encode(x))
    assert not torch.equal(folded().encode(x), codec.encode(x)), "negative control"


def test_encoding_has_no_randomness_and_no_autocast():
    codec, x = folded(), images(0)
    once = codec.encode(x, torch.Generator().manual_seed(1))
    assert torch.equal(once, codec.encode(x, torch.Generator().manual_seed(2)))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(once, codec.encode(x))


def test_channels_that_do_not_fit_the_fold_are_refused():
    with pytest.raises(ValueError, match=r"in_channels and out_channels are 3 and 48; with encoder.codec.fold 4 .* 48"):
        folded(in_channels=3)
