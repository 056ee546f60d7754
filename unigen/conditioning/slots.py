"""Learned vectors that tell the parts of a sample apart: by role, by the number of an image in its role, by turn.

Shapes: B batch, L tokens, D width, S segments, N vectors.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from unigen.core.layout import Layout, Segment
from unigen.core.types import TEXT
from unigen.protocols import Backbone

KEY = "conditioning.slots"


class SlotVectors(nn.Module):
    """Adds learned vectors to the tokens of each segment, behind the embedder. They start at zero, so that a model
    starts as it is without them.

    roles: the name of each role's vector, null for none; roles may share one. DreamO has one for targets and one for
    conditions.
    numbers: how many images of a role have a vector each, by their number among those of their role (DreamO has 10,
    OmniGen2 has 5 for conditions). A condition that is hidden keeps its number, and so do the others.
    turns: how many turns of a session have a vector each for the segments of a role, text too (VINCIE has 64 for text).
    In a sample with in-context examples every row is a turn, and the text belongs to the last.
    Trained parameters: D for each name of a role that the formatter has, for each number and for each turn.
    Raises ValueError for names that are none, for roles and numbers of text, and for tables without a vector.
    """

    def __init__(
        self,
        roles: Mapping[str, str | None],
        numbers: Mapping[str, int] | None = None,
        turns: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        numbers, turns = numbers or {}, turns or {}
        for table, of in (("roles", roles), ("numbers", numbers), ("turns", turns)):
            if not isinstance(of, Mapping):
                raise ValueError(f"{KEY}.{table} is {of!r}; legal is a table such as {{condition: ...}}")
            if TEXT in of and of is not turns:
                raise ValueError(f"{KEY}.{table} names '{TEXT}', but these vectors are of images; leave it out")
        for role, name in roles.items():
            if name is not None and not (isinstance(name, str) and name.isidentifier()):
                raise ValueError(f"{KEY}.roles.{role} is {name!r}; legal are null and names, such as {role}")
        for table, of in (("numbers", numbers), ("turns", turns)):
            for role, count in of.items():
                if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                    raise ValueError(f"{KEY}.{table}.{role} is {count!r}; legal are whole numbers from 1")
        self.roles, self.numbers, self.turns = dict(roles), dict(numbers), dict(turns)
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
        turned = [(_turn(role), i) for role in roles for i in range(self.turns.get(role, 0))]
        self.rows = {key: row for row, key in enumerate([*names, *numbered, *turned], start=1)}
        if not self.rows:
            raise ValueError(f"{KEY} gives no role a vector; take conditioning/slots=none")
        self.table = nn.Parameter(torch.zeros(len(self.rows), backbone.width))
        backbone.tell_slots_apart(self)

    def check(self, layout: Layout) -> None:
        """Raises ValueError for more images of a role than have a number, and for more turns than have a vector."""
        for s in layout.segments:
            if s.turn >= (most := self.turns.get(s.role, s.turn + 1)):
                raise ValueError(
                    f"{KEY}.turns.{s.role} is {most}, but a sample has at least {s.turn + 1} turns; give it as many as "
                    "samples may have"
                )
        for s in layout.visual:
            if s.number >= (most := self.numbers.get(s.role, s.number + 1)):
                raise ValueError(
                    f"{KEY}.numbers.{s.role} is {most}, but a sample has at least {s.number + 1} images of that role; "
                    "give it as many as samples may have"
                )

    def words(self, layout: Layout) -> list[str]:
        """Return what is added to each segment, such as 'condition1: condition + number 2', if anything is."""
        said = {s.name: self._keys(s) for s in layout.segments}
        names = {}
        for of, which in self.rows:
            kind = "turn" if of.startswith(_turn("")) else "number"
            names[of, which] = which if of == "role" else f"{kind} {which + 1}"
        return [f"{name}: {' + '.join(names[key] for key in keys)}" for name, keys in said.items() if keys]

    def forward(self, x_BLD: Tensor, segments: Sequence[Segment]) -> Tensor:
        """Return embedded tokens with the vectors of their segments added."""
        # row 0 is no vector; the table is always read as a whole, so that every vector has a gradient in every step
        table_ND = torch.cat([self.table.new_zeros(1, self.table.shape[1]), self.table])
        rows = [[self.rows[key] for key in self._keys(s)] for s in segments]
        rows_S3 = torch.tensor([[*row, 0, 0, 0][:3] for row in rows], device=x_BLD.device)
        added_SD = table_ND[rows_S3].sum(1)
        tokens = torch.tensor([s.tokens for s in segments], device=x_BLD.device)
        return x_BLD + added_SD.repeat_interleave(tokens, dim=0, output_size=x_BLD.shape[1]).to(x_BLD.dtype)

    def _keys(self, s: Segment) -> list[tuple[str, str | int]]:
        """Return the keys of the vectors of a segment, at most three."""
        keys = [("role", self.roles.get(s.role)), (s.role, s.number), (_turn(s.role), s.turn)]
        return [key for key in keys if key in self.rows]


def _turn(role: str) -> str:
    return f"turn of {role}"


class NoSlotVectors:
    """The stock models: images are told apart by their positions alone."""

    roles: Mapping[str, str | None] = {}
    numbers: Mapping[str, int] = {}
    turns: Mapping[str, int] = {}

    def fit(self, backbone: Backbone, roles: tuple[str, ...]) -> None:
        """Leave the backbone as it is."""
