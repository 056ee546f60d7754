"""From elementwise errors to one number. Errors are (B, L, F), one tensor a segment."""

from collections.abc import Mapping

from torch import Tensor

from unigen.types import CONDITION, TARGET


def weighted_mean(
    errors: Mapping[str, Tensor],
    roles: Mapping[str, str],
    weights: Mapping[str, float],
    generated: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """loss = sum_s w_s sum(e_s) / sum_s w_s numel(e_s), with w_s = weights[roles[s]], and each mean(e_s), detached.

    Segments of weight 0 stay out of the loss altogether, so not even a NaN of theirs reaches a gradient. With one
    weighted role this is the plain mean over its elements, whatever the weight's size.
    `generated`, (B,) booleans by segment, says which samples were to generate it, where that is not just the targets:
    w_s is then taken sample by sample, of a generated segment the target's, of a target that is shown the condition's.
    """
    unknown = sorted({roles[name] for name in errors} - set(weights))
    if unknown:
        raise ValueError(f"the loss has no weight for role {', '.join(unknown)}; its table knows {', '.join(weights)}")
    shares = (_shares(error, roles[n], weights, generated and generated[n]) for n, error in errors.items())
    parts = [(w, error) for found in shares for w, error in found if w != 0 and error.numel() > 0]
    if not parts:
        raise ValueError(
            f"no segment carries loss: weights {dict(weights)} are 0 for {sorted(roles[n] for n in errors)}"
        )
    total = sum(w * error.sum() for w, error in parts)
    count = sum(w * error.numel() for w, error in parts)
    return total / count, {name: error.detach().mean() for name, error in errors.items()}


def _shares(
    error: Tensor, role: str, weights: Mapping[str, float], generated_B: Tensor | None
) -> list[tuple[float, Tensor]]:
    """(weight, errors): one pair, or one for the samples that generate the segment and one for those that do not."""
    if generated_B is None:
        return [(weights[role], error)]
    if generated_B.all():
        return [(weights[TARGET], error)]
    shown = weights[CONDITION if role == TARGET else role]
    generated_B = generated_B.to(error.device)
    return [(weights[TARGET], error[generated_B]), (shown, error[~generated_B])]
