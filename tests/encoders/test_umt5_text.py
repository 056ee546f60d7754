"""UMT5 as Wan reads it: prompts as diffusers' WanPipeline encodes them, and the zeros behind them."""

import pytest
import torch
from diffusers import WanPipeline
from tiny import randomise

from unigen.encoders.umt5 import UMT5Text, cleaned

CONFIG = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 37,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.1,
    "feed_forward_proj": "gated-gelu",
    "pad_token_id": 0,
    "eos_token_id": 1,
}
PROMPTS = [
    "a cat",
    "",
    "  a &amp;amp; b \n\t c  ",
    "a <pad> of paper",
    "日本 の 猫",
    "a prompt that is much too long for it",
]


def text(window: int = 20, **more) -> UMT5Text:
    torch.manual_seed(0)
    return randomise(UMT5Text(CONFIG, "byt5", vocabulary=384, window=window, **more), 0.1)


@pytest.mark.filterwarnings("ignore:prompt has")
def test_features_are_those_of_diffusers_pipeline():
    ours = text()
    pipe = WanPipeline(ours.tokenizer, ours.model, vae=None, scheduler=None, transformer=None)
    expected, _ = pipe.encode_prompt(PROMPTS, do_classifier_free_guidance=False, max_sequence_length=20, device="cpu")
    found = ours.encode(PROMPTS)
    assert found.shape == (6, 20, 32)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        unhidden = ours.model(torch.tensor(ours.ids(PROMPTS))).last_hidden_state
    assert not torch.allclose(unhidden[:, :2], expected[:, :2], atol=1e-3), "negative control: padding is hidden"


def test_what_is_behind_a_prompt_is_zero_and_its_end_is_not():
    found = text().encode(["a cat", ""])
    ends = [6, 1]  # five bytes and the end token, and the end token alone
    for row, end in zip(found, ends, strict=True):
        assert not row[end:].any() and row[end - 1].any()


def test_a_prompt_does_not_depend_on_the_window_that_it_fits_in():
    short, long = text(20).encode(["a cat"]), text(40).encode(["a cat"])
    torch.testing.assert_close(long[:, :20], short, rtol=1e-5, atol=1e-6)
    assert not long[:, 20:].any() and long.shape == (1, 40, 32)


@pytest.mark.parametrize(
    ("prompt", "clean"),
    [("a  b\n", "a b"), ("a &amp;amp; b", "a & b"), ("&lt;x&gt;", "<x>"), ("a\u00a0b", "a b"), ("plain", "plain")],
)
def test_prompts_are_cleaned_as_the_pipeline_does(prompt, clean):
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    assert cleaned(prompt) == clean
    if clean != "a b" or "\u00a0" not in prompt:  # ftfy, where it is installed, may see to such spaces first
        assert prompt_clean(prompt) == clean


def test_the_subjects_words_are_marked_in_the_cleaned_prompt():
    found = text().keywords(["  a   cat &amp; x"], [("cat",)])[0].nonzero().flatten().tolist()
    assert found == [2, 3, 4], "of 'a cat & x'"
    assert text().ids(["  a   cat"]) == text().ids(["a cat"]) != text().ids(["a cot"])


def test_what_is_kept_of_it_is_keyed_by_its_config():
    ours = text()
    assert ours.identity["d_kv"] == 8 and not ours.trained and ours.width == 32 and ours.tokens == 20
    assert not [p for p in ours.parameters() if p.requires_grad]
    assert text(dtype="bfloat16").encode(["a cat"]).dtype == torch.bfloat16
