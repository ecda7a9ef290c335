"""A composition: SrTiO3.

Crystals in canonical order have their atoms sorted by atomic number, so a formula and the number of atoms tell every
atom its element.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chemeleon_cli.core.conditions.of_elements import OfElements
from chemeleon_cli.core.data.dataset import Table
from chemeleon_cli.errors import UserError

LARGEST_UNIT = 1000
"""Atoms of a formula unit."""


class Composition(OfElements):
    """The element of each atom. Decoded crystals have exactly the requested composition."""

    kind = "composition"
    per_atom = True

    def labels(self, table: Table) -> Tensor:
        """(M, N) int64 atomic numbers, 0 at padding."""
        return self.known_numbers(table)

    def parse(self, value: Any) -> tuple[int, ...]:
        """The atomic numbers of the smallest formula unit."""
        unit = formula_unit(value)
        self.refuse_unknown(value, unit)
        return unit

    def batch(self, parsed: Sequence[tuple[int, ...] | None], num_atoms: Tensor) -> Tensor:
        """(B, N) int64 atomic numbers, of as many formula units as fit the number of atoms."""
        out = torch.zeros(len(parsed), int(num_atoms.max()), dtype=torch.int64)
        for row, unit, count in zip(out, parsed, num_atoms.tolist(), strict=True):
            if unit is not None:
                if count % len(unit):
                    raise UserError(f"{self.kind}: found {len(unit)} atoms; they do not fit a crystal of {count}")
                row[:count] = torch.tensor(unit).repeat_interleave(count // len(unit))
        return out

    def features(self, values: Tensor) -> Tensor:
        """(B, N, F) one-hot."""
        return F.one_hot(values, self.width).float()


@functools.lru_cache(maxsize=10_000)
def formula_unit(text: str) -> tuple[int, ...]:
    """Atomic numbers of the smallest formula unit, ascending: "Sr2Ti2O6" -> (8, 8, 8, 22, 38).

    Raises:
        UserError: it is not a formula with whole numbers, or a very large one.
    """
    from pymatgen.core import Composition, Element

    mend = "write it like SrTiO3"
    try:
        amounts = Composition(str(text)).get_el_amt_dict()
        counts = {Element(symbol).Z: amount for symbol, amount in amounts.items()}
    except ValueError as error:
        raise UserError(f"composition: found '{text}'; expected a formula ({error})", mend) from None
    if not counts or any(not float(amount).is_integer() or amount < 1 for amount in counts.values()):
        raise UserError(f"composition: found '{text}'; expected whole numbers of atoms", mend)
    divisor = math.gcd(*(round(amount) for amount in counts.values()))
    if (size := sum(counts.values()) / divisor) > LARGEST_UNIT:
        found = f"composition: found '{text}', with {size:g} atoms in a formula unit"
        raise UserError(f"{found}; expected at most {LARGEST_UNIT:,}", mend)
    return tuple(z for z in sorted(counts) for _ in range(round(counts[z]) // divisor))
