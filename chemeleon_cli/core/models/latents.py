"""The training data of a denoiser: the latents of a table of crystals, and the conditions of each crystal.

The autoencoder is frozen while a denoiser is trained, so crystals are encoded only once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chemeleon_cli.core.conditions.base import ConditionBatch
from chemeleon_cli.core.conditions.requests import Conditions
from chemeleon_cli.core.data.batches import in_batches
from chemeleon_cli.core.data.dataset import Table
from chemeleon_cli.core.models.vae import VAE


@dataclass(frozen=True)
class Latents:
    """Posterior means of the crystals of a table, with A atoms in all.

    Each crystal is encoded only in its canonical form. Other origins describe the same crystal, and a generator trained
    on all of them would spend its capacity on copies.

    Attributes:
        means: (A, D), one crystal after the other.
        table: the M crystals.
        conditions: those of the model, by name.
        labels: the condition of each crystal, by the same names, see `Condition.labels`.
    """

    means: Tensor
    table: Table
    conditions: Conditions = field(default_factory=dict)
    labels: Mapping[str, Tensor] = field(default_factory=dict)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D) latents of the chosen crystals, zero at padding, and their (B,) atom counts."""
        atoms, mask = self.table.atoms_of(rows)
        return self.means[atoms] * mask.unsqueeze(-1), self.table.num_atoms[rows]

    def conditions_of(self, rows: Tensor) -> ConditionBatch:
        """The conditions of the chosen crystals; crystals without a label have no condition."""
        width = int(self.table.num_atoms[rows].max())
        values = {name: labels[rows] for name, labels in self.labels.items()}
        per_atom = [name for name in values if self.conditions[name].per_atom]
        return ConditionBatch(values | {name: values[name][:, :width] for name in per_atom})


@torch.no_grad()
def encode(vae: VAE, table: Table, batch_size: int, conditions: Conditions | None = None) -> Latents:
    """Encode a table of canonical crystals in batches, on the device of the VAE."""
    device = next(vae.parameters()).device
    means = torch.zeros(len(table.numbers), vae.config["latent_dim"])
    for rows, crystals in in_batches(table, batch_size):
        atoms, mask = table.atoms_of(rows)
        means[atoms[mask]] = vae.encoder(crystals.to(device)).mean[mask.to(device)].cpu()
    conditions = conditions or {}
    return Latents(means, table, conditions, {name: c.labels(table) for name, c in conditions.items()})


@torch.no_grad()
def elements_kept(vae: VAE, latents: Latents, rows: Tensor) -> float:
    """The share of atoms of the chosen crystals whose element the autoencoder reconstructs. It is close to 1 unless the
    autoencoder was trained on other elements."""
    device = next(vae.parameters()).device
    x, num_atoms = latents.batch(rows)
    found = vae.decoder(x.to(device), num_atoms.to(device)).to_crystals().numbers.cpu()
    atoms, mask = latents.table.atoms_of(rows)
    return (found == latents.table.numbers[atoms])[mask].double().mean().item()
