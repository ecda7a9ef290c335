"""The diffusion transformer (DiT, Peebles & Xie 2023): it tells the noise in a batch of latents.

Legend: B crystals, N atoms padded, D latent width, H hidden width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from chemeleon_cli.core.crystals import atom_mask
from chemeleon_cli.core.layers import Transformer, mlp, sinusoidal, zero_init

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
    """

    def __init__(self, latent_dim: int = 8, hidden_dim: int = 256, num_blocks: int = 6, num_heads: int = 8) -> None:
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

    def forward(self, x: Tensor, timestep: Tensor, num_atoms: Tensor) -> Tensor:
        """The noise in `x`.

        Args:
            x: (B, N, D) noisy latents.
            timestep: (B,) training step of each crystal.
            num_atoms: (B,).

        Returns:
            (B, N, D), zero at padding.
        """
        mask = atom_mask(num_atoms, x.shape[1])
        index = sinusoidal(torch.arange(x.shape[1], device=x.device), self.hidden_dim, max_period=1000.0)
        condition = nn.functional.silu(
            self.time_embedding(sinusoidal(timestep, EMBEDDING_WIDTH))
            + self.size_embedding(sinusoidal(num_atoms, EMBEDDING_WIDTH, max_period=1000.0))
        )
        hidden = self.transformer(self.embedding(x) + index, mask, condition)
        shift, scale = self.modulation(condition).unsqueeze(1).chunk(2, -1)
        return self.head(self.norm(hidden) * (1 + scale) + shift) * mask.unsqueeze(-1)
