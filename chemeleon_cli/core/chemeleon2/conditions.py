"""What a published generator can be conditioned on.

Legend: B crystals, H hidden width, C conditions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chemeleon_cli.core.data.limits import MAX_Z
from chemeleon_cli.core.models.layers import mlp

KINDS = ("float", "composition", "chemical_system", "categorical")


class Condition(nn.Module):
    """One condition: its value as a vector, or a learned vector for "not said", through an MLP.

    Args:
        kind: one of KINDS.
        width: of the vector.
        hidden_dim: H.
        mean: of a "float" in the training set.
        std: likewise.
    """

    def __init__(self, kind: str, width: int, hidden_dim: int, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        self.kind, self.width, self.mean, self.std = kind, width, mean, std
        self.embedding = mlp(width, hidden_dim, hidden_dim)
        self.missing = nn.Parameter(torch.zeros(1, width))

    def vector(self, values: Sequence[Any]) -> Tensor:
        """(B, width): a standardised number; element fractions or 0/1 at index Z; or one-hot.

        Args:
            values: numbers; formulas as "SrTiO3"; systems as "Sr-Ti-O"; or classes counted from 0.
        """
        if self.kind == "float":
            return (torch.as_tensor(values, dtype=torch.float32).unsqueeze(-1) - self.mean) / self.std
        if self.kind == "categorical":
            return F.one_hot(torch.as_tensor(values), self.width).float()
        from pymatgen.core import Composition

        out = torch.zeros(len(values), self.width)
        for row, text in zip(out, values, strict=True):
            composition = Composition(text.replace("-", ""))
            for element in composition.elements:
                fraction = composition.get_atomic_fraction(element)
                row[element.Z] = fraction if self.kind == "composition" else 1.0
        return out

    def read(self, value: Tensor) -> Tensor:
        """The same (B, width) of one of `core.conditions.Said.values`."""
        if self.kind == "float":
            return (value.unsqueeze(-1) - self.mean) / self.std
        if self.kind == "categorical":
            return F.one_hot(value - 1, self.width).float()
        if self.kind == "chemical_system":
            return value[:, : self.width].float()
        counts = F.one_hot(value, max(self.width, MAX_Z + 1)).sum(1).float()
        counts[:, 0] = 0  # padding
        return counts[:, : self.width] / counts.sum(1, keepdim=True)


class Conditions(nn.Module):
    """All conditions of a model, which come together or not at all.

    Args:
        hidden_dim: H.
        encoders: arguments of each `Condition` but H, by name.
    """

    def __init__(self, hidden_dim: int, encoders: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: Condition(hidden_dim=hidden_dim, **e) for name, e in encoders.items()})
        self.projection = mlp(len(encoders) * hidden_dim, hidden_dim, hidden_dim)

    def forward(self, values: Mapping[str, Sequence[Any]]) -> Tensor:
        """(B, H) of B values of every condition, by its name."""
        return self.embed({name: e.vector(values[name]) for name, e in self._each()})

    def embed(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """(B, H) of the vectors (B, width) of every condition, by its name."""
        made = [e.embedding(vectors[name].to(e.missing.device)) for name, e in self._each()]
        return self.projection(torch.cat(made, -1))

    def read(self, values: Mapping[str, Tensor]) -> Tensor:
        """(B, H) of what is said as `core.conditions.Said` has it."""
        return self.embed({name: e.read(values[name]) for name, e in self._each()})

    def null(self, count: int) -> Tensor:
        """(count, H): nothing is said."""
        made = [e.embedding(e.missing.expand(count, -1)) for _, e in self._each()]
        return self.projection(torch.cat(made, -1))

    def _each(self) -> list[tuple[str, Condition]]:
        return [(name, e) for name, e in self.encoders.items() if isinstance(e, Condition)]
