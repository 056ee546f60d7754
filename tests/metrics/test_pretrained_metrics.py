"""Metrics by models of transformers, against the same library's models by hand. The models are tiny and untrained."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_judge import CLIP, VISION
from torch.nn import functional as F
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

from unigen.metrics.clip import ClipI, ClipScore, ClipT, StyleImage
from unigen.metrics.depth_rmse import DepthRMSE
from unigen.metrics.dino import Dino, DinoV2
from unigen.weights.loading import Unavailable

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
PROMPTS = ["a red heart", "cat", "a b c d e f g h i j k l m n o p q r s t u v w x y z"]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
LIKENESS = {"clip_i": ClipI, "clip_t": ClipT, "dino": Dino, "dinov2": DinoV2}


def tokenizer(folder: Path) -> None:
    """CLIP's byte tokenizer without merges: one token a letter."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    torch.manual_seed(1)
    root = tmp_path_factory.mktemp("models")
    clip = CLIP | {"text_config": CLIP["text_config"] | {"eos_token_id": 53, "bos_token_id": 52, "pad_token_id": 53}}
    vit = {**TOWER, "image_size": 32, "patch_size": 8}
    backbone = Dinov2Config(**vit, out_indices=[1, 2], reshape_hidden_states=False)
    depth = DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=8,
        reassemble_hidden_size=32,
        reassemble_factors=[2, 1],
        neck_hidden_sizes=[8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
    )
    made = {
        "clip": CLIPModel(CLIPConfig(**clip)),
        "dino": ViTModel(ViTConfig(**vit), add_pooling_layer=False),
        "dinov2": Dinov2Model(Dinov2Config(**vit)),
        "depth": DepthAnythingForDepthEstimation(depth),
    }
    for name, model in made.items():
        for parameter in model.parameters():  # nothing is zero by initialisation, a class token among it
            torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(root / name)
    tokenizer(root / "clip")
    return {name: str(root / name) for name in made}


def metric(name: str, folders: dict[str, str], resize: int = 40, crop: int = 32):
    return LIKENESS[name](folders[name.partition("_")[0]], resize, crop, download=False)


def images(seed: int = 0, height: int = 48, width: int = 64) -> torch.Tensor:
    """Smooth colours, so that scaling them matters little more than it should."""
    small = torch.rand(3, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    return (F.interpolate(small, (height, width), mode="bicubic").clamp(0, 1) * 255).round().byte()


def prepared(batch: torch.Tensor, mean: tuple, std: tuple, resize: int = 40, crop: int = 32) -> torch.Tensor:
    """By PIL and numpy: 64 x 48 to 53 x 40, the middle 32 x 32."""
    made = []
    for pixels in batch:
        height, width = pixels.shape[1:]
        size = (int(resize * width / height), resize)
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize(size, Image.Resampling.BICUBIC)
        left, top = (size[0] - crop) // 2, (size[1] - crop) // 2
        x = np.asarray(image.crop((left, top, left + crop, top + crop)), dtype=np.float64) / 255
        made.append(torch.from_numpy((x - mean) / std).permute(2, 0, 1).float())
    return torch.stack(made)


@torch.no_grad()
def by_hand(name: str, folders: dict[str, str], output: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    folder = folders[name.partition("_")[0]]
    if name.startswith("clip"):
        model = CLIPModel.from_pretrained(folder).eval()
        a = model.get_image_features(prepared(output, *OPENAI)).pooler_output
        if name == "clip_i":
            return F.cosine_similarity(a, model.get_image_features(prepared(truth, *OPENAI)).pooler_output)
        # one text at a time: nothing is padded; letters and ends of words, cut to 24 tokens with both ends
        rows = []
        for prompt in PROMPTS:
            ids = [ord(c) - 97 + 26 * (i == len(word) - 1) for word in prompt.split() for i, c in enumerate(word)]
            rows.append(model.get_text_features(torch.tensor([[52, *ids[:22], 53]])).pooler_output[0])
        return F.cosine_similarity(a, torch.stack(rows))
    model = (ViTModel if name == "dino" else Dinov2Model).from_pretrained(folder).eval()
    a, b = (model(pixel_values=prepared(x, *IMAGENET)).last_hidden_state[:, 0] for x in (output, truth))
    return F.cosine_similarity(a, b)


@pytest.mark.parametrize("name", LIKENESS)
def test_each_is_the_cosine_of_its_librarys_model(name, folders):
    output, truth = images(0), images(1)
    made = metric(name, folders)
    scores = made(output, PROMPTS if made.against == "prompt" else truth)
    torch.testing.assert_close(scores, by_hand(name, folders, output, truth), rtol=0, atol=2e-5)
    uncropped = metric(name, folders, resize=32)(output, PROMPTS if made.against == "prompt" else truth)
    assert scores.shape == (3,) and (scores - uncropped).abs().max() > 1e-4, "the preparation would not matter"


def test_models_do_not_agree_with_one_another(folders):
    """Negative control: another model would not pass for the one that is asked for."""
    scores = [metric(name, folders)(images(0), images(1)) for name in ("clip_i", "dino", "dinov2")]
    assert all((a - b).abs().max() > 1e-4 for i, a in enumerate(scores) for b in scores[:i])


def test_equal_images_are_alike_and_the_end_of_a_long_prompt_is_read(folders):
    for name in ("clip_i", "dino", "dinov2"):
        torch.testing.assert_close(metric(name, folders)(images(), images()), torch.ones(3))
    clip_t = metric("clip_t", folders)
    cut, whole = clip_t(images(), [PROMPTS[2]] * 3), clip_t(images(), [PROMPTS[2][:43]] * 3)
    torch.testing.assert_close(cut, whole)  # 22 letters and both ends
    assert (cut - clip_t(images(), [PROMPTS[2][:41]] * 3)).abs().max() > 1e-5


def test_the_style_score_is_clips_likeness_to_the_image_that_it_names(folders):
    style, other = (StyleImage(name, folders["clip"], 40, 32, download=False) for name in ("condition1", "condition"))
    torch.testing.assert_close(style(images(0), images(1)), by_hand("clip_i", folders, images(0), images(1)))
    assert style.against == "slot condition1" and style.protocol != other.protocol
    assert style.protocol["parameters"].startswith("cosine of output and slot condition1, ")


def test_the_clip_score_is_the_positive_part_in_hundredths(folders):
    score = ClipScore(folders["clip"], 40, 32, download=False)
    cosines = metric("clip_t", folders)(images(), PROMPTS)
    torch.testing.assert_close(score(images(), PROMPTS), 100 * cosines.clamp(min=0))
    with pytest.MonkeyPatch.context() as patch:
        towards, away = torch.eye(3), -torch.eye(3)
        patch.setattr(ClipScore, "embed_texts", lambda self, texts: towards)
        for embedded, wanted in ((towards, 100.0), (away, 0.0)):
            patch.setattr(ClipScore, "embed_images", lambda self, x, found=embedded: found)
            assert score(images(), PROMPTS).tolist() == [wanted] * 3
    assert score.protocol["parameters"] != metric("clip_t", folders).protocol["parameters"]


def test_depth_is_the_librarys_estimate_in_8_bits(folders):
    made = DepthRMSE(folders["depth"], 32, 8, download=False)
    output, truth = images(0, 32, 32), images(1, 32, 32)
    model = DepthAnythingForDepthEstimation.from_pretrained(folders["depth"]).eval()
    maps = []
    for batch in (output, truth):
        with torch.no_grad():
            seen = model(pixel_values=prepared(batch, *IMAGENET, resize=32)).predicted_depth
        seen = F.interpolate(seen[:, None], (32, 32), mode="bicubic")[:, 0].double().numpy()
        maps.append(np.stack([np.round((x - x.min()) / (x.max() - x.min()) * 255) for x in seen]))
    expected = torch.from_numpy(np.sqrt(((maps[0] - maps[1]) ** 2).mean((1, 2)))).float()
    torch.testing.assert_close(made(output, truth), expected, rtol=1e-2, atol=0.05)
    assert expected.min() > 1 and made(truth, truth).tolist() == [0, 0, 0]


def test_the_protocol_names_the_weights_wherever_they_lie(folders, tmp_path):
    import shutil

    moved = shutil.copytree(folders["dino"], tmp_path / "elsewhere")
    here, there = metric("dino", folders).protocol, Dino(str(moved), 40, 32, False).protocol
    assert here == there and here["model"].startswith("ViTModel, SHA-256 ")
    torch.manual_seed(2)
    ViTModel(ViTConfig(**TOWER, image_size=32, patch_size=8), add_pooling_layer=False).save_pretrained(moved)
    assert Dino(str(moved), 40, 32, False).protocol["model"] != here["model"]
    assert metric("dino", folders, resize=33).protocol["parameters"] != here["parameters"]


@pytest.mark.parametrize("kind", [*LIKENESS.values(), DepthRMSE])
def test_absent_weights_are_named_at_once(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    made = kind("nobody/nothing", 40, 32, download=False)
    wanted = f"'nobody/nothing' is no folder and not in the Hugging Face cache; .*metric.{kind.name}.download=true"
    with pytest.raises(Unavailable, match=wanted):
        dict(made.protocol)
    with pytest.raises(Unavailable, match="no weight files"):
        dict(kind(str(tmp_path), 40, 32, download=False).protocol)


def test_what_is_not_asked_for_is_not_downloaded(tmp_path, monkeypatch):
    asked = []

    def fetch(source, local_files_only, **_):
        asked.append(local_files_only)
        raise OSError("no network\nmore")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.setattr("unigen.metrics.pretrained.hub_silent", lambda: None)
    with pytest.raises(Unavailable):
        dict(Dino("nobody/nothing", 40, 32, download=False).protocol)
    with pytest.raises(Unavailable, match=r"cannot be downloaded \(no network\)"):
        dict(Dino("nobody/nothing", 40, 32, download=True).protocol)
    assert asked == [True, False]


def test_half_a_model_is_none(folders, tmp_path):
    """transformers would draw what is missing at random; and a NaN would be the result."""
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folders["dino"], tmp_path / "half")
    kept = load_file(folder / "model.safetensors")
    kept.pop("layernorm.bias")
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Unavailable, match=r"no whole ViTModel: 1 weights are missing, e.g. layernorm.bias"):
        Dino(str(folder), 40, 32, False)(images(), images(1))
    damaged = shutil.copytree(folders["dino"], tmp_path / "damaged")
    kept = load_file(damaged / "model.safetensors")
    kept["layernorm.bias"][0] = float("nan")
    save_file(kept, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Unavailable, match=r"damaged is damaged: 1 of the \d+ numbers of 'layernorm.bias' are NaN"):
        Dino(str(damaged), 40, 32, False)(images(), images(1))


def test_wrong_input_is_refused(folders):
    with pytest.raises(ValueError, match="crop=41 must be at least 1 and at most resize=40"):
        Dino(folders["dino"], 40, 41, False)
    with pytest.raises(ValueError, match="size=8 must be at least multiple=14"):
        DepthRMSE(folders["depth"], 8, 14, False)
    with pytest.raises(ValueError, match="uint8"):
        metric("dino", folders)(images().float(), images())
    with pytest.raises(ValueError, match="3 outputs need as many prompts"):
        metric("clip_t", folders)(images(), PROMPTS[:1])


assert VISION["image_size"] == 32  # what `prepared` cuts
