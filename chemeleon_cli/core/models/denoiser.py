"""Denoisers, which predict the noise in a batch of latents: the base class and the diffusion transformer.

Another kind of denoiser is a subclass of `Denoiser` that is listed in `build.DENOISERS`.

Legend: B crystals, N atoms padded, D latent width, H hidden width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from chemeleon_cli.core.conditions.base import NO_CONDITIONS, ConditionBatch
from chemeleon_cli.core.conditions.kinds import from_settings
from chemeleon_cli.core.data.crystals import atom_mask
from chemeleon_cli.core.models.condition_embedding import ConditionEmbedding
from chemeleon_cli.core.models.layers import Transformer, mlp, sinusoidal, zero_init

EMBEDDING_WIDTH = 256
"""Width of the sinusoidal embeddings of time and size before their MLPs."""


class Denoiser(nn.Module, ABC):
    """Noise prediction for the latents of crystals of known size.

    The constructor takes plain values (among them `latent_dim`, and `conditions` if it can be conditioned). `config`
    has all of them and, if it is not the default, the `kind`, so that the denoiser can be rebuilt from a checkpoint.

    Attributes:
        config: the arguments of the constructor.
        conditions: the embedding of its conditions; None if it has none.
    """

    config: dict[str, Any]
    conditions: ConditionEmbedding | None

    @abstractmethod
    def forward(
        self, x: Tensor, timestep: Tensor, num_atoms: Tensor, conditions: ConditionBatch = NO_CONDITIONS
    ) -> Tensor:
        """The noise in `x`.

        Args:
            x: (B, N, D) noisy latents, standardised; zero at padding.
            timestep: (B,) training step of each crystal.
            num_atoms: (B,).
            conditions: requested conditions.

        Returns:
            (B, N, D), zero at padding.
        """

    @abstractmethod
    def add_always(self, of_atoms: Tensor, of_crystals: Tensor) -> None:
        """Add (H,) to the features of each atom and (H,) to those of each crystal, for all conditions."""

    @torch.no_grad()
    def start_from(self, trained: Self) -> None:
        """Copy the weights of a trained denoiser of the same kind and size, which may have other conditions.

        Without conditions, both then predict the same noise: the embeddings of conditions that are
        `same_in_every_model` are copied, and the vectors of the others for "not given" are added to the biases.
        """
        weights = {k: v for k, v in trained.state_dict().items() if not k.startswith("conditions.")}
        lacking, _ = self.load_state_dict(weights, strict=False)
        assert all(name.startswith("conditions.") for name in lacking), lacking
        if trained.conditions is not None:
            copied = set() if self.conditions is None else self.conditions.copy_shared(trained.conditions)
            self.add_always(*trained.conditions.sum_of_missing(trained.conditions.conditions.keys() - copied))


class DiffusionTransformer(Denoiser):
    """The diffusion transformer (DiT, Peebles & Xie 2023).

    Atoms have an index embedding. Training crystals are in canonical order, the lightest element first, and the index
    of an atom helps in the first steps from pure noise.

    Args:
        latent_dim: D.
        hidden_dim: H.
        num_blocks: adaLN-Zero blocks.
        num_heads: attention heads.
        conditions: settings by name, see `conditions.kinds.to_settings`; None or empty for none.
    """

    def __init__(
        self,
        latent_dim: int,
        hidden_dim: int,
        num_blocks: int,
        num_heads: int,
        conditions: Mapping[str, Mapping[str, Any]] | None = None,
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
            self.conditions = ConditionEmbedding(hidden_dim, from_settings(conditions))
            self.config["conditions"] = {name: dict(settings) for name, settings in conditions.items()}

    @torch.no_grad()
    def add_always(self, of_atoms: Tensor, of_crystals: Tensor) -> None:
        """Add to the biases of the embedding of latents and of the embedding of time."""
        last = self.time_embedding[-1]
        assert isinstance(last, nn.Linear)
        self.embedding.bias.add_(of_atoms)
        last.bias.add_(of_crystals)

    def forward(
        self, x: Tensor, timestep: Tensor, num_atoms: Tensor, conditions: ConditionBatch = NO_CONDITIONS
    ) -> Tensor:
        """The noise in `x`, see `Denoiser`."""
        mask = atom_mask(num_atoms, x.shape[1])
        index = sinusoidal(torch.arange(x.shape[1], device=x.device), self.hidden_dim, max_period=1000.0)
        condition = self.time_embedding(sinusoidal(timestep, EMBEDDING_WIDTH)) + self.size_embedding(
            sinusoidal(num_atoms, EMBEDDING_WIDTH, max_period=1000.0)
        )
        tokens = self.embedding(x) + index
        if self.conditions is not None:
            of_atoms, of_crystals = self.conditions(conditions.values, num_atoms, x.shape[1])
            tokens, condition = tokens + of_atoms, condition + of_crystals
        condition = nn.functional.silu(condition)
        hidden = self.transformer(tokens, mask, condition)
        shift, scale = self.modulation(condition).unsqueeze(1).chunk(2, -1)
        return self.head(self.norm(hidden) * (1 + scale) + shift) * mask.unsqueeze(-1)
