"""Codecs: shapes, inverses, scaling as diffusers' pipelines do it, and that nothing random happens unasked."""

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    AutoencoderKLFlux2,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    Flux2KleinPipeline,
)
from tiny import choices, composed

from unigen.core.canvas import to_tokens
from unigen.encoders.patch import PatchPCA
from unigen.encoders.vae import CogVideoXVAE, Flux2VAE, HunyuanVideo15VAE, ImageVAE, QwenImageVAE, WanVAE
from unigen.pipeline.build import build

SMALL = {"block_out_channels": [8, 8, 16, 32, 64], "layers_per_block": 1, "norm_num_groups": 2}
SMALL_WAN = {"base_dim": 8, "decoder_base_dim": 8, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}


def codec(name: str):
    """A config's codec at a tiny size, without pretrained weights, and fitted where it can be."""
    torch.manual_seed(0)
    node = composed(f"encoder/codec={name}")["encoder"]["codec"]
    if "pretrained" in node:
        node["pretrained"] = None
    for key, value in {**SMALL, **SMALL_WAN}.items():
        if key in node.get("config", {}):
            depth = len(node["config"].get("block_out_channels", SMALL_WAN["dim_mult"]))
            node["config"][key] = value[:depth] if isinstance(value, list) else value
    made = build(node)
    made.fit(lambda: images(32))
    return made


def images(count: int, seed: int = 0) -> torch.Tensor:
    """Smooth random uint8 images (N, 3, 32, 48): few components explain them."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 6, generator=g)
    return (torch.nn.functional.interpolate(coarse, (32, 48), mode="bilinear") * 255).round().to(torch.uint8)


def unit(pixels_N3HW: torch.Tensor) -> torch.Tensor:
    """Stills, clips (N, 1, 3, H, W) of one frame, in the codecs' range."""
    return pixels_N3HW[:, None].float() / 127.5 - 1


@pytest.mark.parametrize("name", choices("encoder/codec"))
def test_shapes_are_what_stride_and_channels_say(name):
    c = codec(name)
    z = c.encode(unit(images(2)))
    assert z.shape == (2, 1, c.channels, 32 // c.stride, 48 // c.stride) and z.dtype == torch.float32
    assert c.decode(z).shape == (2, 1, 3, 32, 48)


@pytest.mark.parametrize("name", choices("encoder/codec"))
def test_means_are_deterministic_and_an_image_is_encoded_alone(name):
    c, x = codec(name), unit(images(3))
    assert torch.equal(c.encode(x), c.encode(x))
    torch.testing.assert_close(c.encode(x[1:2]), c.encode(x)[1:2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(c.decode(c.encode(x))[1:2], c.decode(c.encode(x[1:2])), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(c.encode(x)[0], c.encode(x)[1], atol=1e-3), "negative control"


@pytest.mark.parametrize("name", choices("encoder/codec"))
def test_nothing_of_a_codec_is_trained_but_by_fit(name):
    assert not [n for n, p in codec(name).named_parameters() if p.requires_grad]


@pytest.mark.parametrize(
    "name",
    ["cogvideox_vae", "flux_vae", "flux2_vae", "wan2_1_vae", "wan2_2_vae", "qwen_image_vae", "hunyuan_video1_5_vae"],
)
def test_a_generator_samples_the_posterior(name):
    c, x = codec(name), unit(images(1))
    a, b, other = (c.encode(x, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, other) and not torch.equal(a, c.encode(x))


@pytest.mark.parametrize(("name", "channels", "stride"), [("wan2_1_vae", 16, 8), ("wan2_2_vae", 48, 16)])
def test_wan_latents_are_normalised_by_channel_as_its_pipelines_do(name, channels, stride):
    """WanImageToVideoPipeline's way in, WanPipeline's way out; and a still is the first latent of a clip."""
    c, x = codec(name), unit(images(2))
    assert isinstance(c, WanVAE) and isinstance(c.vae, AutoencoderKLWan) and not c.vae.training
    assert (c.channels, c.stride) == (channels, stride)
    mean, std = (torch.tensor(c.vae.config[key]).view(1, -1, 1, 1, 1) for key in ("latents_mean", "latents_std"))
    with torch.no_grad():
        stock = c.vae.encode(x.transpose(1, 2)).latent_dist.mode()
        expected = (stock - mean) * (1.0 / std)
        torch.testing.assert_close(c.encode(x), expected.transpose(1, 2), rtol=1e-5, atol=1e-5)
        pixels = c.vae.decode(expected / (1.0 / std) + mean).sample.transpose(1, 2)
        torch.testing.assert_close(c.decode(expected.transpose(1, 2)), pixels, rtol=1e-4, atol=1e-4)
        assert pixels.shape[1] == 1 and not torch.allclose(c.decode(stock.transpose(1, 2)), pixels, atol=1e-3)
        clip = torch.cat([x[:1], x[1:].expand(-1, 4, -1, -1, -1)], dim=1)
        whole = c.vae.encode(clip.transpose(1, 2)).latent_dist.mode()
        torch.testing.assert_close(c.encode(clip), ((whole - mean) / std).transpose(1, 2), rtol=1e-5, atol=1e-5)
        assert whole.shape[2] == 2 and c.decode(c.encode(clip)).shape == clip.shape
        torch.testing.assert_close(whole[:, :, :1], stock[:1], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(whole[:, :, 1:], stock[1:], atol=1e-3), "a later latent is another thing"


@pytest.mark.parametrize("name", ["wan2_1_vae", "wan2_2_vae"])
def test_wans_published_normalisation_has_a_value_for_each_channel(name):
    config = composed(f"encoder/codec={name}")["encoder"]["codec"]["config"]
    stock = AutoencoderKLWan().config if name == "wan2_1_vae" else None
    for key in ("latents_mean", "latents_std"):
        assert len(config[key]) == config["z_dim"] and (stock is None or config[key] == list(stock[key]))


def test_flux2_latents_are_normalised_in_cells_as_its_pipeline_does():
    """Flux2KleinPipeline's way in and out; its cells of 2×2 latents have the order of our tokens' features."""
    c, x = codec("flux2_vae"), unit(images(2))
    assert isinstance(c, Flux2VAE) and isinstance(c.vae, AutoencoderKLFlux2) and not c.vae.training
    assert (c.channels, c.stride) == (32, 8)
    g = torch.Generator().manual_seed(3)
    c.vae.bn.running_mean.normal_(generator=g)
    c.vae.bn.running_var.uniform_(0.5, 2.0, generator=g)
    pipe = Flux2KleinPipeline(scheduler=None, vae=c.vae, text_encoder=None, tokenizer=None, transformer=None)
    with torch.no_grad():
        cells = pipe._encode_vae_image(x[:, 0], None)
        tokens = pipe._pack_latents(cells)
        torch.testing.assert_close(to_tokens(c.encode(x), (1, 2, 2)), tokens, rtol=1e-5, atol=1e-5)
        mean, std = (v.view(1, -1, 1, 1) for v in (c.vae.bn.running_mean, (c.vae.bn.running_var + 1e-4).sqrt()))
        pixels = c.vae.decode(pipe._unpatchify_latents(cells * std + mean)).sample
        torch.testing.assert_close(c.decode(c.encode(x))[:, 0], pixels, rtol=1e-4, atol=1e-4)
        before = c.encode(x)
        c.vae.train()
        c.encode(x)
        c.vae.eval()
        assert torch.equal(c.encode(x), before), "no call changes the statistics"
        c.vae.bn.running_var.mul_(4)
        assert not torch.allclose(c.encode(x), before, atol=1e-3), "negative control: they count"


def test_qwen_images_latents_are_wans_and_its_pipelines():
    """The same weights give the same numbers; QwenImageEditPlusPipeline's way in, QwenImagePipeline's way out."""
    c, wan, x = codec("qwen_image_vae"), codec("wan2_1_vae"), unit(images(2))
    assert isinstance(c, QwenImageVAE) and isinstance(c.vae, AutoencoderKLQwenImage) and not c.vae.training
    assert (c.channels, c.stride, c.temporal_stride) == (wan.channels, wan.stride, wan.temporal_stride) == (16, 8, 4)
    wan.vae.load_state_dict(c.vae.state_dict())
    assert torch.equal(c.encode(x), wan.encode(x)) and torch.equal(c.decode(c.encode(x)), wan.decode(c.encode(x)))
    mean, std = (torch.tensor(c.vae.config[key]).view(1, -1, 1, 1, 1) for key in ("latents_mean", "latents_std"))
    with torch.no_grad():
        raw = c.vae.encode(x.transpose(1, 2)).latent_dist.mode()
        torch.testing.assert_close(c.encode(x), ((raw - mean) / std).transpose(1, 2), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(c.encode(x), raw.transpose(1, 2), atol=1e-2), "negative control"
        pixels = c.vae.decode(raw)[0][:, :, 0]
        torch.testing.assert_close(c.decode(c.encode(x))[:, 0], pixels, rtol=1e-4, atol=1e-4)
    config = composed("encoder/codec=qwen_image_vae")["encoder"]["codec"]["config"]
    stock = AutoencoderKLQwenImage().config
    assert all(config[key] == list(stock[key]) for key in ("latents_mean", "latents_std", "dim_mult"))


def test_hunyuan_videos_latents_are_scaled_as_its_pipelines_do():
    """HunyuanVideo15ImageToVideoPipeline's way in, HunyuanVideo15Pipeline's way out; several clips, one by one."""
    c, x = codec("hunyuan_video1_5_vae"), unit(images(2))
    assert isinstance(c, HunyuanVideo15VAE) and isinstance(c.vae, AutoencoderKLHunyuanVideo15) and not c.vae.training
    assert (c.channels, c.stride, c.temporal_stride, c.clip_unit) == (32, 16, 4, 4)
    clip = torch.cat([x[:1], x[1:].expand(-1, 4, -1, -1, -1)], dim=1)
    with torch.no_grad():
        raw = c.vae.encode(clip.transpose(1, 2)).latent_dist.mode()
        torch.testing.assert_close(c.encode(clip), raw.transpose(1, 2) * 1.03682, rtol=1e-5, atol=1e-5)
        assert raw.shape[2] == 2 and not torch.allclose(c.encode(clip), raw.transpose(1, 2), atol=1e-3), "control"
        pixels = c.vae.decode(raw)[0].transpose(1, 2)
        torch.testing.assert_close(c.decode(c.encode(clip)), pixels, rtol=1e-4, atol=1e-4)
        assert pixels.shape == clip.shape
        torch.testing.assert_close(c.encode(x)[:1], c.encode(clip)[:, :1], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(c.encode(x)[1:], c.encode(clip)[:, 1:], atol=1e-3), "a later latent is another thing"
        c.vae.disable_slicing()
        with pytest.raises(RuntimeError):  # negative control: diffusers' mask of the middle attention has no heads
            c.encode(x)
    said = composed("encoder/codec=hunyuan_video1_5_vae")["encoder"]["codec"]["config"]
    with torch.device("meta"):
        stock = AutoencoderKLHunyuanVideo15()
    assert all(said[key] == (list(v) if isinstance(v := stock.config[key], tuple) else v) for key in said)
    assert sum(p.numel() for p in stock.parameters()) == 1_260_634_115


def test_cogvideox_latents_are_scaled_as_its_pipeline_does():
    c, x = codec("cogvideox_vae"), unit(images(2))
    assert isinstance(c, CogVideoXVAE) and isinstance(c.vae, AutoencoderKLCogVideoX) and not c.vae.training
    with torch.no_grad():
        c.vae.disable_slicing()
        stock = c.vae.encode(x.transpose(1, 2)).latent_dist.mode().transpose(1, 2)
        c.vae.enable_slicing()
        torch.testing.assert_close(c.encode(x), stock * 0.7)
        pixels = c.vae.decode(stock.transpose(1, 2)).sample.transpose(1, 2)
        torch.testing.assert_close(c.decode(stock * 0.7), pixels)
        assert not torch.allclose(c.decode(stock), pixels, atol=1e-4), "negative control"


def test_a_published_batch_is_encoded_at_the_published_size():
    """RealGeneral's 44 images of 512²; the shapes alone, on the meta device."""
    with torch.device("meta"):
        c, x = build(composed("encoder/codec=cogvideox_vae")["encoder"]["codec"]), torch.empty(44, 3, 1, 512, 512)
    assert c.vae.encode(x).latent_dist.parameters.shape == (44, 32, 1, 64, 64)
    c.vae.disable_slicing()
    with pytest.raises(RuntimeError):  # negative control: diffusers splits along a time that stills do not have
        c.vae.encode(x)


@pytest.mark.parametrize(("frames", "latent"), [(1, 1), (9, 3), (17, 5)])
def test_a_clip_is_encoded_as_its_own_model_encodes_it(frames, latent):
    """1 + 8 n frames. A still of the clip is encoded otherwise than the clip, of which it is a part."""
    c, x = codec("cogvideox_vae"), unit(images(frames)).transpose(0, 1)
    with torch.no_grad():
        stock = c.vae.encode(x.transpose(1, 2)).latent_dist.mode().transpose(1, 2)
    assert c.encode(x).shape[1] == latent and torch.equal(c.encode(x), stock * 0.7)
    assert c.decode(c.encode(x)).shape == x.shape
    assert c.temporal_stride * (latent - 1) == frames - 1 and (frames - 1) % c.clip_unit == 0
    if frames > 1:
        alone = torch.cat([c.encode(x[:, i : i + 1]) for i in range(0, frames, 4)], dim=1)
        assert not torch.allclose(alone, c.encode(x), atol=1e-3), "negative control: stills one by one"


def test_a_codec_of_images_encodes_the_frames_of_a_clip_one_by_one():
    c, x = codec("flux_vae"), unit(images(3)).transpose(0, 1)
    assert torch.equal(c.encode(x)[0], c.encode(x.transpose(0, 1))[:, 0])
    assert not torch.equal(c.encode(x)[0], c.encode(x.transpose(0, 1)).flip(0)[:, 0]), "negative control"


def test_flux_latents_are_shifted_and_scaled_as_its_pipeline_does():
    c, x = codec("flux_vae"), unit(images(2))
    assert isinstance(c, ImageVAE) and isinstance(c.vae, AutoencoderKL) and not c.vae.training
    with torch.no_grad():
        stock = c.vae.encode(x[:, 0]).latent_dist.mode()
        torch.testing.assert_close(c.encode(x)[:, 0], (stock - 0.1159) * 0.3611)
        shown = c.decode((stock[:, None] - 0.1159) * 0.3611)[:, 0]
        torch.testing.assert_close(shown, c.vae.decode(stock).sample)
        assert not torch.allclose(c.decode(stock[:, None])[:, 0], shown, atol=1e-4), "negative control"


# --- PCA --------------------------------------------------------------------------------------------------------


def pca(whiten: float = 0.5, channels: int = 16) -> PatchPCA:
    made = PatchPCA(channels, 8, whiten)
    made.fit(lambda: images(64))
    return made


def test_pca_equals_numpy_on_the_patches():
    made, x = pca(), unit(images(64))
    rows = torch.nn.functional.unfold(x[:, 0], 8, stride=8).movedim(1, -1).reshape(-1, 192).double()
    centred = rows - rows.mean(0)
    best = torch.linalg.svd(centred, full_matrices=False).Vh[:16]
    residual = (centred - centred @ best.T @ best).square().mean()
    found = (made.decode(made.encode(x)) - x).square().mean()
    torch.testing.assert_close(found.double(), residual, rtol=1e-3, atol=1e-9)
    worse = (pca(channels=8).decode(pca(channels=8).encode(x)) - x).square().mean()
    assert worse > 1.5 * found, "negative control: half of the components lose more"


def test_encoding_undoes_decoding_and_all_components_lose_nothing():
    made = pca()
    z = torch.randn(2, 1, 16, 4, 6)
    torch.testing.assert_close(made.encode(made.decode(z)), z, rtol=1e-3, atol=1e-4)
    whole, x = pca(channels=192), unit(images(4, seed=9))
    torch.testing.assert_close(whole.decode(whole.encode(x)), x, rtol=1e-3, atol=1e-3)


def test_whitening_sets_the_spread_of_the_channels():
    x = unit(images(64))
    stds = {w: pca(w).encode(x)[:, 0].movedim(1, -1).flatten(0, -2).std(0) for w in (0.0, 0.5, 1.0)}
    torch.testing.assert_close(stds[1.0], torch.ones(16), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(stds[0.0].square().mean().sqrt(), torch.tensor(1.0), rtol=1e-2, atol=1e-2)
    assert stds[0.0].max() > stds[0.5].max() > stds[1.0].max()


def test_a_fitted_codec_keeps_its_fit_and_travels_in_the_state_dict():
    made = pca()
    before = made.components.clone()
    made.fit(lambda: images(64, seed=5))
    assert torch.equal(made.components, before)
    copy = PatchPCA(16, 8, 0.5)
    copy.load_state_dict(made.state_dict())
    x = unit(images(2))
    assert torch.equal(copy.encode(x), made.encode(x)) and bool(copy.fitted)
    assert not torch.equal(PatchPCA(16, 8, 0.5).encode(x), made.encode(x)), "negative control"


def test_the_fit_is_the_same_for_shuffled_images():
    """Component signs are fixed by rule, so two machines agree on what a latent means."""
    a, b = PatchPCA(4, 8, 0.5), PatchPCA(4, 8, 0.5)
    a.fit(lambda: images(64)), b.fit(lambda: images(64).flip(0))
    torch.testing.assert_close(a.components, b.components, rtol=1e-3, atol=1e-4)
