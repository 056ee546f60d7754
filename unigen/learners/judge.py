"""Trains the judge of the mini family (`unigen.metrics.judge`).

Shapes: N pairs, H and W pixels, D width of an embedding.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from unigen.config.values import averages
from unigen.core.types import Batch, ImageSlot
from unigen.metrics.judge import Judge, best_retrieval, byte_ids, info_nce, retrieval
from unigen.pipeline.learner import Learner, parameters
from unigen.weights.loading import round_to_half

TOP = (1, 5)
STYLED = " style"  # the end of a prompt that names the style of the second image


class JudgeLearner(Learner):
    """Trains the judge by contrast on two views of a glyph with its caption (`datamodules.pretraining.pairs`).

    The loss is the sum of four symmetric InfoNCE losses, each over the batch with a learned temperature. `clip` has
    three: second image and prompt; first image and prompt, for prompts that name no style, since a style is that of the
    second image; first and second image, which ties the two styles together in the vision tower. `dino` has one: first
    and second image. The two models share no weights.

    Pairs are contrasted within one rank's batch: more devices give more pairs in a step, but no more negatives.
    """

    def __init__(self, config: Mapping[str, Any], clip: Mapping[str, Any], dino: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.judge = Judge(clip, dino)
        self.parts.update({"judge": self.judge})
        self.log_scales = nn.Parameter(torch.full((2,), math.log(1 / 0.07)))  # of image with image: clip's and dino's

    def print_header(self, slots: tuple[ImageSlot, ...], config: Mapping[str, Any]) -> None:
        """Print the number of parameters of both models, and the size of the images and of the batch."""
        console, slot = Console(highlight=False), slots[0]
        console.print(f"[bold]{config['name']}[/bold], seed {config['seed']}")
        for name, model in (("clip", self.judge.clip), ("dino", self.judge.dino)):
            console.print(f"{name}: {type(model).__name__}, {parameters(model)['trained']:,} parameters, all trained")
        pairs = config["data"]["batch_size"]
        console.print(f"pairs of {slot.height}×{slot.width} pixels with a caption, {pairs} contrasted in a step")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch; log it and its parts."""
        losses, _ = self._losses(batch)
        loss = torch.stack(list(losses.values())).sum()
        self.log("train/loss", loss.detach(), batch_size=len(batch))
        self.log("step", self.trainer.global_step + 1.0, batch_size=len(batch))  # Lightning counts from 0
        for name, value in losses.items():
            self.log(f"train/loss_{name}", value.detach(), batch_size=len(batch))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss, and the share of the batch whose own answer comes first, as in `measure`."""
        losses, found = self._losses(batch)
        values = {f"val/{name}": retrieval(*pair, 1) for name, pair in _questions(found).items()}
        values |= {"val/loss": torch.stack(list(losses.values())).sum(), "step": float(self.trainer.global_step)}
        self.log_dict(values, batch_size=len(batch), sync_dist=True)

    def _losses(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        found = self._embed(batch)
        text_scale, (pair_scale, view_scale) = self.judge.clip.logit_scale, self.log_scales
        first, second = found["first"], found["second"]
        losses = {
            "text": info_nce(second, found["text"], text_scale),
            "pair": info_nce(first, second, pair_scale),
            "view": info_nce(found["first_view"], found["second_view"], view_scale),
        }
        plain = [i for i, prompt in enumerate(batch.prompts) if not prompt.endswith(STYLED)]
        if plain:
            losses["plain_text"] = info_nce(first[plain], found["text"][plain], text_scale)
        return losses, found

    def _embed(self, batch: Batch) -> dict[str, Tensor]:
        """Embed both images with both models, and the prompts: (N, D) each."""
        images_2N3HW = torch.cat([batch.images[name].flatten(0, 1) for name in ("first", "second")])
        first, second = self.judge.embed_images(images_2N3HW).chunk(2)
        first_view, second_view = self.judge.view_embed(images_2N3HW).chunk(2)
        text = self.judge.embed_texts(batch.prompts)
        return {
            "first": first,
            "second": second,
            "text": text,
            "first_view": first_view,
            "second_view": second_view,
        }

    def settle(self, data: Any) -> None:
        """Round the weights to fp16, as they will be saved."""
        round_to_half(self.judge)

    @torch.no_grad()
    def measure(self, data: Any, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return how often the right one of the test glyphs comes first, and how often among the first five.

        style_retrieval_clip and style_retrieval_dino search the twemoji drawing by the openmoji drawing,
        caption_retrieval searches it by the caption. `low` is chance, k in N. `high` is the most that can be reached,
        since some openmoji drawings are the same image.
        Glyphs share bases: the test split has 292 glyphs of 73 bases, so most wrong answers that are close show the
        right thing with another skin tone, gender or direction; one base has up to 78 of these.
        """
        batches = list(data.test_dataloader())
        embedded = [self._embed(batch) for batch in batches]
        found = _questions({name: torch.cat([e[name] for e in embedded]) for name in embedded[0]})
        openmoji = [image.numpy().tobytes() for batch in batches for image in batch.images["first"].cpu()]
        window = self.judge.clip.config.text_config.max_position_embeddings
        captions = [tuple(byte_ids([prompt], window)[0].tolist()) for batch in batches for prompt in batch.prompts]
        scores = {}
        for name, pair in found.items():
            asked = captions if name == "caption_retrieval" else openmoji
            for k in TOP:
                scores[name if k == 1 else f"{name}_top{k}"] = {
                    "value": retrieval(*pair, k),
                    "low": min(1.0, k / len(asked)),
                    "high": best_retrieval(asked, k),
                    "better": "higher",
                    "items": len(asked),
                }
        bounds = {"low": "chance", "high": "best possible"}
        return {"metrics": scores, "bounds": bounds, "protocol": self._protocol(config, len(openmoji))}

    @staticmethod
    def _protocol(config: Mapping[str, Any], items: int) -> dict[str, Any]:
        return {
            "data": config["data"]["_target_"].rpartition(".")[2],
            "split": "test",
            "items": items,
            "size": config["data"]["size"],
            "style_retrieval": f"openmoji drawing to twemoji drawing, the right one of {items} test glyphs, as drawn",
            "caption_retrieval": f"plain caption to twemoji drawing, the right one of {items} test glyphs, as drawn",
            "hit": "cosine above every other glyph's (top 5: above all but four); a tie is a miss",
            "precision": "weights rounded to fp16, computed in fp32",
            "weights": "EMA" if averages(config) else "last",
        }

    def export(self, folder: Path, config: Mapping[str, Any]) -> list[Path]:
        """Save the judge in transformers' format, fp16; return its folder."""
        self.judge.save(folder / "judge")
        return [folder / "judge"]


def _questions(found: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return {retrieval: (questions, answers)}, (N, D) each."""
    return {
        "style_retrieval_clip": (found["first"], found["second"]),
        "style_retrieval_dino": (found["first_view"], found["second_view"]),
        "caption_retrieval": (found["text"], found["second"]),
    }
