"""A batch of crystals as dense tensors, and the canonical form of a crystal.

Legend, used everywhere: B crystals, N atoms padded to the largest crystal of the batch.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import spglib
import torch
from pymatgen.core import Composition, Element, Lattice, Structure
from torch import Tensor

from chemeleon_cli.core.data.limits import MAX_Z


@dataclass(frozen=True)
class Crystals:
    """A batch of periodic crystals.

    Attributes:
        numbers: (B, N) int64 atomic numbers, 0 at padding.
        frac_coords: (B, N, 3) fractional coordinates in [0, 1).
        lattice: (B, 3, 3) lattice vectors as rows, Å, as in pymatgen.
        num_atoms: (B,) int64.
        properties: named (B,) float labels, NaN for crystals without the label.
    """

    numbers: Tensor
    frac_coords: Tensor
    lattice: Tensor
    num_atoms: Tensor
    properties: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_structures(
        cls, structures: Sequence[Structure], properties: Mapping[str, Sequence[float]] | None = None
    ) -> Crystals:
        """A batch of pymatgen structures, in their given cells.

        Args:
            structures: ordered structures.
            properties: labels, one sequence of length B per name.

        Returns:
            The batch, padded to its largest crystal.
        """
        num_atoms = torch.tensor([len(s) for s in structures], dtype=torch.int64)
        width = int(num_atoms.max()) if structures else 0
        numbers = torch.zeros(len(structures), width, dtype=torch.int64)
        frac = torch.zeros(len(structures), width, 3)
        lattice = torch.zeros(len(structures), 3, 3)
        for b, s in enumerate(structures):
            numbers[b, : len(s)] = torch.tensor(s.atomic_numbers)
            frac[b, : len(s)] = torch.from_numpy(s.frac_coords % 1.0)
            lattice[b] = torch.tensor(s.lattice.matrix.tolist())
        labels = {k: torch.as_tensor(v, dtype=torch.float32) for k, v in (properties or {}).items()}
        return cls(numbers, wrap(frac), lattice, num_atoms, labels)

    def to_structures(self) -> list[Structure]:
        """The crystals as pymatgen structures, with the same cells and order of atoms."""
        numbers, frac, lattice = self.numbers.tolist(), self.frac_coords.double().cpu(), self.lattice.double().cpu()
        return [
            Structure(Lattice(lattice[b].numpy()), numbers[b][:n], frac[b, :n].numpy())
            for b, n in enumerate(self.num_atoms.tolist())
        ]

    @classmethod
    def cat(cls, parts: Sequence[Crystals]) -> Crystals:
        """Concatenate batches, padded to the largest crystal. Only labels that all batches have are kept."""
        width = max(p.numbers.shape[1] for p in parts)

        def pad(x: Tensor) -> Tensor:
            shape = (x.shape[0], width - x.shape[1], *x.shape[2:])
            return torch.cat([x, x.new_zeros(shape)], dim=1)

        names = set.intersection(*(set(p.properties) for p in parts))
        return cls(
            torch.cat([pad(p.numbers) for p in parts]),
            torch.cat([pad(p.frac_coords) for p in parts]),
            torch.cat([p.lattice for p in parts]),
            torch.cat([p.num_atoms for p in parts]),
            {k: torch.cat([p.properties[k] for p in parts]) for k in sorted(names)},
        )

    def replace(self, **changes: Any) -> Crystals:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def __len__(self) -> int:
        return len(self.num_atoms)

    def __getitem__(self, index: slice | Tensor | Sequence[int]) -> Crystals:
        """A sub-batch, padded to its largest crystal."""
        if not isinstance(index, slice):
            index = torch.as_tensor(index, device=self.num_atoms.device)
        num_atoms = self.num_atoms[index]
        width = int(num_atoms.max()) if len(num_atoms) else 0
        return Crystals(
            self.numbers[index][:, :width],
            self.frac_coords[index][:, :width],
            self.lattice[index],
            num_atoms,
            {k: v[index] for k, v in self.properties.items()},
        )

    def to(self, device: torch.device | str) -> Crystals:
        """The batch on another device."""
        moved = {k: v.to(device) for k, v in self.properties.items()}
        return Crystals(
            self.numbers.to(device),
            self.frac_coords.to(device),
            self.lattice.to(device),
            self.num_atoms.to(device),
            moved,
        )

    @property
    def mask(self) -> Tensor:
        """(B, N) bool, True for atoms and False for padding."""
        return atom_mask(self.num_atoms, self.numbers.shape[1])

    @property
    def lengths(self) -> Tensor:
        """(B, 3) cell lengths, Å."""
        return self.lattice.norm(dim=-1)

    @property
    def angles(self) -> Tensor:
        """(B, 3) cell angles alpha, beta, gamma, degrees."""
        unit = self.lattice / self.lengths.unsqueeze(-1)
        pairs = torch.stack([unit[:, 1] * unit[:, 2], unit[:, 2] * unit[:, 0], unit[:, 0] * unit[:, 1]], dim=1)
        return torch.rad2deg(torch.arccos(pairs.sum(-1).clamp(-1, 1)))

    @property
    def cart_coords(self) -> Tensor:
        """(B, N, 3) Cartesian coordinates, Å."""
        return self.frac_coords @ self.lattice

    @property
    def volume(self) -> Tensor:
        """(B,) cell volume, Å^3."""
        return torch.linalg.det(self.lattice).abs()


def atom_mask(num_atoms: Tensor, width: int) -> Tensor:
    """(B, width) bool, True for the first `num_atoms` positions of each row."""
    return torch.arange(width, device=num_atoms.device) < num_atoms.unsqueeze(1)


def wrap(frac: Tensor) -> Tensor:
    """Wrap fractional coordinates into [0, 1).

    The remainder is taken twice, because in floating point -1e-9 % 1 rounds to 1.
    """
    return frac.remainder(1.0).remainder(1.0)


def lattice_from_parameters(lengths: Tensor, angles: Tensor) -> Tensor:
    """Lattice vectors in pymatgen's standard orientation (c along z, a in the xz plane).

    Args:
        lengths: (B, 3) Å.
        angles: (B, 3) degrees.

    Returns:
        (B, 3, 3) rows a, b, c; NaN if no cell has these angles.
    """
    alpha, beta, gamma = torch.deg2rad(angles).unbind(-1)
    a, b, c = lengths.unbind(-1)
    cos_g = (alpha.cos() * beta.cos() - gamma.cos()) / (alpha.sin() * beta.sin())
    sin_g = (1 - cos_g**2).sqrt()
    zero = torch.zeros_like(a)
    rows = [
        torch.stack([a * beta.sin(), zero, a * beta.cos()], -1),
        torch.stack([-b * alpha.sin() * cos_g, b * alpha.sin() * sin_g, b * alpha.cos()], -1),
        torch.stack([zero, zero, c], -1),
    ]
    return torch.stack(rows, dim=1)


def origin_atoms(crystals: Crystals) -> Tensor:
    """(B, N) bool: the atoms of the rarest element of each crystal (the lightest on a tie), as in `canonical`."""
    same = crystals.numbers.unsqueeze(2) == crystals.numbers.unsqueeze(1)
    key = (same & crystals.mask.unsqueeze(1)).sum(2) * (MAX_Z + 1) + crystals.numbers
    key = key.masked_fill(~crystals.mask, torch.iinfo(torch.int64).max)
    return key == key.min(dim=1, keepdim=True).values


def shift_to_atom(crystals: Crystals, atom: Tensor) -> Crystals:
    """Shift each crystal so that its atom of index `atom` (B, 1) is at the origin."""
    origin = crystals.frac_coords.gather(1, atom.unsqueeze(-1).expand(-1, -1, 3))
    return crystals.replace(frac_coords=wrap(crystals.frac_coords - origin) * crystals.mask.unsqueeze(-1))


SYMPREC = 0.01
"""Distance, Å, within which two sites count as related by a translation."""


def canonical(structure: Structure) -> Structure:
    """The canonical form of a crystal, which training, rollout and scoring all use.

    It is the primitive cell, Niggli-reduced, right-handed and in pymatgen's standard orientation, with an atom of the
    rarest element (the lightest on a tie) at the origin and atoms sorted by atomic number, then by coordinates.
    Shifted, rotated, permuted or repeated descriptions of a crystal have the same canonical form, up to the choice
    among equivalent axes and origins.

    Args:
        structure: an ordered structure with a cell of positive volume.

    Raises:
        ValueError: cell or coordinates are not finite, or spglib finds no primitive or no Niggli cell.
    """
    matrix, frac = structure.lattice.matrix, structure.frac_coords
    if not np.isfinite(matrix).all() or not np.isfinite(frac).all():
        raise ValueError("cell or coordinates are not finite")
    cell: Any = (matrix, frac, structure.atomic_numbers)
    primitive = spglib.standardize_cell(cell, to_primitive=True, no_idealize=True, symprec=SYMPREC)
    if primitive is None:
        raise ValueError("no primitive cell found: atoms overlap or the cell is flat")
    matrix, frac, numbers = (np.asarray(part) for part in primitive)
    reduced = spglib.niggli_reduce(matrix)
    if reduced is None:
        raise ValueError("the cell has no Niggli form")
    frac = frac @ matrix @ np.linalg.inv(reduced)
    if np.linalg.det(reduced) < 0:
        reduced, frac = -reduced, -frac  # inverting both axes and coordinates moves no atom
    found, counts = np.unique(numbers, return_counts=True)
    rarest = found[np.argmin(counts)]  # np.unique sorts, so a tie goes to the lightest
    order = _site_order(numbers, frac)
    frac, numbers = frac[order], numbers[order]
    frac = frac - frac[np.flatnonzero(numbers == rarest)[0]]
    order = _site_order(numbers, frac)
    lattice = Lattice.from_parameters(*Lattice(reduced).parameters)
    return Structure(lattice, numbers[order].tolist(), _wrap_close(frac[order]))


def _wrap_close(frac: np.ndarray) -> np.ndarray:
    """Wrap into [0, 1), and set coordinates within a rounding error of 0 or 1 to 0."""
    frac = frac % 1.0
    return np.where((frac > 1 - 1e-7) | (frac < 1e-7), 0.0, frac)


def _site_order(numbers: np.ndarray, frac: np.ndarray) -> np.ndarray:
    x, y, z = np.round(frac * 1e4).T % 1e4  # so that 0.99999 and 0 sort alike
    return np.lexsort((z, y, x, numbers))


@functools.lru_cache(maxsize=200_000)
def reduced_formula(numbers: tuple[int, ...]) -> str:
    """The reduced formula, as pymatgen writes it, of atoms with these atomic numbers."""
    return Composition(Counter(Element.from_Z(z).symbol for z in numbers)).reduced_formula
