"""The base class of conditions that take one of a few values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from chemeleon_cli.core.conditions.base import Condition


@dataclass(frozen=True)
class OneOf(Condition):
    """A condition whose values are numbered from 1; 0 marks "not given". `parse` returns the number."""

    def batch(self, parsed: Sequence[int | None], num_atoms: Tensor) -> Tensor:
        """(B,) int64 numbers, 0 for crystals without the condition."""
        return torch.tensor([number or 0 for number in parsed])

    def features(self, values: Tensor) -> Tensor:
        """(B, F) one-hot; the first feature stands for "not given"."""
        return F.one_hot(values, self.width).float()
