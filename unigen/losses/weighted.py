"""The weighted mean that makes one number of elementwise errors. Errors are (B, L, F), one tensor a segment."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from unigen.core.types import CONDITION, TARGET

SAMPLE, BATCH = "sample", "batch"
AVERAGES = (SAMPLE, BATCH)


class Share(NamedTuple):
    """Errors (N, L, F) of one segment with one weight, and the samples of the batch they belong to (None: all)."""

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
    """Return loss = sum_s w_s sum(e_s) / sum_s w_s numel(e_s), w_s = weights[roles[s]], and each mean(e_s), detached.

    Segments of weight 0 stay out of the loss altogether, so not even a NaN of theirs reaches a gradient. If only one
    role has a weight, this is the plain mean over its elements, however large the weight.
    `generated` holds (B,) booleans by segment, True where a sample generates the segment; None: the targets are
    generated. With it, w_s is chosen sample by sample: a generated segment has the target's weight, a target that is
    shown has the condition's.
    Samples may then have unequal numbers of elements that count. With `average` "sample" the formula is computed for
    each sample and the samples are averaged (one without such elements counts as 0), so that the gradient of a batch is
    the mean of those of its parts, however it is split. With "batch" the formula is computed once over all elements, so
    that a sample counts by the number of its elements.
    Raises ValueError for a role without a weight, and if no segment carries loss.
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
    """Return `average` unchanged; raise ValueError unless `weighted_mean` knows it."""
    if average not in AVERAGES:
        raise ValueError(f"loss.average is {average!r}; legal are {', '.join(AVERAGES)}")
    return average


def _mean_of_samples(parts: list[Share], size: int) -> Tensor:
    """Return the mean over `size` samples of each sample's own weighted mean."""
    total_B = count_B = parts[0].errors.new_zeros(size)
    for weight, errors, samples_N in parts:
        where_N = torch.arange(size) if samples_N is None else samples_N
        where_N = where_N.to(total_B.device)
        sums_N = weight * errors.flatten(1).sum(1)
        total_B = total_B.index_add(0, where_N, sums_N)
        count_B = count_B.index_add(0, where_N, torch.full_like(sums_N, weight * errors[0].numel()))
    return (total_B / torch.where(count_B == 0, 1, count_B)).mean()


def _shares(error: Tensor, role: str, weights: Mapping[str, float], generated_B: Tensor | None) -> list[Share]:
    """Return one share, or two: for the samples that generate the segment, and for those that do not."""
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
