"""CHGNet (B. Deng et al., Nat. Mach. Intell. 5, 1031 (2023)) on the CPU: energies alone, or with forces and stress."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from pymatgen.core import Lattice, Structure

GPA = 160.21766208
"""eV/Å^3 in GPa."""


class Energies(Calculator):
    """CHGNet's weights that come with its wheel (0.3.0), frozen, for one crystal at a time.

    Forces and stress come of one backward pass without a graph of their own, which halves the time of CHGNet's own
    calculator; magnetic moments are left out.
    """

    implemented_properties = ["energy", "forces", "stress"]

    def __init__(self) -> None:
        from chgnet.model.model import CHGNet

        super().__init__()
        with contextlib.redirect_stdout(io.StringIO()):
            self.model = CHGNet.load(use_device="cpu", verbose=False).eval().requires_grad_(False)

    def energy(self, structure: Structure) -> float:
        """eV per atom.

        Raises:
            ValueError: an atom has no neighbour within 6 Å.
        """
        with torch.no_grad():
            graph = self.model.graph_converter(structure)
            return float(self.model([graph], task="e")["e"])

    def evaluate(self, structure: Structure) -> tuple[float, np.ndarray, np.ndarray]:
        """Energy in eV per atom, (N, 3) forces in eV/Å and (3, 3) stress in eV/Å^3.

        Raises:
            ValueError: an atom has no neighbour within 6 Å.
        """
        from chgnet.model.model import BatchedGraph

        graph = self.model.graph_converter(structure)
        batch = BatchedGraph.from_graphs(
            [graph],
            bond_basis_expansion=self.model.bond_basis_expansion,
            angle_basis_expansion=self.model.angle_basis_expansion,
            compute_stress=True,
        )
        energy = self.model._compute(batch)["e"]
        (positions,), (strain,) = batch.atom_positions, batch.strains
        force, virial = torch.autograd.grad(energy.sum(), [positions, strain])
        if self.model.is_intensive:  # what `_compute` returns is then per atom
            force, virial = force * len(structure), virial * len(structure)
        shift = self.model.composition_model([graph]) if self.model.composition_model is not None else 0
        per_atom = float(energy.detach() + shift) / (1 if self.model.is_intensive else len(structure))
        return per_atom, -force.numpy().astype(float), virial.numpy().astype(float) / structure.volume

    def calculate(self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        """Energy, forces and stress of `atoms`, for ASE."""
        super().calculate(atoms, properties, system_changes)
        assert atoms is not None
        energy, forces, stress = self.evaluate(structure_from(atoms))
        total, symmetric = energy * len(atoms), (stress + stress.T) / 2
        self.results = {
            "energy": total,
            "free_energy": total,
            "forces": forces,
            "stress": symmetric[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        }


def structure_from(atoms: Atoms) -> Structure:
    """The same crystal for pymatgen."""
    return Structure(Lattice(atoms.cell.array), atoms.numbers.tolist(), atoms.get_scaled_positions(wrap=False))
