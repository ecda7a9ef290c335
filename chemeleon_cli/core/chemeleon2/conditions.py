"""The conditions of a published generator: our classes of conditions, with the features and the network that its
weights were trained with.

Legend: B crystals, N atoms padded, H hidden width, F features of a condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chemeleon_cli.core.conditions.base import Condition, is_given
from chemeleon_cli.core.conditions.category import Category
from chemeleon_cli.core.conditions.chemical_system import ChemicalSystem
from chemeleon_cli.core.conditions.composition import Composition
from chemeleon_cli.core.conditions.value import Value
from chemeleon_cli.core.data.limits import MAX_Z
from chemeleon_cli.core.models.layers import mlp


class Fractions(Composition):
    """A composition that the network reads as the share of each element."""

    per_atom = False

    def features(self, values: Tensor) -> Tensor:
        """(B, F) of the atomic numbers (B, N); index Z has the share of element Z."""
        counts = super().features(values).sum(1)
        counts[:, 0] = 0  # padding
        return counts / counts.sum(1, keepdim=True).clamp(min=1)


class Classes(Category):
    """A category without a feature for "not given"."""

    def features(self, values: Tensor) -> Tensor:
        """(B, F) one-hot; all zero if it is not given."""
        return super().features(values)[:, 1:]


KINDS: dict[str, type[Condition]] = {
    "float": Value,
    "composition": Fractions,
    "chemical_system": ChemicalSystem,
    "categorical": Classes,
}
"""The classes of conditions, by their names in the published code."""


def published_conditions(encoders: Mapping[str, Mapping[str, Any]], elements: int = MAX_Z + 1) -> dict[str, Condition]:
    """The conditions of a published model, by name.

    Args:
        encoders: for each, its `kind` (a name of KINDS), its `width`, and `mean` and `std` of a "float". Classes are
            known by their numbers, counted from 0.
        elements: elements from this atomic number on are not known.
    """
    conditions = {}
    for name, own in encoders.items():
        kind, width = KINDS[own["kind"]], own["width"]
        fields: dict[str, Any] = {"known": list(range(1, min(width, elements)))}
        if kind is Value:
            fields = {"mean": own.get("mean", 0.0), "std": own.get("std", 1.0)}
        elif kind is Classes:
            fields = {"known": [str(number) for number in range(width)]}
        conditions[name] = kind(name, **fields)
    return conditions


class ConditionEncoder(nn.Module):
    """An MLP on the features of one condition, or on a learned vector if it is not given.

    Args:
        condition: what it is.
        width: F of the published model.
        hidden_dim: H.
    """

    def __init__(self, condition: Condition, width: int, hidden_dim: int) -> None:
        super().__init__()
        self.condition, self.width = condition, width
        self.embedding = mlp(width, hidden_dim, hidden_dim)
        self.missing = nn.Parameter(torch.zeros(1, width))

    def forward(self, values: Tensor | None, count: int) -> Tensor:
        """(B, H) of one of `ConditionBatch.values`, or of None for `count` crystals for which it is not given."""
        vectors = self.missing.expand(count, -1)
        if values is not None:
            features = self.condition.features(values)
            features = F.pad(features, (0, self.width - features.shape[1]))  # or cut off: not all know every element
            vectors = torch.where(is_given(values).unsqueeze(-1), features, vectors)
        return self.embedding(vectors)


class ConditionEmbedding(nn.Module):
    """All conditions of a model as one vector for each crystal.

    Args:
        hidden_dim: H.
        encoders: as in `published_conditions`.
    """

    def __init__(self, hidden_dim: int, encoders: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        conditions = published_conditions(encoders)
        self.encoders = nn.ModuleDict(
            {name: ConditionEncoder(conditions[name], own["width"], hidden_dim) for name, own in encoders.items()}
        )
        self.projection = mlp(len(encoders) * hidden_dim, hidden_dim, hidden_dim)

    def forward(self, values: Mapping[str, Tensor], count: int) -> Tensor:
        """(B, H) of `ConditionBatch.values` of `count` crystals."""
        parts = [encoder(values.get(name), count) for name, encoder in self.encoders.items()]
        return self.projection(torch.cat(parts, -1))
