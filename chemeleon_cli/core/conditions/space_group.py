"""A space group, by its number in the International Tables: 225."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from chemeleon_cli.core.arguments import PositiveInt
from chemeleon_cli.core.conditions.base import nothing_to_learn
from chemeleon_cli.core.conditions.one_of import OneOf
from chemeleon_cli.core.data.dataset import Table
from chemeleon_cli.errors import UserError

SPACE_GROUPS = 230


@dataclass(frozen=True)
class SpaceGroup(OneOf):
    """The space group that spglib finds, see `Table.space_groups`.

    Attributes:
        known: the numbers that occur in the train split, ascending.
    """

    known: list[PositiveInt]

    kind = "space_group"
    same_in_every_model = True

    @classmethod
    def fit(cls, name: str, table: Table) -> Self:
        """The space groups that occur in the table."""
        known = sorted(set(table.space_groups.tolist()) - {0})
        if not known:
            raise nothing_to_learn(name, table)
        return cls(name, known)

    @property
    def width(self) -> int:
        """A feature for each space group, and the first for "not given"."""
        return SPACE_GROUPS + 1

    def labels(self, table: Table) -> Tensor:
        """(M,) int64 numbers, 0 if there is none or the model does not know it."""
        return table.space_groups.where(torch.isin(table.space_groups, torch.tensor(self.known)), 0)

    def parse(self, value: Any) -> int:
        """The number."""
        found = f"{self.name}: found {value!r}"
        if isinstance(value, bool) or value not in range(1, SPACE_GROUPS + 1):
            raise UserError(f"{found}; expected the number of a space group, 1 to {SPACE_GROUPS}")
        if value not in self.known:
            raise UserError(f"{found}; none of the crystals that the model was trained on has that space group")
        return int(value)
