"""Several formatters as one: every sample says which of them places its images."""

from collections.abc import Mapping

from unigen.core.layout import Geometry, Plan
from unigen.core.types import Signature
from unigen.protocols import Formatter


class Arranged:
    """Places a sample by the formatter that its slots name in `arrangement`, or by `usual` if they name none.

    So one model is trained on frames and on grids alike (`data.arrangements`, `data.forms.NAME.arrangement`).
    Raises ValueError for a name that is none of `ways`, and for ways that do not know the same roles and axes.
    """

    name = "arranged"

    def __init__(self, ways: Mapping[str, Formatter], usual: str) -> None:
        if usual not in ways:
            raise ValueError(f"formatter.usual is {usual!r}; legal are {', '.join(ways)}")
        self.ways, self.usual = dict(ways), usual
        first = self.ways[usual]
        for name, way in self.ways.items():
            if set(way.roles) != set(first.roles) or way.axes != first.axes:
                raise ValueError(
                    f"formatter.ways.{name} has the roles {', '.join(way.roles)}, and {usual} has "
                    f"{', '.join(first.roles)}; all ways must have the same, since a model has one table of roles"
                )
        self.axes, self.roles = first.axes, first.roles

    def __call__(self, signature: Signature, geometry: Geometry) -> Plan:
        """Return the plan that the named formatter makes."""
        name = (signature.slots[0].arrangement if signature.slots else "") or self.usual
        if name not in self.ways:
            raise ValueError(
                f"a sample wants the arrangement '{name}'; formatter.ways knows {', '.join(self.ways)} "
                "(data.arrangements, data.forms.NAME.arrangement)"
            )
        return self.ways[name](signature, geometry)
