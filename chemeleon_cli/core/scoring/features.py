"""Features of a crystal from an autoencoder: one vector for its structure and one for its composition.

Legend: B crystals, D latent width, E width of the atom-type embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from chemeleon_cli.core.data.crystals import Crystals
    from chemeleon_cli.core.models.vae import Encoder

BATCH = 256
"""Crystals per forward pass of a model."""


@torch.no_grad()
def features(encoder: Encoder, crystals: Crystals) -> tuple[Tensor, Tensor]:
    """(B, D) latents and (B, E) atom-type embeddings of canonical crystals, averaged over atoms, float32."""
    crystals = crystals.to(encoder.atom_embedding.weight.device)
    mask = crystals.mask.unsqueeze(-1)
    latents, atoms = encoder(crystals).mean, encoder.atom_embedding(crystals.numbers)
    count = crystals.num_atoms.unsqueeze(-1)
    return (latents * mask).sum(1).float() / count, (atoms * mask).sum(1).float() / count
