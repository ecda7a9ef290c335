"""The published diffusion transformer, with the output layout that its weights were trained with.

The head gives every position 2D numbers, (B, P, 2D) in all. They are read as (B, 2P, D): row r holds half r % 2
of position r // 2. Rows 0..P-1 are the noise, rows P..2P-1 the variance channel, each kept where the atom r % P
exists. So the noise of atom i comes from position i // 2, and in a small crystal the variance comes from
positions past the last atom, which are computed too: results depend on P, which is what training mostly had.

Legend: B crystals, N atoms padded, P positions of the network, D latent width, H hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chemeleon_cli.core.chemeleon2.conditions import ConditionEmbedding
from chemeleon_cli.core.chemeleon2.layers import Stack, index_embedding
from chemeleon_cli.core.conditions.base import NO_CONDITIONS, ConditionBatch
from chemeleon_cli.core.data.crystals import atom_mask
from chemeleon_cli.core.models.layers import mlp, sinusoidal


class Denoiser(nn.Module):
    """Noise and variance in the latents of crystals of known size.

    Args:
        latent_dim: as of `models.denoiser.DiffusionTransformer`; so are `hidden_dim`, `num_blocks` and `num_heads`.
        feedforward: width of the blocks' MLP.
        time_width: of the timestep's sinusoidal embedding.
        positions: P, unless a crystal is larger.
        conditions: arguments of `ConditionEmbedding` but H; None for a model without conditions.
    """

    def __init__(
        self, latent_dim: int, hidden_dim: int, num_blocks: int, num_heads: int, feedforward: int, time_width: int,
        positions: int, conditions: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conditions = None if conditions is None else ConditionEmbedding(hidden_dim, **conditions)
        self.config: dict[str, Any] = {
            "latent_dim": latent_dim,
            "hidden_dim": hidden_dim,
            "num_blocks": num_blocks,
            "num_heads": num_heads,
            "feedforward": feedforward,
            "time_width": time_width,
            "positions": positions,
            "conditions": None if conditions is None else dict(conditions),
        }
        self.embedding = nn.Linear(latent_dim, hidden_dim)
        self.time_embedding = mlp(time_width, hidden_dim, hidden_dim)
        self.transformer = Stack(hidden_dim, num_blocks, num_heads, feedforward, conditioned=True)
        self.norm = nn.LayerNorm(hidden_dim, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(hidden_dim, 2 * hidden_dim)
        self.head = nn.Linear(hidden_dim, 2 * latent_dim)

    def forward(
        self, x: Tensor, timestep: Tensor, num_atoms: Tensor, conditions: ConditionBatch = NO_CONDITIONS
    ) -> Tensor:
        """The noise in `x`: (B, N, D), zero at padding. Arguments as in `noise_and_variance`."""
        return self.noise_and_variance(x, timestep, num_atoms, conditions)[0]

    def noise_and_variance(
        self, x: Tensor, timestep: Tensor, num_atoms: Tensor, conditions: ConditionBatch = NO_CONDITIONS
    ) -> tuple[Tensor, Tensor]:
        """The noise in `x`, and the position of its variance between the smallest and the largest possible one.

        Args:
            x: (B, N, D) noisy latents.
            timestep: (B,) training step of each crystal.
            num_atoms: (B,).
            conditions: requested conditions.

        Returns:
            Two tensors (B, N, D), zero at padding; the second is roughly between -1 (smallest) and 1 (largest).
        """
        noise, variance = self.raw(x, timestep, num_atoms, conditions).chunk(2, 1)
        return noise[:, : x.shape[1]], variance[:, : x.shape[1]]

    def raw(self, x: Tensor, timestep: Tensor, num_atoms: Tensor, conditions: ConditionBatch = NO_CONDITIONS) -> Tensor:
        """The output in its own layout, (B, 2P, D)."""
        B, N, D = x.shape
        positions = max(self.config["positions"], N)
        mask = atom_mask(num_atoms, positions)
        index = torch.arange(positions, device=x.device).minimum(num_atoms.unsqueeze(1) - 1)  # (B, P)
        c = self.time_embedding(sinusoidal(timestep, self.config["time_width"]))
        if self.conditions is not None:
            c = c + self.conditions(conditions.values, B)
        c = F.silu(c)  # (B, H)
        tokens = self.embedding(F.pad(x, (0, 0, 0, positions - N)))
        hidden = self.transformer(tokens + index_embedding(index, self.config["hidden_dim"]), mask, c)
        shift, scale = self.modulation(c).unsqueeze(1).chunk(2, -1)
        out = self.head(self.norm(hidden) * (1 + scale) + shift)  # (B, P, 2D)
        return out.reshape(B, 2 * positions, D) * mask.repeat(1, 2).unsqueeze(-1)
