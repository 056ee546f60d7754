"""Unified Conditional Embedding (RealGeneral section 3.2, Eq. 2): c_cond + W c_instance + b_task.

Shapes: B batch, F frames, C latent channels, T text tokens, D text width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unigen.core.types import ImageSlot


class UCE(nn.Module):
    """Adds the subject's text embedding, mapped to the latent width, and a task's bias to condition latents.

    c_instance is the mean text embedding over the tokens of a condition's own keyword, or of all keywords if the
    conditions do not have one each. Without a match it is zero, and only the bias is added. Both parts start at zero,
    so a converted model starts as the stock one. Trained parameters: text_width * channels + tasks * channels.
    Raises ValueError without tasks: their number decides the parameters.
    """

    reads_subjects = True  # so a run says how many of its prompts name their subject

    def __init__(self, text_width: int, channels: int, tasks: list[str] | None) -> None:
        super().__init__()
        if not tasks:
            raise ValueError(
                f"conditioning.embedding.tasks is {tasks}: UCE has a bias for each task, so it must list them; "
                "set data.tasks, or conditioning/embedding=none"
            )
        self.tasks, self.channels = list(tasks), channels
        self.subject = nn.Linear(text_width, channels, bias=False)
        self.bias = nn.Parameter(torch.zeros(len(self.tasks), channels))
        nn.init.zeros_(self.subject.weight)

    def forward(
        self,
        latents: dict[str, Tensor],
        slots: tuple[ImageSlot, ...],
        text_BTD: Tensor,
        keywords: Mapping[str, Tensor],
        tasks: list[str],
    ) -> dict[str, Tensor]:
        """Return `latents` (B, F, C, H, W) by slot with the condition slots shifted.

        `keywords` marks, for every condition slot, the tokens of its subject: (B, T) booleans.
        Raises ValueError for a task without a bias.
        """
        shifted, bias_BC = dict(latents), self.bias[self._numbers(tasks)]
        for name, keyword_BT in keywords.items():
            weight_BT1 = keyword_BT.to(text_BTD.dtype)[..., None]
            instance_BD = (text_BTD * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1)
            shift_BC = self.subject(instance_BD.to(self.bias.dtype)) + bias_BC
            shifted[name] = latents[name] + shift_BC[:, None, :, None, None]
        return shifted

    def _numbers(self, tasks: list[str]) -> Tensor:
        for task in tasks:
            if task not in self.tasks:
                raise ValueError(
                    f"task '{task}' has no bias in conditioning.embedding.tasks; it knows {', '.join(self.tasks)}"
                )
        return torch.tensor([self.tasks.index(t) for t in tasks], device=self.bias.device)


class NoEmbedding(nn.Module):
    """The ablation without UCE: condition latents as the codec made them (RealGeneral Table 3, w/o UCE)."""

    def forward(
        self,
        latents: dict[str, Tensor],
        slots: tuple[ImageSlot, ...],
        text_BTD: Tensor,
        keywords: Mapping[str, Tensor],
        tasks: list[str],
    ) -> dict[str, Tensor]:
        return latents
