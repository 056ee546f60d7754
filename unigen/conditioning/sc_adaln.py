"""Separated Condition AdaLN (RealGeneral section 3.3): modulation weights and a time for each role."""

from collections.abc import Mapping

from unigen.core.masks import TIMINGS
from unigen.protocols import Backbone


class RoleModulation:
    """Role tables for modulation: `branches` (role to branch name) and `timing` (role to own or shared).

    SC-AdaLN is {text: text, condition: condition, target: target}; the stock model, whose video
    branch serves both frames, is {text: text, condition: video, target: video}. With `timing` "own"
    a role is modulated at its own noise level min(t, cap) instead of the step's t (the paper: shared).
    """

    def __init__(self, branches: Mapping[str, str], timing: Mapping[str, str]) -> None:
        for role, word in timing.items():
            if word not in TIMINGS:
                raise ValueError(f"conditioning.modulation.timing.{role} is {word!r}; legal are {', '.join(TIMINGS)}")
        for role, name in branches.items():
            if not isinstance(name, str) or not name.isidentifier():
                raise ValueError(
                    f"conditioning.modulation.branches.{role} is {name!r}; legal are names, such as target"
                )
        self.branches, self.timing = dict(branches), dict(timing)

    def apply(self, backbone: Backbone, tied: bool) -> None:
        """Split the backbone's modulation; `tied` branches share its frozen weights, others are copies."""
        backbone.split_modulation(self.branches, tied)
