"""A chemical system, such as Li-Fe-P-O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from chemeleon_cli.core.conditions.of_elements import OfElements
from chemeleon_cli.core.data.dataset import Table
from chemeleon_cli.core.data.limits import MAX_Z
from chemeleon_cli.errors import UserError


class ChemicalSystem(OfElements):
    """The elements of a crystal, in any amounts."""

    kind = "chemical_system"

    def labels(self, table: Table) -> Tensor:
        """(M, MAX_Z + 1) bool, True at the atomic numbers that occur."""
        out = torch.zeros(len(table), MAX_Z + 1, dtype=torch.bool).scatter_(1, self.known_numbers(table), True)
        out[:, 0] = False  # padding
        return out

    def parse(self, value: Any) -> list[int]:
        """The atomic numbers."""
        from pymatgen.core import Element

        try:
            elements = sorted({Element(symbol.strip()).Z for symbol in str(value).split("-")})
        except ValueError:
            expected = "expected elements joined by '-', such as Li-Fe-P-O"
            raise UserError(f"{self.name}: found {value!r}; {expected}") from None
        self.refuse_unknown(value, elements)
        return elements

    def batch(self, parsed: Sequence[list[int] | None], num_atoms: Tensor) -> Tensor:
        """(B, MAX_Z + 1) bool, all False if it is not given."""
        out = torch.zeros(len(parsed), MAX_Z + 1, dtype=torch.bool)
        for row, elements in zip(out, parsed, strict=True):
            row[elements or []] = True
        return out

    def features(self, values: Tensor) -> Tensor:
        """(B, F) zeros and ones."""
        return values.float()
