"""Pretrained weights: absent ones are one sentence, and shapes alone need none."""

from contextlib import nullcontext

import pytest
import torch
from diffusers import AutoencoderKL

from unigen.training import consolidation
from unigen.weights.loading import Unavailable, check_finite, load_pretrained


def test_missing_weights_name_the_source_and_the_config_key(tmp_path):
    source = str(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=r"is not there \(config key encoder.codec.pretrained\): set .*=<folder>"
    ) as caught:
        load_pretrained(AutoencoderKL, source, "encoder.codec.pretrained", "vae")
    assert source in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer and not the file"),
        ("<!DOCTYPE html><html></html>", "is a web page"),
        ("no weights", "cannot be loaded"),  # negative control
    ],
)
@pytest.mark.parametrize("subfolder", [None, "vae"])
def test_what_lies_in_place_of_weights_is_said(content, said, subfolder, tmp_path):
    config = {"block_out_channels": (4,), "norm_num_groups": 2, "layers_per_block": 1}
    folder = tmp_path / (subfolder or "")
    AutoencoderKL(**config).save_pretrained(folder)
    file = folder / "diffusion_pytorch_model.safetensors"
    file.write_text(content)
    with pytest.raises(Unavailable) as caught:
        load_pretrained(AutoencoderKL, str(tmp_path), "encoder.codec.pretrained", subfolder)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert (f"{file} is a" in str(caught.value)) == (content != "no weights")


def test_nothing_is_read_for_null_or_on_the_meta_device(tmp_path):
    assert load_pretrained(AutoencoderKL, None, "k") is None
    with torch.device("meta"):
        assert load_pretrained(AutoencoderKL, str(tmp_path / "nowhere"), "k") is None


def test_a_saved_model_is_read_back(tmp_path):
    config = {"block_out_channels": (4,), "norm_num_groups": 2, "layers_per_block": 1}
    stock = AutoencoderKL(**config)
    stock.save_pretrained(tmp_path / "vae")
    found = load_pretrained(AutoencoderKL, str(tmp_path), "k", "vae")
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), stock.parameters(), strict=True))
    assert not torch.equal(AutoencoderKL(**config).encoder.conv_in.weight, stock.encoder.conv_in.weight), (
        "negative control"
    )


def test_shipped_weights_are_a_folder_of_this_package_in_fp32(tmp_path, monkeypatch):
    stock = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, layers_per_block=1)
    stock.half().save_pretrained(tmp_path / "little")
    monkeypatch.setattr(
        "unigen.weights.repositories.shipped_folder", lambda source: tmp_path / source.removeprefix("shipped:")
    )
    found = load_pretrained(AutoencoderKL, "shipped:little", "k", "vae")
    assert {p.dtype for p in found.parameters()} == {torch.float32} != {p.dtype for p in stock.parameters()}
    assert torch.equal(found.encoder.conv_in.weight, stock.encoder.conv_in.weight.float())
    with pytest.raises(ValueError, match=r"'shipped:large' is not there \(config key k\): this package ships "):
        load_pretrained(AutoencoderKL, "shipped:large", "k")


def test_a_folder_of_the_model_alone_will_do_and_half_precision_arrives_whole(tmp_path):
    """What a run exports has no subfolder, and is stored in fp16."""
    stock = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, layers_per_block=1)
    stock.half().save_pretrained(tmp_path / "export" / "codec")
    found = load_pretrained(AutoencoderKL, str(tmp_path / "export" / "codec"), "k", "vae")
    assert torch.equal(found.encoder.conv_in.weight, stock.encoder.conv_in.weight.float())
    with pytest.raises(ValueError, match="config key k"):
        load_pretrained(AutoencoderKL, str(tmp_path / "export"), "k", "vae")


def test_weights_of_another_model_than_the_config_says_are_refused(tmp_path):
    config = {"block_out_channels": [4], "norm_num_groups": 2, "layers_per_block": 1}
    AutoencoderKL(**config).save_pretrained(tmp_path)
    assert load_pretrained(AutoencoderKL, str(tmp_path), "encoder.codec.pretrained", config=config) is not None
    said = r"encoder.codec.config.layers_per_block is 2, but the weights of '.*' have 1; encoder.codec.pretrained=null"
    with pytest.raises(ValueError, match=said):
        load_pretrained(AutoencoderKL, str(tmp_path), "encoder.codec.pretrained", config={"layers_per_block": 2})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value, tmp_path):
    stock = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, layers_per_block=1)
    stock.save_pretrained(tmp_path / "vae")
    assert load_pretrained(AutoencoderKL, str(tmp_path), "encoder.codec.pretrained", "vae") is not None
    with torch.no_grad():
        stock.encoder.conv_in.weight[0, 0, 0, 0] = value
    stock.half().save_pretrained(tmp_path / "vae")
    said = r"'.*' \(config key encoder.codec.pretrained\) is damaged: 1 of the 108 numbers of 'encoder.conv_in.weight'"
    with pytest.raises(ValueError, match=said) as error:
        load_pretrained(AutoencoderKL, str(tmp_path), "encoder.codec.pretrained", "vae")
    assert not isinstance(error.value, Unavailable), "a run that goes on without it would be silent"


def test_all_kinds_of_finite_tensors_pass():
    tensors = (torch.ones(2).to(kind) for kind in (torch.bfloat16, torch.float16, torch.int8, torch.bool))
    check_finite(((str(n), x) for n, x in enumerate([*tensors, torch.zeros(0), torch.ones(1, device="meta")])), "it")


def test_a_checkpoint_that_is_not_finite_is_refused_by_name(tmp_path):
    path = tmp_path / "last.ckpt"
    for value in (1.0, float("nan")):
        torch.save({"state_dict": {"backbone.w": torch.tensor([0.0, value])}, "callbacks": {}}, path)
        said = "last.ckpt is damaged: 1 of the 2 numbers of 'backbone.w'"
        with nullcontext() if value == 1 else pytest.raises(ValueError, match=said):
            consolidation.read(path)
