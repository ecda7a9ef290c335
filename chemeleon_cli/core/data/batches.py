"""Batches of the crystals of a table, and their augmentation during training."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from chemeleon_cli.core.data.crystals import Crystals, origin_atoms, shift_to_atom, wrap
from chemeleon_cli.core.data.dataset import Table


def augment(crystals: Crystals, generator: torch.Generator | None = None) -> Crystals:
    """Move the origin of each crystal to a random atom of its rarest element, chosen for each crystal separately.

    `canonical` chooses among the same origins, so a model has been trained on every description that it may be given.
    """
    weight = origin_atoms(crystals).float().cpu()
    chosen = torch.multinomial(weight, 1, generator=generator).to(crystals.frac_coords.device)
    return shift_to_atom(crystals, chosen)


def deform(crystals: Crystals, strain: float, displacement: float, generator: torch.Generator) -> Crystals:
    """Strain each cell and displace each atom at random, with an amplitude chosen for each crystal separately.

    An autoencoder must reconstruct any cell and any position, not only those of stable crystals; without this, unusual
    cell angles are reconstructed wrongly. Only for crystals without labels, because the labels would change.

    Args:
        crystals: on the CPU.
        strain: largest standard deviation of the strain along the axes; that of the shear is 1 / sqrt(2) of it.
        displacement: largest standard deviation of the displacement along each axis, Å.
        generator: source of randomness.
    """
    amount = torch.rand(len(crystals), 1, 1, generator=generator)
    shear = torch.randn(len(crystals), 3, 3, generator=generator)
    symmetric = (shear + shear.transpose(1, 2)) / 2
    lattice = crystals.lattice @ (torch.eye(3) + strain * amount * symmetric)
    moves = displacement * amount * torch.randn(crystals.frac_coords.shape, generator=generator)
    frac = crystals.frac_coords + moves @ torch.linalg.inv(lattice)
    return crystals.replace(lattice=lattice, frac_coords=wrap(frac) * crystals.mask.unsqueeze(-1))


class BatchOrder:
    """An endless, seeded sequence of batches of crystals of similar size.

    Batch i depends only on the seed and on i, so a resumed run continues where it stopped. Every crystal occurs once
    per epoch. Crystals of similar size share a batch to save padding, and a step, because ranks wait for the slowest.

    Args:
        num_atoms: (M,) sizes.
        batch_size: crystals per batch, at most M.
        seed: of the shuffles.
        batches_per_step: number of consecutive batches that make up a step.
    """

    def __init__(self, num_atoms: Tensor, batch_size: int, seed: int, batches_per_step: int = 1) -> None:
        self.num_atoms = num_atoms
        self.seed = seed
        self.steps_per_epoch = -(-len(num_atoms) // (batch_size * batches_per_step))
        self.batches_per_step = min(batches_per_step, len(num_atoms) // self.steps_per_epoch)
        self.batches_per_epoch = self.steps_per_epoch * self.batches_per_step
        self._epoch = functools.lru_cache(maxsize=2)(self._shuffled)

    def _shuffled(self, epoch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.num_atoms), generator=generator)
        order = order[torch.argsort(self.num_atoms[order], stable=True)]
        steps = order.tensor_split(self.steps_per_epoch)
        shuffled = torch.randperm(self.steps_per_epoch, generator=generator)
        return [batch for i in shuffled for batch in steps[i].tensor_split(self.batches_per_step)]

    def __getitem__(self, i: int) -> Tensor:
        return self._epoch(i // self.batches_per_epoch)[i % self.batches_per_epoch]


def in_batches(table: Table, batch_size: int) -> Iterator[tuple[Tensor, Crystals]]:
    """Yield every crystal of a table once, smallest first, as (row indices, batch)."""
    for rows in torch.argsort(table.num_atoms, stable=True).split(batch_size):
        yield rows, table.crystals(rows)
