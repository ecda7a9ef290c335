"""A numeric property, such as a band gap or a formation energy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from pydantic import Field
from torch import Tensor

from chemeleon_cli.core.conditions.base import Condition
from chemeleon_cli.core.data.dataset import Table
from chemeleon_cli.errors import UserError


@dataclass(frozen=True)
class Value(Condition):
    """A column of numbers; the network reads them standardised.

    Attributes:
        mean: of the train split, in the unit of the column.
        std: standard deviation of the train split; 1 where all numbers are equal.
    """

    mean: Annotated[float, Field(ge=-1e12, le=1e12)]
    std: Annotated[float, Field(gt=0, le=1e12)]

    kind = "value"
    is_column = True

    @classmethod
    def fit(cls, name: str, table: Table) -> Self:
        """Mean and standard deviation of the column."""
        values = table.properties.get(name, torch.zeros(0)).double()
        values = values[~values.isnan()]
        if not len(values):
            raise UserError(f"{table.path}: no numbers in a column '{name}' to condition on")
        return cls(name, values.mean().item(), values.std(correction=0).item() or 1.0)

    @property
    def width(self) -> int:
        """One number."""
        return 1

    def labels(self, table: Table) -> Tensor:
        """(M,) float32, NaN for crystals without a label."""
        return table.properties.get(self.name, torch.full((len(table),), torch.nan))

    def parse(self, value: Any) -> float:
        """A finite number."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{self.name}: found {value!r}; expected a number")
        return float(value)

    def batch(self, parsed: Sequence[float | None], num_atoms: Tensor) -> Tensor:
        """(B,) float32, NaN for crystals without the condition."""
        return torch.tensor([math.nan if number is None else number for number in parsed], dtype=torch.float32)

    def features(self, values: Tensor) -> Tensor:
        """(B, 1) standardised."""
        return ((values - self.mean) / self.std).nan_to_num().unsqueeze(-1)
