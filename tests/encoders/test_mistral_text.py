"""Mistral Small 3 as FLUX.2-dev reads it: prompts as diffusers' Flux2Pipeline encodes them, padded on either side."""

from functools import cache

import pytest
import torch
from diffusers import Flux2Pipeline
from published.chat import tokenizer, words
from tiny import composed, randomise
from transformers import Mistral3Config, Mistral3ForConditionalGeneration, PixtralVisionConfig

from unigen.encoders.mistral import MistralText
from unigen.pipeline.build import build

CONFIG = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
    "rope_parameters": {"rope_theta": 1000000000, "rope_type": "default"},
}
LAYERS, WINDOW = [1, 2, 3], 256
PROMPTS = ["a cat", "", "the cat[IMG] and the dog", "日本 の 猫", "a prompt that is much too long for the window " * 9]
# Parts of a message are texts in a list, and nothing begins behind the last message.
TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- for part in message.content %}{{- part.text }}{%- endfor %}{{- '<|im_end|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<think>' }}{%- endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model as published, with a vision tower, all of its layers and a head, and its tokenizer beside it."""
    found = tmp_path_factory.mktemp("dev")
    torch.manual_seed(0)
    vision = PixtralVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    said = {"model_type": "mistral", **CONFIG, "vocab_size": len(words())}
    whole = Mistral3ForConditionalGeneration(Mistral3Config(text_config=said, vision_config=vision))
    randomise(whole, 0.1).save_pretrained(found / "text_encoder")
    made = tokenizer()
    made.chat_template = TEMPLATE
    made.save_pretrained(found / "tokenizer")
    return found


def text(folder, side: str) -> MistralText:
    made = MistralText(CONFIG, str(folder), len(words()), WINDOW, LAYERS, pretrained=str(folder))
    made.tokenizer.padding_side = side
    return made


@pytest.mark.filterwarnings("ignore:the prompt has")
@pytest.mark.parametrize("side", ["right", "left"])
def test_features_are_those_of_diffusers_pipeline(side, folder):
    ours = text(folder, side)
    whole = Mistral3ForConditionalGeneration.from_pretrained(folder / "text_encoder")

    def theirs(layers):
        with torch.no_grad():
            return Flux2Pipeline._get_mistral_3_small_prompt_embeds(
                whole, ours.tokenizer, PROMPTS, max_sequence_length=WINDOW, hidden_states_layers=layers
            )

    found = ours.encode(PROMPTS)
    assert found.shape == (5, WINDOW, 48) and len(ours.model.layers) == 3
    torch.testing.assert_close(found, theirs(LAYERS), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, theirs([1, 2, 4]), atol=1e-3), "negative control: the layers count"
    lone = ours.model(torch.tensor(ours.ids(PROMPTS)), output_hidden_states=True).hidden_states
    assert not torch.allclose(found[0, :, :16], lone[1][0], atol=1e-3), "negative control: padding is hidden"
    other = text(folder, {"right": "left", "left": "right"}[side]).encode(PROMPTS)
    assert not torch.allclose(found, other, atol=1e-3), "negative control: the side counts"


@pytest.mark.filterwarnings("ignore:the prompt has")
@pytest.mark.parametrize("side", ["right", "left"])
def test_the_subjects_words_are_marked_where_they_stand(side, folder):
    ours = text(folder, side)
    ids, marked = torch.tensor(ours.ids(["the red cat"])), ours.keywords(["the red cat"], [("red",)])
    assert ours.tokenizer.decode(ids[marked]) == "red" and marked.sum() == 3
    assert not ours.keywords(["the red cat"], [("dog",)]).any(), "negative control"


@cache
def published() -> MistralText:
    said = composed("encoder/text=mistral_small", "backbone=flux2_dev", "process=rectified_flow")["encoder"]["text"]
    with torch.device("meta"):
        return build(said)


def test_the_published_one_keeps_the_layers_that_are_read_and_is_as_wide_as_flux_2_dev_reads():
    assert len(published().model.layers) == 30 and published().width == 15360
    assert "sliding_window" in published().identity and published().tokens == 512
