"""The base class of conditions on the elements of a crystal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from chemeleon_cli.core.arguments import PositiveInt
from chemeleon_cli.core.conditions.base import Condition, nothing_to_learn
from chemeleon_cli.core.data.dataset import Table
from chemeleon_cli.core.data.limits import MAX_Z
from chemeleon_cli.errors import UserError


@dataclass(frozen=True)
class OfElements(Condition):
    """A condition that names elements.

    Attributes:
        known: atomic numbers of the elements of the train split, ascending.
    """

    known: list[PositiveInt]

    same_in_every_model = True

    @classmethod
    def fit(cls, name: str, table: Table) -> Self:
        """The elements that occur in the table."""
        known = table.numbers.unique().tolist()
        if not known:
            raise nothing_to_learn(name, table)
        return cls(name, known)

    @property
    def width(self) -> int:
        """A feature for each atomic number from 0 on; 0 stands for "no atom"."""
        return MAX_Z + 1

    def known_numbers(self, table: Table) -> Tensor:
        """(M, N) atomic numbers; all 0 for a crystal with an element that is not known."""
        numbers, known = table.crystals().numbers, torch.tensor(self.known)
        return numbers * torch.isin(numbers, torch.cat([known, known.new_zeros(1)])).all(1, keepdim=True)

    def refuse_unknown(self, value: Any, elements: Iterable[int]) -> None:
        """Raise a UserError if the train split lacks one of the elements (atomic numbers) of a requested value."""
        unknown = sorted(set(elements) - set(self.known))
        if unknown:
            from pymatgen.core import Element

            symbols = ", ".join(Element.from_Z(z).symbol for z in unknown)
            raise UserError(
                f"{self.name}: found {value!r}; the model knows no {symbols}",
                "name elements of the crystals it was trained on",
            )
