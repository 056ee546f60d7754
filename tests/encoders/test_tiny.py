"""The codec of scenes: it begins as principal components, and its scale travels with its weights."""

import pytest
import torch
from tiny import composed

from unigen.core.canvas import to_unit
from unigen.encoders.patch import PatchPCA
from unigen.encoders.tiny import FoldedTiny

CONFIG = composed("encoder/codec=autoencoder_scenes")["encoder"]["codec"]["config"]
SMALL = {"latent_channels": 12, "encoder_block_out_channels": [32], "decoder_block_out_channels": [32]}


def made(blocks: int = 0, **changes) -> FoldedTiny:
    torch.manual_seed(0)
    return FoldedTiny(CONFIG | SMALL | {"num_encoder_blocks": [blocks]} | changes, fold=8, whiten=0.5, noise=0.005)


def images(count: int = 64, seed: int = 0) -> torch.Tensor:
    """Smooth random images, uint8 (N, 3, 32, 32)."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 255
    return torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear").round().to(torch.uint8)


@pytest.mark.parametrize("blocks", [0, 1])
def test_it_begins_as_the_principal_components(blocks):
    codec, pca = made(blocks), PatchPCA(12, 8, 0.5)
    x = to_unit(images())[:, None]
    before = (codec.decode(codec.encode(x)) - x).square().mean()
    codec.fit(images), pca.fit(images)
    best = (pca.decode(pca.encode(x)) - x).square().mean()
    found = (codec.decode(codec.encode(x)) - x).square().mean()
    assert found == pytest.approx(float(best), rel=0.1, abs=1e-4)  # the decoder's tanh is nearly a straight line
    assert before > 20 * best, "negative control"
    spread = codec.encode(x)[:, 0].movedim(1, -1).flatten(0, -2).std(0)
    assert float(spread.mean()) == pytest.approx(0.2, rel=0.01)


def test_a_fitted_codec_keeps_its_weights_and_its_scale_travels(tmp_path, caplog):
    codec, x = made(), to_unit(images(8, seed=1))[:, None]
    codec.fit(images)
    codec.normalise(codec.posterior(x[:, 0]).mode())
    z = codec.encode(x)
    assert z.mean().abs() < 1e-5 and (z.std() - 1).abs() < 1e-4
    codec.fit(lambda: images(seed=5))
    assert torch.equal(codec.encode(x), z)
    codec.vae.save_pretrained(tmp_path / "vae")
    loaded = FoldedTiny(CONFIG | SMALL, 8, 0.5, 0.005, 1, 12, str(tmp_path))
    loaded.fit(lambda: images(seed=5))
    assert torch.equal(loaded.encode(x), z) and not caplog.text
    assert not torch.equal(made().encode(x), z), "negative control"


def test_training_alone_adds_noise():
    codec, x = made(), to_unit(images(8))
    codec.fit(images)
    posterior = codec.posterior(x)
    assert torch.allclose(posterior.std, torch.tensor(0.005))
    again = codec.encode(x[:, None], torch.Generator().manual_seed(1))
    assert torch.equal(again, codec.encode(x[:, None], torch.Generator().manual_seed(2)))


def test_channels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"in_channels and out_channels are 3 and 192; with encoder.codec.fold 8"):
        made(in_channels=3)
    with pytest.raises(ValueError, match=r"decoder_block_out_channels is \[16\]; legal is one number of at least 24"):
        made(decoder_block_out_channels=[16])


def test_a_split_cell_is_the_same_latents_as_finer_cells():
    whole, parts = made(latent_channels=16), made(latent_channels=16)
    parts.split, parts.stride = 2, 4
    whole.fit(images), parts.fit(images)
    x = to_unit(images(4, seed=2))[:, None]
    z, finer = whole.encode(x), parts.encode(x)
    assert z.shape == (4, 1, 16, 4, 4) and finer.shape == (4, 1, 4, 8, 8)
    assert torch.equal(torch.nn.functional.pixel_unshuffle(finer[:, 0], 2), z[:, 0])
    assert torch.equal(parts.decode(finer), whole.decode(z))
    assert parts.channels == 4 and parts.identity != whole.identity
    shown = finer.clone()
    shown[:, :, :, :2, :2] += 3
    changed = (parts.decode(shown) - parts.decode(finer)).abs().amax((0, 1, 2))
    assert changed[:8, :8].min() > 0, "all pixels of its cell depend on it"


def test_a_split_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"encoder\.codec\.split is 3; it must divide fold \(8\)"):
        FoldedTiny(CONFIG | SMALL, 8, 0.5, 0.005, 3)
    with pytest.raises(
        ValueError, match=r"encoder\.codec\.channels is 12; 12 latent channels laid out as 2×2 cells make 3"
    ):
        FoldedTiny(CONFIG | SMALL, 8, 0.5, 0.005, 2, 12)
