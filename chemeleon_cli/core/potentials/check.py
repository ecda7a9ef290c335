"""A test of any potential, ours or yours, against what scoring and training rely on."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING

from chemeleon_cli.core.potentials.base import Potential, to_atoms

if TYPE_CHECKING:
    from pymatgen.core import Structure

TOLERANCE = 1e-4
"""eV/atom, between energies that should be equal."""


def check_potential(potential: Potential, structures: Sequence[Structure] | None = None) -> None:
    """Test a potential.

    Its energies must be finite, the same for the same crystal, proportional to the size of the cell, and independent of
    the order of the atoms, of rotation, and of which crystals are computed together. Its calculator must give the same
    energies, and forces and stresses. Impossible crystals and elements that it was not trained on must have no energy,
    with a reason. No structure may be changed, and the potential must survive pickling, by which worker processes
    receive it. Energies are compared within 1e-4 eV/atom.

    Args:
        potential: see `base.Potential`.
        structures: possible crystals of elements that it knows; None takes simple ones, as far as it knows their
            elements.

    Raises:
        AssertionError: it breaks the contract; the message says how.
        ValueError: it knows the elements of none of the simple crystals, so `structures` are needed.
    """
    crystals = _simple_crystals(potential.elements) if structures is None else [s.copy() for s in structures]
    if not crystals:
        raise ValueError(f"{potential.name}: name structures of its elements; it knows those of no simple crystal")
    for attribute in ("name", "energy_scale", "device"):
        value = getattr(potential, attribute)
        assert isinstance(value, str) and value, f"{attribute} is {value!r}, expected a text"
    untouched = [s.copy() for s in crystals]
    energies = _per_atom(potential, crystals)
    assert crystals == untouched, "energies changed a structure"

    _same(energies, _per_atom(potential, crystals), "the second time")
    _same(energies, [_per_atom(potential, [s])[0] for s in crystals], "computed alone instead of in a batch")
    _same(energies, _per_atom(potential, [s * (2, 1, 1) for s in crystals]), "as supercells of two cells, per atom")
    _same(energies, _per_atom(potential, [_reversed(s) for s in crystals]), "with their atoms in reverse order")
    _same(energies, _per_atom(potential, [_rotated(s) for s in crystals]), "when rotated")
    _same(energies, _per_atom(pickle.loads(pickle.dumps(potential)), crystals), "after pickling the potential")
    _check_calculator(potential, crystals, energies)
    _check_refusals(potential, crystals, energies)


def _check_calculator(potential: Potential, crystals: Sequence[Structure], energies: Sequence[float]) -> None:
    import numpy as np

    found = []
    for structure in crystals:
        atoms = to_atoms(structure)
        atoms.calc = potential.calculator
        found.append(float(atoms.get_potential_energy()) / len(atoms))
        for what, values, shape in (
            ("forces", atoms.get_forces(), (len(atoms), 3)),
            ("stress", atoms.get_stress(), (6,)),
        ):
            assert values.shape == shape, f"the calculator's {what} have shape {values.shape}, expected {shape}"
            assert np.isfinite(values).all(), f"the calculator's {what} of {structure.formula} are not finite"
    _same(energies, found, "by its calculator")


def _check_refusals(potential: Potential, crystals: Sequence[Structure], energies: Sequence[float]) -> None:
    from pymatgen.core import Element, Lattice, Structure

    impossible = [
        Structure(Lattice.cubic(4), ["O", "O"], [[0, 0, 0], [0, 0, 0.01]]),
        Structure(Lattice([[math.nan] * 3] * 3), ["O"], [[0, 0, 0]]),
    ]
    unknown = sorted(set(range(1, 119)) - potential.elements)
    refused = [*impossible, *[Structure(Lattice.cubic(3), [Element.from_Z(z)], [[0, 0, 0]]) for z in unknown]]
    assert potential.energies([]) == [], "the energies of no crystals are not an empty list"
    for structure, energy in zip(refused, potential.energies(refused), strict=True):
        assert math.isnan(energy.value) and energy.problem, (
            f"{structure.formula} got {energy.value} eV, reason {energy.problem!r}; expected no energy, with a reason"
        )
    mixed = potential.energies([impossible[0], *crystals, impossible[1]])[1:-1]
    values = [energy.value / len(structure) for energy, structure in zip(mixed, crystals, strict=True)]
    _same(energies, values, "beside impossible crystals")


def _per_atom(potential: Potential, structures: Sequence[Structure]) -> list[float]:
    """Energies in eV/atom, all of which have to be there."""
    energies = potential.energies(structures)
    assert len(energies) == len(structures), f"{len(structures)} crystals got {len(energies)} energies"
    for structure, energy in zip(structures, energies, strict=True):
        assert math.isfinite(energy.value) and energy.problem is None, (
            f"{structure.formula} has no energy: {energy.value}, {energy.problem}"
        )
    return [energy.value / len(structure) for energy, structure in zip(energies, structures, strict=True)]


def _same(expected: Sequence[float], found: Sequence[float], when: str) -> None:
    worst = max(abs(a - b) for a, b in zip(expected, found, strict=True))
    assert worst <= TOLERANCE, f"crystals got other energies {when}: by {worst:.2g} eV/atom, at most {TOLERANCE:g}"


def _reversed(structure: Structure) -> Structure:
    from pymatgen.core import Structure

    return Structure.from_sites(list(structure)[::-1])


def _rotated(structure: Structure) -> Structure:
    from pymatgen.core import Lattice, Structure
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_euler("xyz", [20, 40, 60], degrees=True).as_matrix()
    return Structure(Lattice(structure.lattice.matrix @ turn.T), structure.species, structure.frac_coords)


def _simple_crystals(elements: frozenset[int]) -> list[Structure]:
    """Simple crystals of these elements, each a little out of shape, so that no force is zero by symmetry."""
    from pymatgen.core import Lattice, Structure

    face = Lattice([[0, 2.8, 2.8], [2.8, 0, 2.8], [2.8, 2.8, 0]])
    known = [
        Structure(face, ["Na", "Cl"], [[0, 0, 0], [0.52, 0.5, 0.49]]),
        Structure(Lattice.cubic(2.87), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.52, 0.49]]),
        Structure(Lattice.tetragonal(2.85, 3.6), ["Cu", "Au"], [[0, 0, 0], [0.5, 0.52, 0.49]]),
        Structure(
            Lattice.cubic(3.9),
            ["Sr", "Ti", "O", "O", "O"],
            [[0, 0, 0], [0.5, 0.52, 0.49], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
        ),
    ]
    return [s for s in known if {site.specie.Z for site in s} <= elements]
