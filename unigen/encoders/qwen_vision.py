"""Qwen2.5-VL with its vision tower: the text of Qwen-Image-Edit, whose message shows the condition images too.

Shapes: B prompts, L tokens of a whole message, D width, H and W pixels.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from unigen.core.types import Illustrated
from unigen.encoders.qwen_text import QwenText
from unigen.weights.loading import check_config, in_type, load_pretrained

PAD = "<|image_pad|>"  # stands for an image in a message, once for each token of it
NUMBER = "{number}"  # of the image in the words before it, from 1
SIDE = 32  # a shrunk image's sides are multiples of it, as diffusers' pipeline has them
OF_VISION = ("vision", "mrope_section", "image_token_id")  # what `config` holds beside the language model's arguments
UNSEEN_OF_VISION = ("num_heads", "hidden_act", "spatial_merge_size", "window_size", "fullatt_block_indexes")


class VisionLanguageModel:
    """A stored Qwen2.5-VL without its head."""

    @staticmethod
    def from_pretrained(folder: Any) -> nn.Module:
        """Load it from a folder that has all parts."""
        from transformers import Qwen2_5_VLForConditionalGeneration

        return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).model


class QwenVisionText(QwenText):
    """A prompt behind the images that it is about, encoded by a frozen Qwen2.5-VL as `QwenText` encodes words alone.

    Each image of the roles `looks_at` is shown by the words `picture`, in which {number} counts from 1 and
    <|image_pad|> is the image. It is resized to about `area` pixels first, to sides that 32 divides. The images stand
    in the place of the prompt in `template`, before its words; a prompt without images is encoded as `QwenText` does.
    `config` holds the arguments of `Qwen2_5_VLTextConfig`, and beside them `vision`, those of the vision tower,
    `mrope_section`, how the three axes of positions share a head's angles, and `image_token_id`.
    Images lie in the two axes of an image, as the model was trained: transformers 5 derives that from the types of the
    tokens (`mm_token_type_ids`), which diffusers 0.42 does not hand on, so that its image tokens lie in a line.
    Raises ValueError as `QwenText` does, for a `picture` without one place for an image, for images that the window
    does not hold, and for a prompt whose words have <|image_pad|> in them.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        tokenizer: str,
        window: int,
        template: str,
        drop: int,
        picture: str,
        area: int,
        looks_at: Sequence[str],
        pretrained: str | None = None,
        dtype: str = "float32",
        layers: int | None = None,
    ) -> None:
        if isinstance(looks_at, str):
            raise ValueError(f"encoder.text.looks_at is {looks_at!r}; it must be a list of roles, such as [{looks_at}]")
        if picture.count(PAD) != 1 or picture.strip() == PAD:
            raise ValueError(
                f"encoder.text.picture is {picture!r}; it must have {PAD} once, and words that part it from the next"
            )
        super().__init__(config, tokenizer, window, template, drop, pretrained, dtype, layers)
        self.picture, self.area, self.looks_at = picture, area, tuple(looks_at)

    def _model(self, config: Mapping[str, Any], pretrained: str | None, dtype: torch.dtype) -> nn.Module:
        load = load_pretrained(VisionLanguageModel, pretrained, "encoder.text.pretrained", self.folders[0], None, dtype)
        if load is None:
            return in_type(_made(config), dtype)
        key, words = "encoder.text.pretrained", {k: v for k, v in config.items() if k not in OF_VISION}
        check_config(load.config.text_config, words, pretrained, key)
        check_config(load.config.vision_config, config["vision"], pretrained, key.replace("pretrained", "vision"))
        check_config(load.config, {"image_token_id": config["image_token_id"]}, pretrained, key)
        return load

    @property
    def language(self) -> nn.Module:
        """The language model."""
        return self.model.language_model

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings on which features depend, besides the weights, a message's ids and the images' pixels."""
        vision, words = self.model.visual.config, self.language.config
        seen = {f"vision_{name}": getattr(vision, name) for name in UNSEEN_OF_VISION}
        rope = {"mrope_section": list(words.rope_parameters["mrope_section"])}
        return {**super().identity, **seen, **rope, "area": self.area}

    @cached_property
    def processor(self) -> Any:
        """What makes patches of an image, normalised as CLIP's; its sizes are those of the vision tower."""
        from transformers import Qwen2VLImageProcessor

        vision = self.model.visual.config
        return Qwen2VLImageProcessor(
            patch_size=vision.patch_size,
            temporal_patch_size=vision.temporal_patch_size,
            merge_size=vision.spatial_merge_size,
        )

    def image_tokens(self, height: int, width: int) -> int:
        """Return how many tokens an image of this size has in a message."""
        patches = self.processor.get_number_of_image_patches(*_shrunk(height, width, self.area), {})
        return patches // self.processor.merge_size**2

    def _message(self, prompt: str | Illustrated) -> str:
        return super()._message(self._shown(prompt) + _words(prompt))

    def _shown(self, prompt: str | Illustrated) -> str:
        """Return the words that show a prompt's images."""
        return "".join(self.picture.replace(NUMBER, str(i + 1)) for i in range(len(_images(prompt))))

    def _place(self, prompt: str | Illustrated) -> tuple[int, str]:
        before, _ = super()._place("")
        return before + len(self._shown(prompt)), _words(prompt)

    def _message_ids(self, prompt: str | Illustrated) -> Sequence[int]:
        ids, pad, images = super()._message_ids(prompt), self.model.config.image_token_id, _images(prompt)
        if images and self.tokenizer.convert_tokens_to_ids(PAD) != pad:
            raise ValueError(
                f"encoder.text.config.image_token_id is {pad}, but the tokenizer has "
                f"{self.tokenizer.convert_tokens_to_ids(PAD)} for {PAD}"
            )
        if sum(token == pad for token in ids) != len(images):
            raise ValueError(f"the prompt {_words(prompt)!r} has {PAD} in it, which stands for an image; leave it out")
        found, counts = [], iter([self.image_tokens(*image.shape[-2:]) for image in images])
        for token in ids:
            found += [token] * (next(counts) if token == pad else 1)
        size = self.drop + self.window
        if pad in found[size:]:
            taken = len(found) - found[::-1].index(pad) - self.drop
            raise ValueError(
                f"encoder.text.window is {self.window}, and the {len(images)} images of a prompt end at token {taken}; "
                f"raise it to {taken} and the words' tokens, lower encoder.text.area, or write encoder.text.looks_at=[]"
            )
        return found

    def _offsets(self, prompt: str | Illustrated) -> list[tuple[int, int]]:
        """Return the span of each token of the message; all tokens of an image have that of its <|image_pad|>."""
        counts = iter([self.image_tokens(*image.shape[-2:]) for image in _images(prompt)])
        offsets, message = super()._offsets(prompt), self._message(prompt)
        return [span for span in offsets for _ in range(next(counts) if message[slice(*span)] == PAD else 1)]

    def _states(self, ids_BL: Tensor, mask_BL: Tensor, prompts: list[str] | list[Illustrated]) -> Tensor:
        images = [_resized(image, self.area) for prompt in prompts for image in _images(prompt)]
        if not images:
            return self.language(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
        seen = self.processor(images=images, return_tensors="pt").to(ids_BL.device)
        return self.model(
            input_ids=ids_BL,
            attention_mask=mask_BL,
            pixel_values=seen["pixel_values"],
            image_grid_thw=seen["image_grid_thw"],
            mm_token_type_ids=(ids_BL == self.model.config.image_token_id).int(),
            use_cache=False,
        ).last_hidden_state


def _words(prompt: str | Illustrated) -> str:
    return prompt if isinstance(prompt, str) else prompt.words


def _images(prompt: str | Illustrated) -> tuple[Tensor, ...]:
    return () if isinstance(prompt, str) else prompt.images


def _shrunk(height: int, width: int, area: int) -> tuple[int, int]:
    """Return height and width of about `area` pixels and this shape, multiples of 32, as diffusers rounds them."""
    wide = sqrt(area * (width / height))
    high = wide / (width / height)
    return max(SIDE, round(high / SIDE) * SIDE), max(SIDE, round(wide / SIDE) * SIDE)


def _resized(image_3HW: Tensor, area: int) -> Any:
    """Return an image of PIL, resized by its Lanczos filter, as diffusers' pipeline does."""
    from PIL import Image

    height, width = _shrunk(*image_3HW.shape[-2:], area)
    image = Image.fromarray(image_3HW.permute(1, 2, 0).cpu().contiguous().numpy())
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _made(config: Mapping[str, Any]) -> nn.Module:
    """Return a model with random weights."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(config["mrope_section"])}
    words = {k: v for k, v in config.items() if k not in OF_VISION} | {"rope_parameters": rope}
    vision = {"out_hidden_size": config["hidden_size"], **config["vision"]}
    return Qwen2_5_VLModel(
        Qwen2_5_VLConfig(text_config=words, vision_config=vision, image_token_id=config["image_token_id"])
    )
