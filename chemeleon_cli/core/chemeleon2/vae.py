"""The published autoencoder, with the interface of ours.

Its input is the cell as a matrix, the coordinates without periodic features, and the index of every atom, so its output
depends on origin, orientation and order of atoms.

Legend: B crystals, N atoms padded, H hidden width, D latent width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from chemeleon_cli.core.chemeleon2.layers import Stack, index_embedding
from chemeleon_cli.core.data.crystals import Crystals, atom_mask
from chemeleon_cli.core.data.limits import MAX_Z
from chemeleon_cli.core.models import vae
from chemeleon_cli.core.models.layers import masked_mean, periodic_features
from chemeleon_cli.core.models.vae import Decoded, Posterior
from chemeleon_cli.errors import UserError

LAYOUT = "chemeleon2"


class Encoder(nn.Module):
    """Crystals to the posterior of one latent vector per atom.

    Args:
        hidden_dim: as of `models.vae.Encoder`; so are `num_heads`, `num_layers` and `latent_dim`.
        feedforward: width of the blocks' MLP.
        elements: rows of the atom embedding; row Z is element Z.
    """

    def __init__(
        self, hidden_dim: int, num_heads: int, num_layers: int, latent_dim: int, feedforward: int, elements: int
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "layout": LAYOUT,
            "hidden_dim": hidden_dim,
            "num_heads": num_heads,
            "num_layers": num_layers,
            "latent_dim": latent_dim,
            "feedforward": feedforward,
            "elements": elements,
        }
        self.atom_embedding = nn.Embedding(elements, hidden_dim)
        self.cell_embedding = _embedding(9, hidden_dim)
        self.coord_embedding = _embedding(3, hidden_dim)
        self.transformer = Stack(hidden_dim, num_layers, num_heads, feedforward)
        self.norm = nn.LayerNorm(hidden_dim)
        self.head = nn.Linear(hidden_dim, 2 * latent_dim, bias=False)

    def forward(self, crystals: Crystals) -> Posterior:
        """The posterior of a batch; see `Posterior` for shapes.

        Raises:
            UserError: a crystal has an element that the encoder does not know.
        """
        known = self.config["elements"]
        if crystals.numbers.numel() and int(crystals.numbers.max()) >= known:
            raise UserError(f"a crystal has an element beyond Z = {known - 1}, which this encoder does not know")
        mask = crystals.mask
        index = torch.arange(mask.shape[1], device=mask.device)
        x = (
            self.atom_embedding(crystals.numbers)
            + self.coord_embedding(crystals.frac_coords)
            + self.cell_embedding(crystals.lattice.flatten(1)).unsqueeze(1)
            + index_embedding(index, self.config["hidden_dim"])
        )
        hidden = self.norm(self.transformer(x, mask)) * mask.unsqueeze(-1)
        mean, logvar = self.head(hidden).chunk(2, -1)
        return Posterior(mean, torch.exp(0.5 * logvar.clamp(-30, 20)), hidden, mask)


class Decoder(nn.Module):
    """Latents to crystals; the arguments are the encoder's, and `classes` the element logits."""

    def __init__(
        self, hidden_dim: int, num_heads: int, num_layers: int, latent_dim: int, feedforward: int, classes: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Linear(latent_dim, hidden_dim, bias=False)
        self.transformer = Stack(hidden_dim, num_layers, num_heads, feedforward)
        self.norm = nn.LayerNorm(hidden_dim)
        self.element_head = nn.Linear(hidden_dim, classes)
        self.coord_head = nn.Linear(hidden_dim, 3, bias=False)
        self.cell_head = nn.Linear(hidden_dim, 6, bias=False)

    def heads(self, latents: Tensor, num_atoms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The raw output of the network.

        Returns:
            (B, N, classes) logits, class Z for element Z; (B, N, 3) fractional coordinates; (B, 6) lengths per
            cube root of the atom count (Å) and angles (radians).
        """
        mask = atom_mask(num_atoms, latents.shape[1])
        x = self.embedding(latents)
        x = x + index_embedding(torch.arange(x.shape[1], device=x.device), x.shape[2])
        hidden = self.norm(self.transformer(x, mask))
        return self.element_head(hidden), self.coord_head(hidden), self.cell_head(masked_mean(hidden, mask))

    def forward(self, latents: Tensor, num_atoms: Tensor) -> Decoded:
        """Latents (B, N, D) of crystals with `num_atoms` (B,) atoms; see `Decoded`.

        Class 0 is no element and cannot come out; elements without a class have no probability.
        """
        classes, coords, cell = self.heads(latents, num_atoms)
        logits = classes.new_full((*classes.shape[:2], MAX_Z), -torch.inf)
        logits[..., : classes.shape[-1] - 1] = classes[..., 1:]
        lengths = cell[:, :3] * num_atoms.unsqueeze(-1) ** (1 / 3)
        return Decoded(logits, periodic_features(coords, 1), lengths, torch.rad2deg(cell[:, 3:]), num_atoms)


class VAE(vae.VAE):
    """The published pair of encoder and decoder; its loss is ours, with periodic coordinates.

    Args:
        latent_dim: D, numbers per atom.
        encoder: further arguments of `Encoder`.
        decoder: further arguments of `Decoder`.
    """

    def __init__(self, latent_dim: int, encoder: Mapping[str, Any], decoder: Mapping[str, Any]) -> None:
        nn.Module.__init__(self)  # not our networks
        self.encoder = Encoder(latent_dim=latent_dim, **encoder)
        self.decoder = Decoder(latent_dim=latent_dim, **decoder)
        self.config = {
            "layout": LAYOUT,
            "latent_dim": latent_dim,
            "encoder": dict(encoder),
            "decoder": dict(decoder),
        }


def _embedding(inputs: int, hidden_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden_dim, bias=False), nn.SiLU(), nn.Linear(hidden_dim, hidden_dim))
