"""Loading pretrained weights, with one clear sentence where they cannot be had."""

from typing import Any


def load_pretrained(cls: type, source: str | None, key: str, subfolder: str | None = None) -> Any | None:
    """`cls.from_pretrained(source)`; None for a null source, and on the meta device, where shapes are enough.

    Raises ValueError naming the repository id and the config key `key` if the weights are absent.
    """
    import torch

    if source is None or torch.empty(0).is_meta:
        return None
    try:
        where = {"subfolder": subfolder} if subfolder else {}
        return cls.from_pretrained(source, **where)
    except Exception as error:  # the hubs raise a dozen unrelated types for "not there"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(
            f"the weights of {cls.__name__} ('{source}', config key {key}) cannot be loaded: {reason}. "
            f"Download them, set {key}=<folder>, or check the plan without weights by dry_run=true"
        ) from error
