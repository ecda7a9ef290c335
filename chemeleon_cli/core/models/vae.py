"""The variational autoencoder, which encodes a crystal as one small vector per atom and decodes it.

Kingma & Welling 2014; the per-atom latent space follows Park & Walsh 2025 (arXiv 2511.07158).
Legend: B crystals, N atoms padded, H hidden width, D latent width.

The networks see the cell as lengths and angles and the atoms as an unordered set, so results do not depend on
orientation and order of atoms. They depend on the origin: training chooses it at random (`batches.augment`), and
predictors average over origins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chemeleon_cli.core.data.batches import in_batches
from chemeleon_cli.core.data.crystals import Crystals, atom_mask, lattice_from_parameters, wrap
from chemeleon_cli.core.data.dataset import Table
from chemeleon_cli.core.data.limits import MAX_Z
from chemeleon_cli.core.models.layers import Transformer, masked_mean, mlp, periodic_features

FREQUENCIES = 6
"""Number of harmonics of each fractional coordinate in the input of the encoder."""


@dataclass(frozen=True)
class Posterior:
    """The output of the encoder for a batch: mean and std of the latent of each atom, and the last layer.

    Attributes:
        mean: (B, N, D), zero at padding.
        std: (B, N, D).
        hidden: (B, N, H) last encoder layer, zero at padding.
        mask: (B, N).
    """

    mean: Tensor
    std: Tensor
    hidden: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Decoded:
    """The output of the decoder for a batch of latents.

    Attributes:
        element_logits: (B, N, MAX_Z); column k stands for atomic number k + 1, so there is no column for padding.
        coord_waves: (B, N, 6) sine then cosine of 2 pi x for the three fractional coordinates.
        lengths: (B, 3) cell lengths, Å.
        angles: (B, 3) cell angles, degrees.
        num_atoms: (B,).
    """

    element_logits: Tensor
    coord_waves: Tensor
    lengths: Tensor
    angles: Tensor
    num_atoms: Tensor

    def to_crystals(self, elements: Tensor | None = None) -> Crystals:
        """The most probable crystals. The lattice is NaN if no cell has the decoded angles, see `validity.problem`.

        Args:
            elements: (B, N) atomic numbers that the crystals must have, in any order, 0 at padding; None for any.
        """
        mask = atom_mask(self.num_atoms, self.coord_waves.shape[1])
        sin, cos = self.coord_waves.chunk(2, -1)
        frac = wrap(torch.atan2(sin, cos) / (2 * torch.pi)) * mask.unsqueeze(-1)
        if elements is None:
            numbers = (self.element_logits.argmax(-1) + 1) * mask
        else:
            numbers = assign_elements(self.element_logits, elements)
        return Crystals(numbers, frac, lattice_from_parameters(self.lengths, self.angles), self.num_atoms)


def assign_elements(logits: Tensor, elements: Tensor) -> Tensor:
    """The most probable assignment of given elements to the atoms, with each element as often as it is given.

    Args:
        logits: (B, N, MAX_Z) of a decoder; column k stands for atomic number k + 1.
        elements: (B, N) atomic numbers of each crystal in any order, 0 at padding.

    Returns:
        (B, N) the same atomic numbers in the order of the atoms.
    """
    from scipy.optimize import linear_sum_assignment

    costs = -logits.detach().double().log_softmax(-1).cpu().numpy()
    costs = np.nan_to_num(costs, nan=0.0, posinf=1e6)  # also assign elements if logits are not finite
    out = np.zeros(elements.shape, np.int64)
    for row, cost, padded in zip(out, costs, elements.cpu().numpy(), strict=True):
        own = padded[padded > 0]
        atoms, chosen = linear_sum_assignment(cost[: len(own), own - 1])
        row[atoms] = own[chosen]
    return torch.from_numpy(out).to(elements.device)


class Encoder(nn.Module):
    """Crystals to the posterior of one latent vector per atom.

    Args:
        hidden_dim: width H.
        num_heads: attention heads.
        num_layers: transformer blocks.
        latent_dim: D, numbers per atom.
        dropout: inside the transformer blocks.
    """

    def __init__(self, hidden_dim: int, num_heads: int, num_layers: int, latent_dim: int, dropout: float) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "hidden_dim": hidden_dim,
            "num_heads": num_heads,
            "num_layers": num_layers,
            "latent_dim": latent_dim,
            "dropout": dropout,
        }
        self.atom_embedding = nn.Embedding(MAX_Z + 1, hidden_dim, padding_idx=0)
        self.coord_embedding = mlp(6 * FREQUENCIES, hidden_dim, hidden_dim)
        self.cell_embedding = mlp(6, hidden_dim, hidden_dim)
        self.transformer = Transformer(hidden_dim, num_layers, num_heads, dropout)
        self.norm = nn.LayerNorm(hidden_dim)
        self.head = nn.Linear(hidden_dim, 2 * latent_dim)

    def forward(self, crystals: Crystals) -> Posterior:
        """The posterior of a batch; see `Posterior` for shapes."""
        mask = crystals.mask
        x = (
            self.atom_embedding(crystals.numbers)
            + self.coord_embedding(periodic_features(crystals.frac_coords, FREQUENCIES))
            + self.cell_embedding(cell_features(crystals)).unsqueeze(1)
        )
        hidden = self.norm(self.transformer(x, mask)) * mask.unsqueeze(-1)
        mean, logvar = self.head(hidden).chunk(2, -1)
        return Posterior(mean * mask.unsqueeze(-1), torch.exp(0.5 * logvar.clamp(-30, 20)), hidden, mask)


class Decoder(nn.Module):
    """Latents to crystals, with the same arguments as the encoder."""

    def __init__(self, hidden_dim: int, num_heads: int, num_layers: int, latent_dim: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Linear(latent_dim, hidden_dim)
        self.transformer = Transformer(hidden_dim, num_layers, num_heads, dropout)
        self.norm = nn.LayerNorm(hidden_dim)
        self.element_head = nn.Linear(hidden_dim, MAX_Z)
        self.coord_head = nn.Linear(hidden_dim, 6)
        self.cell_head = nn.Linear(hidden_dim, 6)

    def forward(self, latents: Tensor, num_atoms: Tensor) -> Decoded:
        """Latents (B, N, D) of crystals with `num_atoms` (B,) atoms; see `Decoded`."""
        mask = atom_mask(num_atoms, latents.shape[1])
        hidden = self.norm(self.transformer(self.embedding(latents), mask))
        scaled_lengths, angles = cell_from_features(self.cell_head(masked_mean(hidden, mask)))
        lengths = scaled_lengths * num_atoms.unsqueeze(-1) ** (1 / 3)
        return Decoded(self.element_head(hidden), self.coord_head(hidden), lengths, angles, num_atoms)


class VAE(nn.Module):
    """Transformer encoder and decoder with a latent vector per atom.

    Args:
        hidden_dim: width H.
        num_heads: attention heads.
        encoder_layers: transformer blocks of the encoder.
        decoder_layers: transformer blocks of the decoder.
        latent_dim: D, numbers per atom.
        dropout: inside the transformer blocks.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        encoder_layers: int,
        decoder_layers: int,
        latent_dim: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "hidden_dim": hidden_dim,
            "num_heads": num_heads,
            "encoder_layers": encoder_layers,
            "decoder_layers": decoder_layers,
            "latent_dim": latent_dim,
            "dropout": dropout,
        }
        self.encoder = Encoder(hidden_dim, num_heads, encoder_layers, latent_dim, dropout)
        self.decoder = Decoder(hidden_dim, num_heads, decoder_layers, latent_dim, dropout)

    def loss(self, crystals: Crystals, generator: torch.Generator, latent_noise: float) -> dict[str, Tensor]:
        """The terms of the evidence lower bound, unweighted, for one sample of the posterior.

        Args:
            crystals: a batch.
            generator: source of the noise of the posterior.
            latent_noise: std of additional noise on the decoded latents, as a share of the spread of each channel over
                the batch. It makes the decoder robust to the latents of a generator, which are never exact.

        Returns:
            Scalars: `types` (cross-entropy per atom), `coords` (squared error of the sines and cosines of
            the fractional coordinates, hence periodic), `lengths` (squared error of length / atoms^(1/3), Å^2),
            `angles` (squared error, radian^2), `kl` (nats per atom, summed over the latent's channels).
        """
        posterior, mask = self.encoder(crystals), crystals.mask
        noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean.device)
        variance = posterior.std.square()
        spread = posterior.mean[mask].var(0, correction=0)  # (D,); of a std of 0 the gradient would be NaN
        std = (variance + latent_noise**2 * spread).sqrt()
        out = self.decoder(posterior.mean + std * noise * mask.unsqueeze(-1), crystals.num_atoms)
        kl = 0.5 * (posterior.mean.square() + variance - 1 - variance.log()).sum(-1)
        scale = crystals.num_atoms.unsqueeze(-1) ** (1 / 3)
        waves = periodic_features(crystals.frac_coords, 1)
        return {
            "types": F.cross_entropy(out.element_logits[mask], crystals.numbers[mask] - 1),
            "coords": (out.coord_waves - waves)[mask].square().mean(),
            "lengths": ((out.lengths - crystals.lengths) / scale).square().mean(),
            "angles": torch.deg2rad(out.angles - crystals.angles).square().mean(),
            "kl": kl[mask].mean(),
        }


def validate(
    vae: VAE, table: Table, weights: Mapping[str, float], latent_noise: float, batch_size: int
) -> dict[str, float]:
    """Mean loss terms over a table, at the crystals' canonical origin, with seeded noise.

    Args:
        vae: in evaluation mode, without gradients (as `Run.ema_weights` gives it).
        table: crystals that it was not trained on.
        weights: the weight of each term of `VAE.loss`.
        latent_noise: as for `VAE.loss`.
        batch_size: crystals at a time.

    Returns:
        `val/loss`, and `val/<term>` of each term.
    """
    generator = torch.Generator().manual_seed(0)
    device = next(vae.parameters()).device
    totals: dict[str, float] = dict.fromkeys(weights, 0.0)
    for rows, crystals in in_batches(table, batch_size):
        for name, term in vae.loss(crystals.to(device), generator, latent_noise).items():
            totals[name] += term.item() * len(rows) / len(table)
    loss = sum(weights[name] * value for name, value in totals.items())
    return {"val/loss": loss, **{f"val/{name}": value for name, value in totals.items()}}


def cell_features(crystals: Crystals) -> Tensor:
    """(B, 6) lengths per cube root of the atom count and angles, both of order one."""
    lengths = crystals.lengths / crystals.num_atoms.unsqueeze(-1) ** (1 / 3)
    return torch.cat([(lengths - 3.0), torch.deg2rad(crystals.angles) - torch.pi / 2], -1)


def cell_from_features(features: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `cell_features`: lengths per cube root of the atom count (Å), angles (degrees)."""
    return features[..., :3] + 3.0, torch.rad2deg(features[..., 3:] + torch.pi / 2)
