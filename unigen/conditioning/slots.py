"""Learned vectors that tell the images of a sample apart: one for a role, one for the number of an image in its role.

Shapes: B batch, L image tokens, D width, S segments, N vectors.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unigen.core.layout import Layout
from unigen.core.types import TEXT
from unigen.protocols import Backbone

KEY = "conditioning.slots"


class SlotVectors(nn.Module):
    """Adds learned vectors to the tokens of each image, behind the patch embedder. They start at zero, so that a model
    starts as it is without them.

    roles: the name of each role's vector, null for none; roles may share one. DreamO has one for targets and one for
    conditions.
    numbers: how many images of a role have a vector each, by their number among those of their role (DreamO has 10,
    OmniGen2 has 5 for conditions). A condition that is hidden keeps its number, and so do the others.
    Trained parameters: D for each name of a role that the formatter has, and for each number.
    Raises ValueError for names that are none, for numbers of text, and for tables without a vector.
    """

    def __init__(self, roles: Mapping[str, str | None], numbers: Mapping[str, int] | None = None) -> None:
        super().__init__()
        numbers = numbers or {}
        for table, of in (("roles", roles), ("numbers", numbers)):
            if not isinstance(of, Mapping):
                raise ValueError(f"{KEY}.{table} is {of!r}; legal is a table such as {{condition: ...}}")
            if TEXT in of:
                raise ValueError(f"{KEY}.{table} names '{TEXT}', but the vectors are of images; leave it out")
        for role, name in roles.items():
            if name is not None and not (isinstance(name, str) and name.isidentifier()):
                raise ValueError(f"{KEY}.roles.{role} is {name!r}; legal are null and names, such as {role}")
        for role, count in numbers.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{KEY}.numbers.{role} is {count!r}; legal are whole numbers from 1")
        self.roles, self.numbers = dict(roles), dict(numbers)
        self.rows: dict[tuple[str, str | int], int] = {}

    def fit(self, backbone: Backbone, roles: tuple[str, ...]) -> None:
        """Make the vectors that a formatter's roles need, and have the backbone add them.

        Raises ValueError, naming the culprit, for a role without an entry in `roles`, and if no role has a vector.
        """
        images = [role for role in roles if role != TEXT]
        if missing := [role for role in images if role not in self.roles]:
            raise ValueError(f"{KEY}.roles has no entry for {', '.join(missing)}; add {missing[0]}: null for no vector")
        names = dict.fromkeys(("role", self.roles[role]) for role in images if self.roles[role] is not None)
        numbered = [(role, i) for role in images for i in range(self.numbers.get(role, 0))]
        self.rows = {key: row for row, key in enumerate([*names, *numbered], start=1)}
        if not self.rows:
            raise ValueError(f"{KEY} gives no role a vector; take conditioning/slots=none")
        self.table = nn.Parameter(torch.zeros(len(self.rows), backbone.width))
        backbone.tell_slots_apart(self)

    def check(self, layout: Layout) -> None:
        """Raises ValueError for more images of a role than have a number."""
        for s in layout.visual:
            if s.number >= (most := self.numbers.get(s.role, s.number + 1)):
                raise ValueError(
                    f"{KEY}.numbers.{s.role} is {most}, but a sample has at least {s.number + 1} images of that role; "
                    "give it as many as samples may have"
                )

    def words(self, layout: Layout) -> list[str]:
        """Return what is added to each image, such as 'condition1: condition + number 2', if anything is."""
        said = {s.name: self._keys(s.role, s.number) for s in layout.visual}
        names = {key: key[1] if key[0] == "role" else f"number {key[1] + 1}" for key in self.rows}
        return [f"{name}: {' + '.join(names[key] for key in keys)}" for name, keys in said.items() if keys]

    def forward(self, x_BLD: Tensor, layout: Layout) -> Tensor:
        """Return the embedded tokens of the images of `layout` with their vectors added."""
        # row 0 is no vector; the table is always read as a whole, so that every vector has a gradient in every step
        table_ND = torch.cat([self.table.new_zeros(1, self.table.shape[1]), self.table])
        rows = [[self.rows[key] for key in self._keys(s.role, s.number)] for s in layout.visual]
        pairs_S2 = torch.tensor([[*row, 0, 0][:2] for row in rows], device=x_BLD.device)
        added_SD = table_ND[pairs_S2].sum(1)
        tokens = torch.tensor([s.tokens for s in layout.visual], device=x_BLD.device)
        return x_BLD + added_SD.repeat_interleave(tokens, dim=0, output_size=x_BLD.shape[1]).to(x_BLD.dtype)

    def _keys(self, role: str, number: int) -> list[tuple[str, str | int]]:
        keys = [("role", self.roles.get(role)), (role, number)]
        return [key for key in keys if key in self.rows]


class NoSlotVectors:
    """The stock models: images are told apart by their positions alone."""

    roles: Mapping[str, str | None] = {}
    numbers: Mapping[str, int] = {}

    def fit(self, backbone: Backbone, roles: tuple[str, ...]) -> None:
        """Leave the backbone as it is."""
