"""Embedding of conditions as vectors that a denoiser adds to its features of atoms and crystals.

Legend: B crystals, N atoms padded, H hidden width, C conditions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from chemeleon_cli.core.conditions.base import Condition, is_given
from chemeleon_cli.core.data.crystals import atom_mask
from chemeleon_cli.core.models.layers import masked_mean, mlp


class ConditionEmbedding(nn.Module):
    """An MLP on the features of each condition, and a learned vector for each condition that is not given.

    Args:
        hidden_dim: H.
        conditions: by name.
    """

    def __init__(self, hidden_dim: int, conditions: Mapping[str, Condition]) -> None:
        super().__init__()
        self.conditions = conditions
        self.embeddings = nn.ModuleList(mlp(c.width, hidden_dim, hidden_dim) for c in conditions.values())
        self.missing = nn.Parameter(torch.zeros(len(conditions), hidden_dim))  # (C, H)

    def forward(self, values: Mapping[str, Tensor], num_atoms: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """The sum over all conditions, including those that are not given.

        Args:
            values: see `ConditionBatch.values`.
            num_atoms: (B,).
            width: N.

        Returns:
            (B, N, H) for atoms, the sum over the per-atom conditions; (B, H) for crystals, the sum over all conditions,
            where those per atom are averaged over the atoms.
        """
        B, mask = len(num_atoms), atom_mask(num_atoms, width)
        crystals = self.missing.new_zeros(B, self.missing.shape[1])
        atoms = crystals.unsqueeze(1)
        for condition, embedding, missing in zip(self.conditions.values(), self.embeddings, self.missing, strict=True):
            vectors = missing.expand(B, width, -1) if condition.per_atom else missing.expand(B, -1)
            if condition.name in values:
                value = values[condition.name]
                given = is_given(value).view(-1, *[1] * (vectors.ndim - 1))
                vectors = torch.where(given, embedding(condition.features(value)), vectors)
            if condition.per_atom:
                atoms, vectors = atoms + vectors, masked_mean(vectors, mask)
            crystals = crystals + vectors
        return atoms.expand(-1, width, -1), crystals

    @torch.no_grad()
    def copy_shared(self, old: ConditionEmbedding) -> set[str]:
        """Copy the embeddings of shared conditions that are `same_in_every_model`, and return their names."""
        shared = set()
        for i, (name, condition) in enumerate(old.conditions.items()):
            own = self.conditions.get(name)
            if condition.same_in_every_model and own is not None and own.kind == condition.kind:
                row = list(self.conditions).index(name)
                self.embeddings[row].load_state_dict(old.embeddings[i].state_dict())
                self.missing[row] = old.missing[i]
                shared.add(name)
        return shared

    def sum_of_missing(self, names: Collection[str]) -> tuple[Tensor, Tensor]:
        """(H,) for atoms and (H,) for crystals: the sums that the named conditions add when they are not given."""
        rows = [i for i, name in enumerate(self.conditions) if name in names]
        of_atoms = [i for i, c in enumerate(self.conditions.values()) if i in rows and c.per_atom]
        return self.missing[of_atoms].sum(0), self.missing[rows].sum(0)
