"""A cache changes how often frozen encoders are asked, and no loss: exact storage is exact to the bit."""

import warnings

import pytest
import torch
from codec_pipelines import pipeline
from small_runs import log, small, train
from tiny import batch, composed, randomise, tiny

from unigen.cache.files import shards
from unigen.cache.store import Cache, StrictCache, clip_key, fingerprint, ids_key, open_cache
from unigen.config.values import same_run
from unigen.core import noise
from unigen.pipeline.build import build, build_learner

CODECS = ("patch_pca", "autoencoder_mini", "flux_vae", "cogvideox_vae")
SAMPLING = ("flux_vae", "cogvideox_vae")


def shown(step: int):
    """Three samples; the second step shows one image that is new beside five known ones, the third none."""
    few = batch(3)
    if step == 1:
        few.images["target"][0] ^= 3
    return few


def losses(made, seed: int = 0) -> list[float]:
    """Three training steps."""
    sgd, found = torch.optim.SGD(made.backbone.parameters(), lr=0.1), []
    for step in range(3):
        loss, _ = made.training_loss(shown(step), noise.generator(seed, "train", step, 0))
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        found.append(float(loss.detach()))
    if made.cache is not None:
        made.cache.flush()
    return found


def counts(made) -> tuple[int, int]:
    """(images, prompts) that were encoded."""
    return tuple(made.cache.shelf(encoder).made for encoder in (made.codec, made.text))


# --- equality --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_training_with_a_cache_is_training_without_one(codec, tmp_path):
    without = losses(pipeline(codec))
    filling, reading = (pipeline(codec, Cache(tmp_path)) for _ in range(2))
    assert losses(filling) == without
    assert counts(filling)[0] == 7, "six pictures and a changed one"
    assert losses(reading) == without and counts(reading) == (0, 0)
    assert losses(pipeline(codec, Cache(tmp_path)), seed=1) != without, "negative control: another seed"


@pytest.mark.parametrize(("codec", "sizes"), [("flux_vae", [3, 3, 3]), ("autoencoder_mini", [3, 3, 1])])
def test_a_new_image_among_known_ones_is_encoded_as_without_a_cache(codec, sizes, tmp_path, monkeypatch):
    """In a batch of the same size, because kernels round other sizes in other ways."""
    made, asked = pipeline(codec, Cache(tmp_path)), []
    moments = made.codec.moments
    monkeypatch.setattr(made.codec, "moments", lambda x: (asked.append(len(x)), moments(x))[1])
    tokens = [made.encode(shown(step), {}).features["target"] for step in (0, 1)]
    assert asked == sizes and counts(made)[0] == 7
    assert torch.equal(tokens[0][1:], tokens[1][1:]) and not torch.equal(tokens[0][0], tokens[1][0])


@pytest.mark.parametrize("codec", ["autoencoder_mini", "flux_vae"])
def test_changed_weights_never_meet_old_entries(codec, tmp_path):
    """Also when they change in place, under a cache that has seen the encoder."""
    old = losses(pipeline(codec, Cache(tmp_path)))
    changed = pipeline(codec, Cache(tmp_path))
    changed.encode(shown(0), {})
    randomise(changed.codec, std=0.05)
    plain = pipeline(codec)
    randomise(plain.codec, std=0.05)
    new = losses(changed)
    assert new == losses(plain) and new != old
    assert counts(changed)[0] == 7


@pytest.mark.parametrize("codec", CODECS)
def test_moments_do_not_depend_on_the_precision_of_training(codec):
    made, x = pipeline(codec).codec, torch.rand(2, 1, 3, 32, 48) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.nn.functional.conv2d(x[:, 0], torch.ones(3, 3, 1, 1)).dtype == torch.bfloat16, "negative control"
        within = made.moments(x)
    assert within.dtype == torch.float32 and torch.equal(within, made.moments(x))


@pytest.mark.parametrize("codec", SAMPLING)
def test_a_kept_posterior_is_sampled_anew(codec, tmp_path):
    made, x = pipeline(codec, Cache(tmp_path)), batch(2)
    tokens = [made.encode(x, {}, torch.Generator().manual_seed(seed)).features["target"] for seed in (0, 0, 1)]
    assert torch.equal(tokens[0], tokens[1]) and not torch.equal(tokens[0], tokens[2])
    assert counts(made)[0] == 4
    unit = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    five_d = unit[:, :, None] if codec == "cogvideox_vae" else unit
    with torch.no_grad():
        stock = made.codec.vae.encode(five_d).latent_dist.sample(torch.Generator().manual_seed(3))
    ours = made.codec.encode(unit[:, None], torch.Generator().manual_seed(3))
    shift = made.codec.vae.config.get("shift_factor") or 0.0
    assert torch.equal(ours, (stock.view(ours.shape) - shift) * made.codec.vae.config.scaling_factor)


@pytest.mark.parametrize("lossy", ["bfloat16", "float16"])
def test_rounded_storage_changes_losses_but_not_between_filling_and_reading(lossy, tmp_path):
    exact = losses(pipeline("flux_vae", Cache(tmp_path)))
    filling, reading = (losses(pipeline("flux_vae", Cache(tmp_path, lossy))) for _ in range(2))
    assert filling == reading != exact
    assert filling == pytest.approx(exact, rel=0.05)


def test_values_that_cannot_be_kept_are_refused(tmp_path):
    made = pipeline("flux_vae", Cache(tmp_path, "float16"))
    with torch.no_grad():
        made.codec.vae.encoder.conv_out.bias.fill_(1e6)
    with pytest.raises(ValueError, match="not finite in float16; use bfloat16"):
        made.encode(shown(0), {})
    made.cache = Cache(tmp_path, "bfloat16")
    made.encode(shown(0), {})


def test_arms_of_an_ablation_share_entries(tmp_path):
    losses(pipeline("autoencoder_mini", Cache(tmp_path)))
    other = pipeline("autoencoder_mini", Cache(tmp_path))
    other.mask, other.dropout = build(composed("mask=fcd_b")["mask"]), {"text": 0.5}
    assert losses(other) != losses(pipeline("autoencoder_mini"))
    assert counts(other)[0] == 0


# --- addresses -------------------------------------------------------------------------------------------------


def test_an_address_is_the_content():
    x = torch.arange(72, dtype=torch.uint8).view(3, 4, 6)
    changed = x.clone()
    changed[0, 0, 0] ^= 1
    assert clip_key(x) == clip_key(x.clone().transpose(1, 2).contiguous().transpose(1, 2))
    assert len({clip_key(y) for y in (x, changed, x.view(3, 6, 4))}) == 3
    assert len({ids_key(ids) for ids in ((1, 2), (12,), (1, 2, 0))}) == 3


def test_a_fingerprint_knows_weights_identity_and_storage():
    made = pipeline("autoencoder_mini")
    first = fingerprint(made.codec)
    assert first == fingerprint(pipeline("autoencoder_mini").codec), "it does not depend on the object"
    made.codec.vae.register_to_config(_name_or_path="elsewhere")
    assert fingerprint(made.codec) == first, "nor on where the weights were"
    others = [fingerprint(made.codec, "bfloat16")]
    made.codec.vae.register_to_config(act_fn="gelu")
    others.append(fingerprint(made.codec))
    made.codec.vae.register_to_config(act_fn="silu")
    with torch.no_grad():
        made.codec.vae.encoder.conv_in.bias[0] += 1e-7
    others.append(fingerprint(made.codec))
    assert len({first, *others}) == 4
    made.text.model.config.num_heads += 1
    assert fingerprint(made.text) != fingerprint(pipeline("autoencoder_mini").text)


# --- in a run --------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_costs_a_warning_and_no_loss(tmp_path, full_disk):
    made, without = pipeline("flux_vae", Cache(tmp_path)), losses(pipeline("flux_vae"))
    wide = batch(2)
    wide.images = {name: x.repeat(1, 1, 1, 4, 8) for name, x in wide.images.items()}
    wide.slots = tuple(slot._replace(height=128, width=384) for slot in wide.slots)
    made.encode(wide, {})
    with pytest.warns(UserWarning, match="could not be written: File too large"):
        made.cache.flush()
    assert isinstance(made.cache.refused, OSError) and not shards(made.cache.shelf(made.codec).folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = losses(made)
    assert found == pytest.approx(without, rel=1e-6), "the VAE rounds otherwise in batches of other sizes"
    assert losses(pipeline("flux_vae"), seed=1) != pytest.approx(without, rel=1e-6), "negative control"
    made.cache = StrictCache(tmp_path)
    made.encode(wide, {})
    with pytest.raises(OSError, match="could not be written"):
        made.cache.flush()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cache": None, "cache_lossy": "bfloat16"}, "there is no cache"),
        ({"cache": 3, "cache_lossy": None}, "must be a folder or null"),
        ({"cache": __file__, "cache_lossy": None}, "is a file"),
        ({"cache": "x", "cache_lossy": "int8"}, "cache_lossy is 'int8'"),
    ],
)
def test_what_is_no_cache_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        open_cache(given)


def test_no_cache_is_the_default_and_opening_one_makes_nothing(tmp_path):
    assert open_cache(composed()) is None and build_learner(tiny()).pipeline.cache is None
    config = tiny() | {"cache": str(tmp_path / "kept")}
    assert build_learner(config).pipeline.cache.folder == tmp_path / "kept"
    assert list(tmp_path.iterdir()) == []


def test_whole_runs_agree(tmp_path):
    """Through Lightning, with validation, samples and metrics; the folder may change when a run is resumed."""
    plain, filling, reading = (tmp_path / name for name in ("plain", "filling", "reading"))
    line = ("encoder/codec=autoencoder_mini", "evaluation.items=2", "trainer.log_every_n_steps=1")
    kept = f"cache={tmp_path / 'kept'}"
    train(small(plain, *line))
    train(small(filling, *line, kept))
    last = train(small(reading, *line, kept))
    assert last.cache.shelf(last.codec).made == 0 < last.cache.shelf(last.codec).read
    curves = [
        [(x.get("train/loss"), x.get("val/loss"), x.get("test/psnr")) for x in log(folder)]
        for folder in (plain, filling, reading)
    ]
    assert curves[0] == curves[1] == curves[2] and all(any(column) for column in zip(*curves[0], strict=True))
    same_run(reading, small(reading, *line, "cache=elsewhere"))
    with pytest.raises(ValueError, match="cache_lossy"):
        same_run(reading, small(reading, *line, kept, "cache_lossy=bfloat16"))
