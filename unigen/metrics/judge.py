"""The judge of the mini family: two small encoders that embed images and texts, and functions that test them.

`clip` compares images with texts (CLIP, arXiv:2103.00020), `dino` compares images with images and was trained without
text. Both are ordinary transformers models, trained by `unigen.learners.judge`. The metrics that use them are called
mini_*: they replace CLIP and DINO at this scale, and their values cannot be compared with CLIP's or DINO's.

Shapes: N images or texts, D width of an embedding, L bytes, H and W pixels.
"""

import copy
import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unigen.core.canvas import to_unit
from unigen.weights.loading import load_pretrained, without_bars
from unigen.weights.repositories import SHIPPED, shipped_folder

END, FIRST_BYTE = 1, 3  # ByT5's end token, and the token of byte 0; 0 pads
HOTTEST = 100.0  # of 1 / temperature, as in CLIP


class Judge(nn.Module):
    """Two models: `clip`, a CLIPModel over images and bytes of text, and `dino`, a CLIPVisionModelWithProjection.

    `dino` replaces DINO, which is self-supervised on images alone, but it is trained otherwise: its loss contrasts two
    views of a glyph with those of other glyphs, and a view is either drawing under an augmentation. There is no teacher
    and no self-distillation, and unlike DINO it learns that the two styles of a glyph are the same thing.

    The constructor takes the models' configurations as plain dictionaries and draws weights from torch's generator.
    All embeddings are fp32 unit vectors, so that a dot product is a cosine; gradients flow.
    """

    def __init__(self, clip: Mapping[str, Any], dino: Mapping[str, Any]) -> None:
        from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection

        super().__init__()
        self.fingerprint: str | None = None  # of the weight files that it was loaded from
        self._hold(CLIPModel(CLIPConfig(**clip)), CLIPVisionModelWithProjection(CLIPVisionConfig(**dino)))

    def embed_images(self, images_N3HW: Tensor) -> Tensor:
        """Embed uint8 images of any size with the vision tower of `clip`, (N, D)."""
        pixels = self._pixels(images_N3HW, self.clip.config.vision_config.image_size)
        return _unit(self.clip.visual_projection(self.clip.vision_model(pixel_values=pixels).pooler_output))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts with the text tower of `clip`, (N, D); texts longer than its positions are cut."""
        ids_NL = byte_ids(texts, self.clip.config.text_config.max_position_embeddings).to(self.clip.device)
        return _unit(self.clip.text_projection(self.clip.text_model(input_ids=ids_NL).pooler_output))

    def view_embed(self, images_N3HW: Tensor) -> Tensor:
        """Embed uint8 images of any size with `dino`, (N, D)."""
        return _unit(self.dino(pixel_values=self._pixels(images_N3HW, self.dino.config.image_size)).image_embeds)

    def _pixels(self, images_N3HW: Tensor, size: int) -> Tensor:
        """Return the images as pixels in [-1, 1], (N, 3, size, size), on the judge's device."""
        if images_N3HW.dtype != torch.uint8 or images_N3HW.ndim != 4 or images_N3HW.shape[1] != 3:
            given = f"{images_N3HW.dtype} {tuple(images_N3HW.shape)}"
            raise ValueError(f"the judge takes uint8 pixels of shape (N, 3, H, W), got {given}")
        pixels = to_unit(images_N3HW.to(self.dino.device))
        if pixels.shape[2:] == (size, size):
            return pixels
        return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)

    def _hold(self, clip: nn.Module, dino: nn.Module) -> None:
        self.clip, self.dino = clip, dino
        for model in (clip, dino):  # fused attention is slow at this size: up to 3 times on a CPU in bf16
            model.set_attn_implementation("eager")

    def save(self, folder: Path) -> None:
        """Save both models in transformers' format, fp16, to `folder`/clip and `folder`/dino.

        Raises OSError if they cannot be written.
        """
        from safetensors import SafetensorError

        for name, model in (("clip", self.clip), ("dino", self.dino)):
            try:
                with without_bars():
                    copy.deepcopy(model).half().save_pretrained(folder / name)
            except SafetensorError as error:  # a full disk
                raise OSError(f"{folder / name} could not be written: {error}") from error

    @classmethod
    def load(cls, source: str, key: str) -> "Judge":
        """Load a judge from a folder that `save` wrote, or from "shipped:NAME" of this package, in fp32 for inference.

        Raises ValueError naming `source` and the config key `key` if the weights are absent.
        """
        from transformers import CLIPModel, CLIPVisionModelWithProjection

        clip = load_pretrained(CLIPModel, f"{source}/clip", key)
        dino = load_pretrained(CLIPVisionModelWithProjection, f"{source}/dino", key)
        with torch.device("meta"):
            judge = cls(clip.config.to_dict(), dino.config.to_dict())
        judge._hold(clip.float(), dino.float())
        judge.fingerprint = fingerprint(shipped_folder(source) if source.startswith(SHIPPED) else Path(source))
        return judge.eval().requires_grad_(False)


_LOADED: dict[str, Judge] = {}


def load_judge(source: str, key: str) -> Judge:
    """Load a judge once for each source in a process, since several metrics use it."""
    if source not in _LOADED:
        _LOADED[source] = Judge.load(source, key)
    return _LOADED[source]


def judge_protocol(source: str, key: str, compares: str) -> dict[str, str]:
    """Return the protocol of a metric that uses a judge; it names the weights by their source and their hash."""
    import transformers

    return {
        "library": "transformers",
        "version": transformers.__version__,
        "parameters": f"cosine of {compares}; pictures at the judge's own size, bilinear with antialias",
        "judge": f"{source}, SHA-256 {load_judge(source, key).fingerprint}",
    }


def fingerprint(folder: Path) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of both models' weights, clip first."""
    digest = hashlib.sha256()
    for name in ("clip", "dino"):
        digest.update((folder / name / "model.safetensors").read_bytes())
    return digest.hexdigest()[:12]


def byte_ids(texts: Sequence[str], most: int) -> Tensor:
    """Return tokens (N, L) as `ByT5Tokenizer` does: at most `most`, with the end token, padded to the longest."""
    rows = [torch.tensor([*(FIRST_BYTE + byte for byte in text.encode()[: most - 1]), END]) for text in texts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def info_nce(a_ND: Tensor, b_ND: Tensor, log_scale: Tensor) -> Tensor:
    """The symmetric InfoNCE loss: mean over i of -(log softmax_j(s a_i.b_j) + log softmax_j(s b_i.a_j))[j = i] / 2.

    s = min(exp(log_scale), 100). It is computed in fp32 even under autocast, because s a.b in bf16 is off by up to 0.2.
    """
    with torch.autocast(a_ND.device.type, enabled=False):
        logits_NN = log_scale.float().exp().clamp(max=HOTTEST) * a_ND.float() @ b_ND.float().T
        own_N = torch.arange(len(a_ND), device=a_ND.device)
        return (F.cross_entropy(logits_NN, own_N) + F.cross_entropy(logits_NN.T, own_N)) / 2


def retrieval(questions_ND: Tensor, answers_ND: Tensor, k: int) -> float:
    """Return the share of questions whose own answer is among the k nearest; a tie with a wrong answer is a miss."""
    scores_NN = questions_ND @ answers_ND.T
    better_N = (scores_NN >= scores_NN.diagonal()[:, None]).sum(dim=1) - 1
    return float((better_N < k).double().mean())


def best_retrieval(questions: Sequence[Hashable], k: int) -> float:
    """Return the most that `retrieval` can reach: of g equal questions, which get the same k answers, min(g, k) hit."""
    return sum(min(count, k) for count in Counter(questions).values()) / len(questions)


def _unit(x_ND: Tensor) -> Tensor:
    return F.normalize(x_ND.float(), dim=-1)
