"""From elementwise errors to one number. Errors are (B, L, F), one tensor a segment."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from unigen.types import CONDITION, TARGET

SAMPLE, BATCH = "sample", "batch"
AVERAGES = (SAMPLE, BATCH)


class Share(NamedTuple):
    """Errors (N, L, F) of one segment that count alike: how much, and of which samples of the batch (None: of all)."""

    weight: float
    errors: Tensor
    samples_N: Tensor | None = None


def weighted_mean(
    errors: Mapping[str, Tensor],
    roles: Mapping[str, str],
    weights: Mapping[str, float],
    generated: Mapping[str, Tensor] | None = None,
    average: str = SAMPLE,
) -> tuple[Tensor, dict[str, Tensor]]:
    """loss = sum_s w_s sum(e_s) / sum_s w_s numel(e_s), with w_s = weights[roles[s]], and each mean(e_s), detached.

    Segments of weight 0 stay out of the loss altogether, so not even a NaN of theirs reaches a gradient. With one
    weighted role this is the plain mean over its elements, whatever the weight's size.
    `generated`, (B,) booleans by segment, says which samples were to generate it, where that is not just the targets:
    w_s is then taken sample by sample, of a generated segment the target's, of a target that is shown the condition's.
    Samples may then have unequally many elements that count. `average` "sample" takes the formula of each sample and
    then the mean of the samples, of which one without any counts 0: a batch's gradient is the mean of its parts', in
    whatever parts it is computed. "batch" takes the formula once over all, so that a sample counts by its elements.
    """
    unknown = sorted({roles[name] for name in errors} - set(weights))
    if unknown:
        raise ValueError(f"the loss has no weight for role {', '.join(unknown)}; its table knows {', '.join(weights)}")
    shares = (_shares(error, roles[n], weights, generated and generated[n]) for n, error in errors.items())
    parts = [share for found in shares for share in found if share.weight != 0 and share.errors.numel() > 0]
    if not parts:
        raise ValueError(
            f"no segment carries loss: weights {dict(weights)} are 0 for {sorted(roles[n] for n in errors)}"
        )
    means = {name: error.detach().mean() for name, error in errors.items()}
    if average == SAMPLE and any(share.samples_N is not None for share in parts):
        return _mean_of_samples(parts, len(next(iter(errors.values())))), means
    total = sum(share.weight * share.errors.sum() for share in parts)
    return total / sum(share.weight * share.errors.numel() for share in parts), means


def checked_average(average: str) -> str:
    """The same; raises ValueError unless `weighted_mean` knows it."""
    if average not in AVERAGES:
        raise ValueError(f"loss.average is {average!r}; legal are {', '.join(AVERAGES)}")
    return average


def _mean_of_samples(parts: list[Share], size: int) -> Tensor:
    """The formula of each of `size` samples, averaged."""
    total_B = count_B = parts[0].errors.new_zeros(size)
    for weight, errors, samples_N in parts:
        where_N = torch.arange(size) if samples_N is None else samples_N
        where_N = where_N.to(total_B.device)
        sums_N = weight * errors.flatten(1).sum(1)
        total_B = total_B.index_add(0, where_N, sums_N)
        count_B = count_B.index_add(0, where_N, torch.full_like(sums_N, weight * errors[0].numel()))
    return (total_B / torch.where(count_B == 0, 1, count_B)).mean()


def _shares(error: Tensor, role: str, weights: Mapping[str, float], generated_B: Tensor | None) -> list[Share]:
    """One share, or one for the samples that generate the segment and one for those that do not."""
    if generated_B is None:
        return [Share(weights[role], error)]
    if generated_B.all():
        return [Share(weights[TARGET], error)]
    shown = weights[CONDITION if role == TARGET else role]
    found = []
    for weight, chosen_B in ((weights[TARGET], generated_B), (shown, ~generated_B)):
        samples_N = chosen_B.nonzero().flatten()
        found.append(Share(weight, error[samples_N.to(error.device)], samples_N))
    return found
