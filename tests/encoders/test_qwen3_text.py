"""Qwen3 as FLUX.2-klein reads it: prompts as diffusers' Flux2KleinPipeline encodes them, template and padding alike."""

import pytest
import torch
from diffusers import Flux2KleinPipeline
from published.chat import qwen, words
from tiny import composed, randomise
from transformers import Qwen3Config, Qwen3ForCausalLM

from unigen.encoders.qwen3 import Qwen3Text
from unigen.pipeline.build import build

CONFIG = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
}
LAYERS = [1, 2, 3]
PROMPTS = ["a cat", "", "the cat and the dog", "日本 の 猫", "a prompt that is much too long for the window " * 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A language model as published, with all of its layers and a head, and its tokenizer beside it."""
    found = tmp_path_factory.mktemp("klein")
    torch.manual_seed(0)
    whole = randomise(Qwen3ForCausalLM(Qwen3Config(**CONFIG, vocab_size=len(words()), tie_word_embeddings=True)), 0.1)
    whole.save_pretrained(found / "text_encoder")
    qwen(found / "tokenizer")
    return found


def text(folder, window: int = 64, layers=LAYERS, **more) -> Qwen3Text:
    return Qwen3Text(CONFIG, str(folder), len(words()), window, layers, pretrained=str(folder), **more)


@pytest.mark.filterwarnings("ignore:the prompt has")
def test_features_are_those_of_diffusers_pipeline(folder):
    ours = text(folder)
    whole = Qwen3ForCausalLM.from_pretrained(folder / "text_encoder")

    def theirs(layers):
        with torch.no_grad():
            return Flux2KleinPipeline._get_qwen3_prompt_embeds(
                whole, ours.tokenizer, PROMPTS, max_sequence_length=64, hidden_states_layers=layers
            )

    found = ours.encode(PROMPTS)
    assert found.shape == (5, 64, 48) and ours.width == 48 and ours.tokens == 64
    torch.testing.assert_close(found, theirs(LAYERS), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, theirs([1, 2, 4]), atol=1e-3), "negative control: the layers count"
    lone = ours.model(torch.tensor(ours.ids(PROMPTS)), output_hidden_states=True).hidden_states
    assert not torch.allclose(found[:, -1, :16], lone[1][:, -1], atol=1e-3), "negative control: padding is hidden"


def test_layers_that_are_not_read_are_dropped(folder):
    few, all_read = text(folder, layers=[1, 2]), text(folder)
    assert len(few.model.layers) == 2 and len(all_read.model.layers) == 3
    assert torch.equal(few.encode(["a cat"]), all_read.encode(["a cat"])[..., :32])
    assert not [p for p in few.parameters() if p.requires_grad]


def test_a_prompt_is_a_users_message_and_the_answer_is_about_to_begin(folder):
    ours = text(folder)
    said = ours.tokenizer.decode([i for i in ours.ids(["a cat"])[0] if i != ours.tokenizer.pad_token_id])
    assert said == "<|im_start|>user\na cat<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def test_a_prompt_that_is_cut_is_named_and_loses_its_end(folder):
    ours = text(folder, window=20)
    with pytest.warns(UserWarning, match=r"encoder\.text\.window is 20, so it is cut after"):
        (ids,) = ours.ids(["a very long prompt"])
    assert len(ids) == 20 and ids == ours.ids(["a very long prompt and more"])[0]


def test_the_subjects_words_are_marked_behind_the_template(folder):
    ours = text(folder)
    marked = ours.keywords(["the cat, user"], [("cat",)])[0]
    assert ours.tokenizer.decode(torch.tensor(ours.ids(["the cat, user"])[0])[marked]).strip() == "cat"
    user = ours.keywords(["the cat, user"], [("user",)])[0].nonzero().flatten()
    assert ours.tokenizer.decode(torch.tensor(ours.ids(["the cat, user"])[0])[user]).strip() == "user"
    assert user.min() > marked.nonzero().max(), "not the template's own word"


def test_what_is_kept_of_it_is_keyed_by_layers_and_config(folder):
    assert text(folder).identity != text(folder, layers=[1, 2]).identity
    assert text(folder).identity["rope_parameters"]["rope_theta"] == 1000000
    assert text(folder, dtype="bfloat16").encode(["a cat"]).dtype == torch.bfloat16


@pytest.mark.parametrize("layers", [[], [0, 1], [1, 4], [1.0], [True]])
def test_layers_that_are_not_there_are_refused(folder, layers):
    with pytest.raises(ValueError, match=r"encoder\.text\.layers is .*; legal are whole numbers from 1 to 3, since"):
        text(folder, layers=layers)


def test_the_published_model_has_its_parameters():
    with torch.device("meta"):
        ours = build(
            composed("encoder/text=qwen3_4b", "backbone=flux2_klein_4b", "process=rectified_flow")["encoder"]["text"]
        )
        config = Qwen3Config(**{k: getattr(ours.model.config, k) for k in CONFIG}, vocab_size=151936)
        whole = sum(p.numel() for p in Qwen3ForCausalLM(config).parameters())
        head = 151936 * 2560
    assert whole - head == 4_022_468_096, "the head is the table of embeddings"
    layer = sum(p.numel() for p in ours.model.layers[0].parameters())
    assert sum(p.numel() for p in ours.parameters()) == whole - head - 9 * layer - 2560 and ours.width == 7680
