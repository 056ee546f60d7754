"""The judge of the mini family: two small encoders that tell what a picture shows, and how well they tell it.

`clip` compares pictures with words (CLIP, arXiv:2103.00020), `dino` pictures with pictures and has never seen a word.
Both are ordinary transformers models, trained by `unigen.learners.judge`. Metrics that use them are called mini_*:
they play the parts of CLIP and DINO at this scale, and their values compare with nothing outside it.

Shapes: N pictures or texts, D width of an embedding, L bytes, H and W pixels.
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

from unigen.canvas import to_unit
from unigen.repositories import SHIPPED, shipped_folder
from unigen.weights import load_pretrained, without_bars

END, FIRST_BYTE = 1, 3  # ByT5's end token, and the token of byte 0; 0 pads
HOTTEST = 100.0  # of 1 / temperature, as in CLIP


class Judge(nn.Module):
    """`clip`: CLIPModel over pictures and ByT5's bytes. `dino`: CLIPVisionModelWithProjection, trained without text.

    `dino` takes DINO's part (self-supervised, pictures alone) by other means: its loss contrasts two views of a glyph
    with those of other glyphs, and a view is either drawing under an augmentation. There is no teacher and no
    self-distillation, and unlike DINO it is taught that the two styles of a glyph are the same thing.

    The constructor takes the models' configurations as plain dictionaries and draws weights from torch's generator.
    All embeddings are fp32 unit vectors, so that a dot product is a cosine; gradients flow.
    """

    def __init__(self, clip: Mapping[str, Any], dino: Mapping[str, Any]) -> None:
        from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection

        super().__init__()
        self.fingerprint: str | None = None  # of the weight files, once they are files
        self._hold(CLIPModel(CLIPConfig(**clip)), CLIPVisionModelWithProjection(CLIPVisionConfig(**dino)))

    def embed_pictures(self, pictures_N3HW: Tensor) -> Tensor:
        """(N, D) of uint8 pictures of any size, by the vision tower of `clip`."""
        pixels = self._pixels(pictures_N3HW, self.clip.config.vision_config.image_size)
        return _unit(self.clip.visual_projection(self.clip.vision_model(pixel_values=pixels).pooler_output))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(N, D) of texts, by the text tower of `clip`; what is longer than its positions is cut."""
        ids_NL = byte_ids(texts, self.clip.config.text_config.max_position_embeddings).to(self.clip.device)
        return _unit(self.clip.text_projection(self.clip.text_model(input_ids=ids_NL).pooler_output))

    def view_embed(self, pictures_N3HW: Tensor) -> Tensor:
        """(N, D) of uint8 pictures of any size, by `dino`."""
        return _unit(self.dino(pixel_values=self._pixels(pictures_N3HW, self.dino.config.image_size)).image_embeds)

    def _pixels(self, pictures_N3HW: Tensor, size: int) -> Tensor:
        """In [-1, 1], (N, 3, size, size), on the judge's device."""
        if pictures_N3HW.dtype != torch.uint8 or pictures_N3HW.ndim != 4 or pictures_N3HW.shape[1] != 3:
            given = f"{pictures_N3HW.dtype} {tuple(pictures_N3HW.shape)}"
            raise ValueError(f"the judge takes uint8 pixels of shape (N, 3, H, W), got {given}")
        pixels = to_unit(pictures_N3HW.to(self.dino.device))
        if pixels.shape[2:] == (size, size):
            return pixels
        return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)

    def _hold(self, clip: nn.Module, dino: nn.Module) -> None:
        self.clip, self.dino = clip, dino
        for model in (clip, dino):  # fused attention is slow at this size: up to 3 times on a CPU in bf16
            model.set_attn_implementation("eager")

    def save(self, folder: Path) -> None:
        """`folder`/clip and `folder`/dino in transformers' format, fp16. Raises OSError if they cannot be written."""
        from safetensors import SafetensorError

        for name, model in (("clip", self.clip), ("dino", self.dino)):
            try:
                with without_bars():
                    copy.deepcopy(model).half().save_pretrained(folder / name)
            except SafetensorError as error:  # a full disk
                raise OSError(f"{folder / name} could not be written: {error}") from error

    @classmethod
    def load(cls, source: str, key: str) -> "Judge":
        """What `save` wrote into a folder, or "shipped:NAME" of this package, in fp32 and ready to judge.

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
    """`Judge.load`, once for each source in a process: metrics share it."""
    if source not in _LOADED:
        _LOADED[source] = Judge.load(source, key)
    return _LOADED[source]


def judge_protocol(source: str, key: str, compares: str) -> dict[str, str]:
    """The protocol of a metric that asks a judge: the weights are named by source and by content."""
    import transformers

    return {
        "library": "transformers",
        "version": transformers.__version__,
        "parameters": f"cosine of {compares}; pictures at the judge's own size, bilinear with antialias",
        "judge": f"{source}, SHA-256 {load_judge(source, key).fingerprint}",
    }


def fingerprint(folder: Path) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of both models' weights, clip first."""
    digest = hashlib.sha256()
    for name in ("clip", "dino"):
        digest.update((folder / name / "model.safetensors").read_bytes())
    return digest.hexdigest()[:12]


def byte_ids(texts: Sequence[str], most: int) -> Tensor:
    """(N, L) tokens as `ByT5Tokenizer` makes them: at most `most`, the last one the end, padded to the longest."""
    rows = [torch.tensor([*(FIRST_BYTE + byte for byte in text.encode()[: most - 1]), END]) for text in texts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def info_nce(a_ND: Tensor, b_ND: Tensor, log_scale: Tensor) -> Tensor:
    """-(log softmax_j(s a_i.b_j) + log softmax_j(s b_i.a_j))[j = i] / 2, mean over i; s = min(exp(log_scale), 100).

    In fp32 whatever autocast says: s a.b in bf16 is off by up to 0.2.
    """
    with torch.autocast(a_ND.device.type, enabled=False):
        logits_NN = log_scale.float().exp().clamp(max=HOTTEST) * a_ND.float() @ b_ND.float().T
        own_N = torch.arange(len(a_ND), device=a_ND.device)
        return (F.cross_entropy(logits_NN, own_N) + F.cross_entropy(logits_NN.T, own_N)) / 2


def retrieval(questions_ND: Tensor, answers_ND: Tensor, k: int) -> float:
    """The share of questions whose own answer is among the k nearest; a tie with a wrong answer counts as wrong."""
    scores_NN = questions_ND @ answers_ND.T
    better_N = (scores_NN >= scores_NN.diagonal()[:, None]).sum(dim=1) - 1
    return float((better_N < k).double().mean())


def best_retrieval(questions: Sequence[Hashable], k: int) -> float:
    """The most that `retrieval` can be: of g equal questions, which get the same k answers, min(g, k) can be right."""
    return sum(min(count, k) for count in Counter(questions).values()) / len(questions)


def _unit(x_ND: Tensor) -> Tensor:
    return F.normalize(x_ND.float(), dim=-1)
