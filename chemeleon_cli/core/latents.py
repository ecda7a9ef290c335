"""A table of crystals as latents, encoded once: what the denoiser trains on.

The VAE is frozen by then, so encoding every batch anew would be work done over and over.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chemeleon_cli.core.dataset import Table, augment, in_batches
from chemeleon_cli.core.vae import VAE


@dataclass(frozen=True)
class Latents:
    """Posterior means of a table's M crystals with A atoms in all, each crystal seen from K origins.

    Attributes:
        means: (K, A, D), the atoms of one crystal after the other.
        table: the crystals.
    """

    means: Tensor
    table: Table

    def batch(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The chosen crystals, each from one of its origins at random.

        Returns:
            (B, N, D) latents, zero at padding, and (B,) atom counts.
        """
        atoms, mask = self.table.atoms_of(rows)
        origin = torch.randint(len(self.means), (len(rows), 1), generator=generator)
        return self.means[origin, atoms] * mask.unsqueeze(-1), self.table.num_atoms[rows]


def encode(vae: VAE, table: Table, origins: int, batch_size: int, seed: int = 0) -> Latents:
    """Encode a table.

    Args:
        vae: on the device to use.
        table: canonical crystals.
        origins: K. One takes the canonical origin; of several, each is drawn anew by `augment`.
        batch_size: crystals at a time.
        seed: of the draws.
    """
    device = next(vae.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    means = torch.zeros(origins, len(table.numbers), vae.config["latent_dim"])
    with torch.no_grad():
        for rows, crystals in in_batches(table, batch_size):
            atoms, mask = table.atoms_of(rows)
            for k in range(origins):
                seen = crystals if origins == 1 else augment(crystals, generator)
                means[k, atoms[mask]] = vae.encoder(seen.to(device)).mean[mask.to(device)].cpu()
    return Latents(means, table)
