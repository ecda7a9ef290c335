"""The diffusion transformer (DiT, Peebles & Xie 2023): it tells the noise in a batch of latents.

Legend: B crystals, N atoms padded, D latent width, H hidden width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from chemeleon_cli.core.conditions.conditions import NOTHING, Conditions, Said
from chemeleon_cli.core.conditions.settings import CheckedSettings
from chemeleon_cli.core.data.crystals import atom_mask
from chemeleon_cli.core.models.layers import Transformer, mlp, sinusoidal, zero_init

EMBEDDING_WIDTH = 256
"""Width of the sinusoidal embeddings of time and size before their MLPs."""


class Denoiser(nn.Module):
    """Noise prediction for the latents of crystals of known size.

    Atoms carry an index embedding: training crystals come in canonical order, lightest element first,
    and knowing one's place in it makes the first steps out of pure noise easier.

    Args:
        latent_dim: D.
        hidden_dim: H.
        num_blocks: adaLN-Zero blocks.
        num_heads: attention heads.
        conditions: what it can be asked for, see `conditions.Settings`; None for nothing.
    """

    def __init__(
        self,
        latent_dim: int = 8,
        hidden_dim: int = 256,
        num_blocks: int = 6,
        num_heads: int = 8,
        conditions: CheckedSettings = None,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "latent_dim": latent_dim,
            "hidden_dim": hidden_dim,
            "num_blocks": num_blocks,
            "num_heads": num_heads,
        }
        self.hidden_dim = hidden_dim
        self.embedding = nn.Linear(latent_dim, hidden_dim)
        self.time_embedding = mlp(EMBEDDING_WIDTH, hidden_dim, hidden_dim)
        self.size_embedding = mlp(EMBEDDING_WIDTH, hidden_dim, hidden_dim)
        self.transformer = Transformer(hidden_dim, num_blocks, num_heads, conditioned=True)
        self.norm = nn.LayerNorm(hidden_dim, eps=1e-6, elementwise_affine=False)
        self.modulation = zero_init(nn.Linear(hidden_dim, 2 * hidden_dim))
        self.head = zero_init(nn.Linear(hidden_dim, latent_dim))
        self.conditions = None
        if conditions:
            self.conditions = Conditions(hidden_dim, conditions)
            self.config["conditions"] = {name: dict(settings) for name, settings in conditions.items()}

    @torch.no_grad()
    def add_always(self, of_atoms: Tensor, of_crystals: Tensor) -> None:
        """Add (H,) to what it knows of each atom and (H,) to what it knows of each crystal, whatever is said."""
        last = self.time_embedding[-1]
        assert isinstance(last, nn.Linear)
        self.embedding.bias.add_(of_atoms)
        last.bias.add_(of_crystals)

    def forward(self, x: Tensor, timestep: Tensor, num_atoms: Tensor, said: Said = NOTHING) -> Tensor:
        """The noise in `x`.

        Args:
            x: (B, N, D) noisy latents.
            timestep: (B,) training step of each crystal.
            num_atoms: (B,).
            said: what the crystals are to be.

        Returns:
            (B, N, D), zero at padding.
        """
        mask = atom_mask(num_atoms, x.shape[1])
        index = sinusoidal(torch.arange(x.shape[1], device=x.device), self.hidden_dim, max_period=1000.0)
        condition = self.time_embedding(sinusoidal(timestep, EMBEDDING_WIDTH)) + self.size_embedding(
            sinusoidal(num_atoms, EMBEDDING_WIDTH, max_period=1000.0)
        )
        tokens = self.embedding(x) + index
        if self.conditions is not None:
            of_atoms, of_crystals = self.conditions(said.values, num_atoms, x.shape[1])
            tokens, condition = tokens + of_atoms, condition + of_crystals
        condition = nn.functional.silu(condition)
        hidden = self.transformer(tokens, mask, condition)
        shift, scale = self.modulation(condition).unsqueeze(1).chunk(2, -1)
        return self.head(self.norm(hidden) * (1 + scale) + shift) * mask.unsqueeze(-1)
