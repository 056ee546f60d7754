"""Qwen2.5-VL as Qwen-Image reads it: features as diffusers' pipeline makes them, and the padding behind them."""

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo15, HunyuanVideo15Pipeline, QwenImagePipeline
from tiny import composed, randomise
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from unigen.encoders.qwen_text import QwenText

CONFIG = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 400,
    "rms_norm_eps": 1e-6,
}
VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]}
PROMPTS = ["a cat", "", "two cats on the sofa & a dog", "日本"]
VIDEO = ("backbone=hunyuan_video1_5", "process=rectified_flow", "encoder/text=qwen2_5_vl_video")
TEMPLATE = "system: look. user: {} end."


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A whole Qwen2.5-VL, as a pipeline's folder stores it."""
    folder = tmp_path_factory.mktemp("qwen")
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(text_config={**CONFIG, "rope_parameters": ROPE}, vision_config=VISION)
    model = randomise(Qwen2_5_VLForConditionalGeneration(config), 0.1)
    model.save_pretrained(folder)
    return folder


def text(folder=None, window: int = 24, template: str = TEMPLATE, drop: int = 20, **more) -> QwenText:
    torch.manual_seed(0)
    return QwenText(CONFIG, "byt5", window, template, drop, None if folder is None else str(folder), **more)


def pipeline(folder, template: str, drop: int) -> QwenImagePipeline:
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).eval()
    pipe = QwenImagePipeline(None, None, model, text().tokenizer, None)
    pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx = template, drop
    return pipe


@torch.no_grad()
def test_features_are_those_of_diffusers_pipeline(stored):
    ours = text(stored, window=40)
    pipe = pipeline(stored, TEMPLATE, 20)
    expected, mask = pipe.encode_prompt(PROMPTS, device="cpu")
    found, valid = ours.encode(PROMPTS), ours.valid(PROMPTS)
    size = expected.shape[1]
    assert found.shape == (4, 40, 32) and size < 40
    assert torch.equal(valid[:, :size], mask.bool()) and not valid[:, size:].any() and not found[:, size:].any()
    torch.testing.assert_close(found[:, :size], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(text(stored, window=40, drop=19).encode(PROMPTS)[:, :size], expected, atol=1e-2), (
        "control"
    )


@torch.no_grad()
def test_a_long_message_is_cut_as_the_pipeline_cuts_it(stored):
    ours = text(stored, window=8)
    pipe = pipeline(stored, TEMPLATE, 20)
    expected, mask = pipe.encode_prompt(PROMPTS, device="cpu", max_sequence_length=8)
    with pytest.warns(UserWarning, match=r"the prompt has 34 tokens with the end of its template and .*window is 8"):
        found = ours.encode(PROMPTS[2:3])
    torch.testing.assert_close(found, expected[2:3], rtol=1e-4, atol=1e-5)
    assert ours.valid(PROMPTS[2:3]).all() and mask is not None


def test_a_prompt_does_not_depend_on_its_neighbours():
    alone, together = text().encode(["a cat"]), text().encode([*PROMPTS[:2], "a longer one"])
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(together[1:2], alone, atol=1e-3), "negative control"


def test_the_published_template_is_the_pipelines():
    said = composed("backbone=qwen_image", "process=rectified_flow", "encoder/text=qwen2_5_vl")["encoder"]["text"]
    pipe = QwenImagePipeline(None, None, None, None, None)
    assert said["template"] == pipe.prompt_template_encode and said["drop"] == pipe.prompt_template_encode_start_idx
    with torch.device("meta"):
        made = QwenText(**{key: value for key, value in said.items() if key != "_target_"})
    assert made.width == 3584 and sum(p.numel() for p in made.parameters()) == 7_070_619_136


class Chat:
    """A tokenizer of bytes with Qwen's chat template, as the pipeline of HunyuanVideo-1.5 calls it."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def apply_chat_template(self, chats, padding, max_length, truncation, **_):
        said = [[f"<|im_start|>{part['role']}\n{part['content']}<|im_end|>\n" for part in chat] for chat in chats]
        messages = ["".join(parts) + "<|im_start|>assistant\n" for parts in said]
        kwargs = {"padding": padding, "max_length": max_length, "truncation": truncation, "return_tensors": "pt"}
        return self.tokenizer(messages, **kwargs)


@torch.no_grad()
def test_features_behind_fewer_layers_are_those_of_hunyuan_videos_pipeline(stored, tmp_path):
    """The third-last hidden states of the published template; a folder with the language model alone is read too."""
    said = composed(*VIDEO)["encoder"]["text"]
    whole = Qwen2_5_VLForConditionalGeneration.from_pretrained(stored).eval()
    model = whole.model.language_model
    model.save_pretrained(tmp_path)
    size = 700
    drop = said["template"].index("{}")
    made = [text(folder, size, said["template"], drop, layers=len(model.layers) - 1) for folder in (stored, tmp_path)]
    embed = HunyuanVideo15Pipeline._get_mllm_prompt_embeds
    kwargs = {"tokenizer_max_length": size, "crop_start": drop, "num_hidden_layers_to_skip": 1}
    expected, mask = embed(model, Chat(made[0].tokenizer), [p or " " for p in PROMPTS], "cpu", **kwargs)
    for ours in made:
        found, valid = ours.encode([p or " " for p in PROMPTS]), ours.valid([p or " " for p in PROMPTS])
        assert torch.equal(valid, mask.bool()) and len(ours.model.layers) == len(model.layers) - 1
        torch.testing.assert_close(found[valid], expected[valid], rtol=1e-4, atol=1e-5)
    every = text(stored, size, said["template"], drop)
    assert not torch.allclose(every.encode(PROMPTS)[0, :3], expected[0, :3], atol=1e-2), "negative control"
    assert every.identity != made[0].identity
    empty, _ = embed(model, Chat(made[0].tokenizer), [""], "cpu", **kwargs)
    torch.testing.assert_close(made[0].encode([" "])[:, :5], empty[:, :5], rtol=1e-4, atol=1e-5)


def test_the_published_video_template_is_the_pipelines():
    said = composed(*VIDEO)["encoder"]["text"]
    with torch.device("meta"):
        pipe = HunyuanVideo15Pipeline(
            *[None] * 3, AutoencoderKLHunyuanVideo15(block_out_channels=[64] * 5), *[None] * 4
        )
    start = f"<|im_start|>system\n{pipe.system_message}<|im_end|>\n<|im_start|>user\n"
    assert said["template"] == start + "{}<|im_end|>\n<|im_start|>assistant\n"
    assert (said["drop"], said["window"]) == (pipe.prompt_template_encode_start_idx, pipe.tokenizer_max_length)
    assert said["layers"] == said["config"]["num_hidden_layers"] - 2
    with torch.device("meta"):
        made = QwenText(**{key: value for key, value in said.items() if key != "_target_"})
    assert made.width == 3584 and len(made.model.layers) == said["layers"]


def test_the_subjects_words_are_marked_behind_the_template():
    found = text().keywords(["a cat & x", "a dog"], [("cat",), ("cat",)])
    assert found.shape == (2, 24) and found[0].nonzero().flatten().tolist() == [2, 3, 4] and not found[1].any()
    assert text(drop=18).keywords(["a cat"], [("cat",)])[0].nonzero().flatten().tolist() == [4, 5, 6], "control"


def test_what_is_kept_of_it_is_keyed_by_its_settings():
    ours = text()
    assert ours.identity["drop"] == 20 and ours.identity["num_key_value_heads"] == 2
    assert ours.identity != text(drop=19).identity and not ours.trained and ours.pooled(["a"]) is None
    assert not [p for p in ours.parameters() if p.requires_grad]
    assert text(dtype="bfloat16").encode(["a cat"]).dtype == torch.bfloat16


def test_wrong_settings_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"encoder.text.template has 0 places '\{\}' for a prompt; legal is 1"):
        text(template="system: look.")
    with pytest.raises(ValueError, match=r"encoder.text.layers is 3; legal are null and 1 to num_hidden_layers \(2\)"):
        text(layers=3)
    small = QwenText({**CONFIG, "vocab_size": 50}, "byt5", 24, TEMPLATE, 20)
    with pytest.raises(ValueError, match=r"vocab_size is 50, and the tokenizer has ids up to 124"):
        small.encode(["a cat"])
