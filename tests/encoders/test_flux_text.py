"""FLUX.1's two readings of a prompt: the sequence is T5's, the pooled vector CLIP's, both of the same string."""

import json
import warnings

import pytest
import torch
from tiny import composed, tiny

from unigen.encoders.flux_text import FluxText, PooledCLIP
from unigen.encoders.t5 import T5Text
from unigen.pipeline.build import build

T5 = tiny()["encoder"]["text"]["config"]
CLIP = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
    "vocab_size": 384,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


@pytest.fixture(scope="module")
def text() -> FluxText:
    torch.manual_seed(0)
    return FluxText(T5, "byt5", vocabulary=384, window=32, clip=PooledCLIP(CLIP, "byt5"))


def test_the_sequence_is_t5s_and_the_pooled_vector_clips(text):
    alone = T5Text(T5, "byt5", vocabulary=384, window=32, pool=1, trained=False)
    alone.model.load_state_dict(text.model.state_dict())
    prompts = ["a cat", "a dog"]
    assert torch.equal(text.encode(prompts), alone.encode(prompts)) and text.tokens == 32
    assert text.pooled(prompts).shape == (2, 16) == (2, text.pooled_width)
    assert alone.pooled_width == 32, "negative control"
    before = text.encode(["a bird"]), text.pooled(["a bird"])
    with torch.no_grad():
        text.clip.model.get_input_embeddings().weight.mul_(2)
    text._known, text.clip._known = type(text._known)(2**20), type(text._known)(2**20)
    assert torch.equal(text.encode(["a bird"]), before[0])
    assert not torch.allclose(text.pooled(["a bird"]), before[1], atol=1e-3)


def test_pooled_is_the_end_tokens_normed_feature(text):
    ids = text.clip.ids(["cat"])
    assert ids.tolist() == [[102, 100, 119, 1] + [0] * 8]
    with torch.no_grad():
        states = text.clip.model(input_ids=ids).last_hidden_state
    assert torch.equal(text.pooled(["cat"])[0], states[0, 3])
    assert not torch.allclose(states[0, 2], states[0, 3], atol=1e-3), "negative control"


def test_padding_does_not_reach_clips_vector(text):
    """CLIP is causal, so the end token sees what stands before it alone; T5 sees its padding."""
    ids = text.clip.ids(["cat"])
    with torch.no_grad():
        other = ids.masked_fill(ids == 0, 7)
        found = text.clip.model(input_ids=other).pooler_output
        torch.testing.assert_close(found, text.pooled(["cat"]))
        assert not torch.allclose(text.clip.model(input_ids=ids.flip(1)).pooler_output, found, atol=1e-3)


def test_clip_sees_the_beginning_of_a_long_prompt_and_t5_the_rest(text):
    """11 bytes and the end token; cut without a warning, since T5's window holds the whole."""
    one, other = "a long prompt, one", "a long prompt, two"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        a, b = text.pooled([one, other])
    assert torch.equal(a, b) and not torch.equal(*text.encode([one, other]))
    assert not torch.equal(a, text.pooled(["short, one"])[0]), "negative control"
    assert text.clip.ids([one])[0, -1] == 1, "what is cut ends with the end token"


def test_pooled_vectors_are_frozen_and_read_once(text, monkeypatch):
    assert not any(p.requires_grad for p in text.parameters()) and not text.pooled(["a cat"]).requires_grad
    read, ids = [], PooledCLIP.ids
    monkeypatch.setattr(PooledCLIP, "ids", lambda self, prompts: read.extend(prompts) or ids(self, prompts))
    first = text.pooled(["new one", "new two", "new one"])
    assert torch.equal(first[0], first[2]) and not torch.equal(first[0], first[1])
    assert torch.equal(text.pooled(["new two"])[0], first[1]) and read == ["new one", "new two"]


def test_clips_own_tokenizer_is_read_from_a_folder(tmp_path, text):
    """A tokenizer of CLIP's kind with letters alone, saved as a published pipeline keeps it."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (tmp_path / "files" / "merges.txt").write_text("#version: 0.2\n")
    made = CLIPTokenizer.from_pretrained(tmp_path / "files")
    made.save_pretrained(tmp_path / "pipeline" / "tokenizer")
    clip = PooledCLIP(CLIP | {"eos_token_id": 53, "vocab_size": 54}, str(tmp_path / "pipeline"))
    found = clip.ids(["cat", "a long prompt"])
    assert found.shape == (2, 12) and found[0, :5].tolist() == [52, 2, 0, 26 + 19, 53] and found[1, -1] == 53
    assert clip(["cat"]).shape == (1, 16) and not torch.equal(*clip(["cat", "act"]))


def test_a_missing_tokenizer_is_one_sentence(tmp_path):
    clip = PooledCLIP(CLIP, str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"config key encoder.text.clip.tokenizer"):
        clip(["a cat"])


def test_small_models_pool_t5s_own_features():
    """The mean over the tokens, with a gradient where the encoder learns."""
    learning = T5Text(T5, "byt5", vocabulary=384, window=32, pool=4, trained=True)
    prompts = ["a cat", "a dog"]
    assert torch.equal(learning.pooled(prompts), learning.encode(prompts).mean(1))
    assert learning.pooled(prompts).requires_grad and learning.pooled_width == learning.width == 32
    assert not torch.allclose(*learning.pooled(prompts), atol=1e-4), "negative control"


def test_the_published_encoders_are_as_flux_has_them():
    with torch.device("meta"):
        made = build(composed("backbone=flux_fill_dev", "encoder/text=flux_text")["encoder"]["text"])
    assert (made.tokens, made.width, made.pooled_width, made.trained) == (512, 4096, 768, False)
    assert made.clip.model.config.max_position_embeddings == 77
    assert sum(p.numel() for p in made.clip.parameters()) == 123_060_480, "CLIP-L/14's text tower"
