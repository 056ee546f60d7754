"""Qwen2.5-VL as Qwen-Image-Edit reads it, with images: features as diffusers' pipeline has them, and who sees what."""

from dataclasses import replace

import pytest
import torch
from diffusers import QwenImageEditPipeline, QwenImageEditPlusPipeline
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import calculate_dimensions
from PIL import Image
from published.chat import tokenizer
from tiny import batch, composed, randomise, tiny
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from unigen.cache.store import Cache, prompt_keys
from unigen.core.types import Illustrated, ImageSlot
from unigen.encoders.qwen_vision import PAD, QwenVisionText
from unigen.pipeline.build import build_pipeline

VISION = {"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "fullatt_block_indexes": [1]}
WORDS = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "rms_norm_eps": 1e-6,
}
AREA, TEMPLATE, DROP = 128 * 96, "<|im_start|>look. {}<|im_end|>", 3
PICTURE = "Picture {number}: <|vision_start|><|image_pad|><|vision_end|>"
PROMPTS = ["a cat", "", "two cats & the dog"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tokenizer with the tokens of images."""
    folder, made = tmp_path_factory.mktemp("words"), tokenizer()
    made.add_tokens(["<|vision_start|>", PAD, "<|vision_end|>"], special_tokens=True)
    made.save_pretrained(folder)
    return folder, made


def config(words) -> dict:
    return {
        **WORDS,
        "vision": VISION,
        "mrope_section": [2, 1, 1],
        "image_token_id": words[1].convert_tokens_to_ids(PAD),
    }


@pytest.fixture(scope="module")
def stored(tmp_path_factory, words):
    """A whole Qwen2.5-VL, as a pipeline's folder stores it."""
    folder, said = tmp_path_factory.mktemp("qwen"), config(words)
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": said["mrope_section"]}
    vision = {**VISION, "out_hidden_size": 32}
    made = Qwen2_5_VLConfig(
        text_config={**WORDS, "rope_parameters": rope}, vision_config=vision, image_token_id=said["image_token_id"]
    )
    torch.manual_seed(0)
    randomise(Qwen2_5_VLForConditionalGeneration(made), 0.1).save_pretrained(folder)
    return folder


def text(words, folder=None, window: int = 96, **more) -> QwenVisionText:
    torch.manual_seed(0)
    said = {"template": TEMPLATE, "drop": DROP, "picture": PICTURE, "area": AREA, "looks_at": ["condition"], **more}
    pretrained = None if folder is None else str(folder)
    return QwenVisionText(config(words), str(words[0]), window, pretrained=pretrained, **said)


def images(count: int = 2, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Images of different shapes."""
    chance = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, 256, (3, 64 + 16 * i, 96), generator=chance, dtype=torch.uint8) for i in range(count))


def pipeline(kind, folder, words, template: str, typed: bool = True):
    """diffusers' pipeline on the stored model. `typed`: the model is told which tokens are an image's."""
    model, pad = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).eval(), words[1].convert_tokens_to_ids(PAD)
    if typed:
        model.register_forward_pre_hook(
            lambda _, args, given: (args, {**given, "mm_token_type_ids": (given["input_ids"] == pad).int()}),
            with_kwargs=True,
        )
    processor = Qwen2_5_VLProcessor(Qwen2VLImageProcessor(), words[1], Qwen2VLVideoProcessor())
    pipe = kind(None, None, model, words[1], processor, None)
    pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx = template, DROP
    return pipe


def as_theirs(pipe, given) -> list[Image.Image]:
    """The images as diffusers' pipeline resizes them before its text encoder reads them."""
    found = []
    for x in given:
        width, height = calculate_dimensions(AREA, x.shape[2] / x.shape[1])
        found.append(pipe.image_processor.resize(Image.fromarray(x.permute(1, 2, 0).numpy()), height, width))
    return found


@torch.no_grad()
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("count", [1, 2])
def test_features_are_those_of_diffusers_pipeline(stored, words, prompt, count):
    ours, pipe = text(words, stored), pipeline(QwenImageEditPlusPipeline, stored, words, TEMPLATE)
    expected, _ = pipe.encode_prompt(prompt, as_theirs(pipe, images(count)), "cpu")
    shown = [Illustrated(prompt, images(count))]
    found, valid = ours.encode(shown), ours.valid(shown)
    size = expected.shape[1]
    assert found.shape == (1, 96, 32) and size < 96 and valid[0, :size].all() and not valid[0, size:].any()
    torch.testing.assert_close(found[:, :size], expected, rtol=1e-4, atol=1e-5)
    assert not found[:, size:].any()
    others = {"another image": images(count, seed=1), "the other order": images(count)[::-1], "none": ()}
    for what, other in others.items():
        if what == "the other order" and count == 1:
            continue
        differs = (ours.encode([Illustrated(prompt, other)])[0, :size] - expected[0]).abs().max()
        assert differs > 1e-2, f"negative control: {what}"


@torch.no_grad()
def test_the_first_edit_model_shows_its_image_without_a_number(stored, words):
    ours = text(words, stored, picture="<|vision_start|><|image_pad|><|vision_end|>")
    theirs = TEMPLATE.replace("{}", "<|vision_start|><|image_pad|><|vision_end|>{}")
    pipe = pipeline(QwenImageEditPipeline, stored, words, theirs)
    expected, _ = pipe.encode_prompt("a cat", as_theirs(pipe, images(1)), "cpu")
    found = ours.encode([Illustrated("a cat", images(1))])[:, : expected.shape[1]]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    numbered = text(words, stored).encode([Illustrated("a cat", images(1))])[:, : expected.shape[1]]
    assert (numbered - expected).abs().max() > 1e-2, "negative control"


@torch.no_grad()
def test_an_image_lies_in_two_axes_which_diffusers_pipeline_leaves_to_chance(stored, words):
    """transformers 5 wants to be told the types of tokens; the pipeline of diffusers 0.42 does not tell them."""
    ours, pipe = text(words, stored), pipeline(QwenImageEditPlusPipeline, stored, words, TEMPLATE, typed=False)
    in_a_line, _ = pipe.encode_prompt("a cat", as_theirs(pipe, images(1)), "cpu")
    found = ours.encode([Illustrated("a cat", images(1))])[:, : in_a_line.shape[1]]
    assert (found - in_a_line).abs().max() > 1e-3
    torch.testing.assert_close(found[:, :1], in_a_line[:, :1], rtol=1e-4, atol=1e-5)  # before the first image


@torch.no_grad()
def test_a_prompt_does_not_depend_on_its_neighbours_nor_on_their_images(words):
    ours = text(words)
    alone = ours.encode([Illustrated("a cat", images(1))])
    given = [Illustrated("", images(2, 3)), Illustrated("a cat", images(1)), Illustrated("a dog")]
    together = text(words).encode(given)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[2:], ours.encode(["a dog"]), rtol=1e-4, atol=1e-5)  # a string has no images
    assert (together[0] - alone[0]).abs().max() > 1e-2, "negative control"


def test_the_subjects_words_are_marked_behind_the_images(words):
    ours, shown = text(words), Illustrated("a cat", images(2))
    plain, found = ours.keywords(["a cat"], [("cat",)])[0], ours.keywords([shown], [("cat",)])[0]
    extra = len(ours._message_ids(shown)) - len(ours._message_ids("a cat"))
    assert plain.any() and (found.nonzero() - plain.nonzero()).unique().tolist() == [extra]
    assert ours.image_tokens(64, 96) == 15 and ours.image_tokens(96, 96) != 15 and extra > 2 * 15


def test_what_is_kept_of_it_is_keyed_by_the_pixels(words, tmp_path):
    ours = text(words)
    one, other, same = (Illustrated("a cat", images(1, seed)) for seed in (0, 1, 0))
    assert one == same and hash(one) == hash(same) and one != other and ours.ids([one]) == ours.ids([other])
    assert len(set(prompt_keys(ours, [one, other, same, Illustrated("a cat"), "a cat"]))) == 3
    cache = Cache(tmp_path)
    kept = cache.features(ours, [one, other], torch.device("cpu"))
    torch.testing.assert_close(kept[0], ours.encode([one])[0])
    assert not torch.equal(kept[0], kept[1])
    again = cache.features(ours, [same], torch.device("cpu"))
    assert torch.equal(again[0], kept[0]) and cache.shelf(ours).made == 2
    assert text(words, area=AREA * 2).identity != ours.identity


def test_what_cannot_be_read_is_refused(words):
    shown = Illustrated("a cat", images(2))
    with pytest.raises(ValueError, match=r"window is 20, and the 2 images of a prompt end at token \d+; raise it to"):
        text(words, window=20).encode([shown])
    with pytest.raises(ValueError, match=r"the prompt 'a <\|image_pad\|>' has <\|image_pad\|> in it"):
        text(words).encode([Illustrated(f"a {PAD}", images(1))])
    with pytest.raises(ValueError, match=r"encoder\.text\.picture is 'Picture: '; it must have <\|image_pad\|> once"):
        text(words, picture="Picture: ")
    with pytest.raises(ValueError, match=r"looks_at is 'condition'; it must be a list of roles, such as \[condition\]"):
        text(words, looks_at="condition")


def test_other_sizes_than_the_weights_have_are_refused(stored, words):
    said = config(words)
    for key, changed in (("vision", {**VISION, "depth": 3}), ("num_hidden_layers", 3)):
        name = {"vision": r"encoder\.text\.vision\.depth", "num_hidden_layers": r"config\.num_hidden_layers"}[key]
        with pytest.raises(ValueError, match=name):
            QwenVisionText(
                {**said, key: changed}, str(words[0]), 96, TEMPLATE, DROP, PICTURE, AREA, ["condition"], str(stored)
            )


def test_the_published_settings_are_the_pipelines():
    said = composed("backbone=qwen_image", "process=rectified_flow", "encoder/text=qwen2_5_vl_edit")["encoder"]["text"]
    pipe = QwenImageEditPlusPipeline(None, None, None, None, None, None)
    assert said["template"] == pipe.prompt_template_encode and said["drop"] == pipe.prompt_template_encode_start_idx
    with torch.device("meta"):
        made = QwenVisionText(**{key: value for key, value in said.items() if key != "_target_"})
    assert made.width == 3584 and made.image_tokens(512, 512) == 196
    towers = sum(p.numel() for p in made.model.visual.parameters())
    assert sum(p.numel() for p in made.parameters()) == 7_070_619_136 + towers and towers == 676_550_144


# --- in a pipeline ---------------------------------------------------------------------------------------------------


def whole(words, *overrides: str, **more):
    made = tiny("backbone=qwen_image_mini", "process=rectified_flow", "solver=euler_static", *overrides)
    made["encoder"]["text"] = {
        "_target_": "unigen.encoders.qwen_vision.QwenVisionText",
        "config": config(words),
        "tokenizer": str(words[0]),
        "window": 96,
        "template": TEMPLATE,
        "drop": DROP,
        "picture": PICTURE,
        "area": AREA,
        "looks_at": ["condition"],
        **more,
    }
    torch.manual_seed(0)
    return build_pipeline(made)


@torch.no_grad()
def test_the_text_of_a_sample_depends_on_its_condition_unless_that_is_hidden(words):
    pipe, one = whole(words), batch()
    other = replace(one, images={**one.images, "condition0": one.images["condition0"].flip(0)})

    def said(given, hidden) -> torch.Tensor:
        return pipe.encode(given, hidden).features["text"]

    assert (said(one, {}) - said(other, {})).abs().amax(dim=(1, 2)).min() > 1e-3
    for way in ("zero", "absent"):
        gone = {"condition": [way, None]}
        assert torch.equal(said(one, gone)[0], said(other, gone)[0]) and not torch.equal(
            said(one, gone)[1], said(other, gone)[1]
        )
        torch.testing.assert_close(said(one, gone)[0], pipe.text.encode([one.prompts[0]])[0], rtol=1e-4, atol=1e-5)
    black = said(one, {"condition": ["black", None]})
    assert torch.equal(black[0], said(other, {"condition": ["black", None]})[0])
    assert not torch.allclose(black[0], said(one, {"condition": ["zero", None]})[0], atol=1e-3), "it is shown, black"
    blind = whole(words, looks_at=[])
    assert torch.equal(blind.encode(one, {}).features["text"], blind.encode(other, {}).features["text"])


@torch.no_grad()
def test_sampling_reads_the_conditions_as_text(words):
    """The mask hides the condition from all others, so an image changes the sample by text alone; a warning says it."""
    pipe, one = whole(words, "mask=fcd_b_literal"), batch()
    for part in (pipe.backbone, pipe.embedding):
        randomise(part, 0.2)
    other = replace(one, images={**one.images, "condition0": one.images["condition0"].flip(0)})
    with pytest.warns(UserWarning, match=r"keeps 'condition0' from the targets, but the text encoder looks at it"):
        pipe.plan(one.slots)
    shown, changed = (pipe.sample(x, 0)["target"].int() for x in (one, other))
    assert (shown - changed).abs().max() > 1
    pipe.text.looks_at = ()
    shown, changed = (pipe.sample(x, 0)["target"].int() for x in (one, other))
    assert (shown - changed).abs().max() <= 1, "negative control"


def test_clips_sessions_and_other_roles_are_refused(words):
    with pytest.raises(ValueError, match=r"looks_at names 'target', which has no image that is given; legal are cond"):
        whole(words, looks_at=["target"])
    with pytest.raises(ValueError, match=r"looks_at names role 'conditon', which does not exist; did you mean 'condit"):
        whole(words, looks_at=["conditon"])
    pipe = whole(words)
    clip = (ImageSlot("condition0", "condition", 32, 48, 5), ImageSlot("target", "target", 32, 48))
    with pytest.raises(ValueError, match=r"slot 'condition0' is a clip of 5 frames; the text encoder reads stills"):
        pipe.plan(clip)
    turns = (
        ImageSlot("condition0", "condition", 32, 48),
        *(ImageSlot(f"x{i}", "target", 32, 48, 1, i) for i in (0, 1)),
    )
    with pytest.raises(ValueError, match=r"a session, whose turns have a prompt each; write .*looks_at=\[\]"):
        whole(words, "mask=turns").plan(turns)
