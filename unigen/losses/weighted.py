"""From elementwise errors to one number. Errors are (B, L, F), one tensor a segment."""

from collections.abc import Mapping

from torch import Tensor


def weighted_mean(
    errors: Mapping[str, Tensor], roles: Mapping[str, str], weights: Mapping[str, float]
) -> tuple[Tensor, dict[str, Tensor]]:
    """loss = sum_s w_s sum(e_s) / sum_s w_s numel(e_s), with w_s = weights[roles[s]], and each mean(e_s), detached.

    Segments of weight 0 stay out of the loss altogether, so not even a NaN of theirs reaches a gradient. With one
    weighted role this is the plain mean over its elements, whatever the weight's size.
    """
    unknown = sorted({roles[name] for name in errors} - set(weights))
    if unknown:
        raise ValueError(f"the loss has no weight for role {', '.join(unknown)}; its table knows {', '.join(weights)}")
    weighted = {name: weights[roles[name]] for name in errors if weights[roles[name]] != 0}
    if not weighted:
        raise ValueError(
            f"no segment carries loss: weights {dict(weights)} are 0 for {sorted(roles[n] for n in errors)}"
        )
    total = sum(w * errors[name].sum() for name, w in weighted.items())
    count = sum(w * errors[name].numel() for name, w in weighted.items())
    return total / count, {name: error.detach().mean() for name, error in errors.items()}
