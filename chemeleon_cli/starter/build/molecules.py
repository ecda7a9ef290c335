"""Crystals of the elements that are molecules, with the bonds and volumes that they are known to have."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pymatgen.core import Lattice, Structure

from chemeleon_cli.starter.build.prototypes import Prototype, parents

DIATOMIC = {
    "N": (1.10, 22.6, ("A_cP8_205_c", "A_tP4_136_f", "A_mC4_12_i")),
    "O": (1.21, 17.4, ("A_mC4_12_i", "A_hR2_166_c", "A_oC8_64_f")),
    "F": (1.42, 16.1, ("A_oC8_64_f", "A_cP8_205_c", "A_mC4_12_i")),
    "Cl": (1.99, 28.4, ("A_oC8_64_f", "A_tP16_138_j", "A_cP8_205_c")),
    "Br": (2.28, 32.7, ("A_oC8_64_f", "A_tP16_138_j", "A_cP8_205_c")),
    "I": (2.70, 41.5, ("A_oC8_64_f", "A_tP16_138_j", "A_cP8_205_c")),
}
"""Element: bond length in Å, volume in Å^3 per atom, AFLOW labels. A_oC8_64_f stands for iodine's (A14)."""
NAMESAKES = {"A_cP8_205_c": "N", "A_mC4_12_i": "O", "A_hR2_166_c": "O", "A_oC8_64_f": "I"}
"""Labels alone do not tell a molecular crystal: A_oC8_64_f is phosphorus' and gallium's label too."""


def molecules() -> Iterator[tuple[str, tuple[str, ...], Structure]]:
    """(prototype, occupants, crystal at its known volume) of N2, O2, F2, Cl2, Br2, I2 and S6."""
    for element, (bond, volume, labels) in DIATOMIC.items():
        for label in labels:
            prototype = _namesake(label)
            structure = prototype.fill((element,))
            structure.scale_lattice(volume * len(structure))
            yield prototype.name, (element,), _with_bonds(structure, bond)
    # rhombohedral sulphur, S6 rings: J. Donohue, A. Caron and E. Goldish, J. Am. Chem. Soc. 83, 3748 (1961)
    lattice = Lattice.hexagonal(10.818, 4.280)
    sulphur = Structure.from_spacegroup("R-3", lattice, ["S"], [[0.1454, 0.1882, 0.1055]]).get_primitive_structure()
    yield "S6", ("S",), sulphur


def _namesake(label: str) -> Prototype:
    wanted = NAMESAKES.get(label)
    return next(
        p for p in parents() if p.name.split(".")[0] == label and (wanted is None or p.slots[0].original == wanted)
    )


def _with_bonds(structure: Structure, bond: float) -> Structure:
    """The crystal with each atom and its nearest neighbour drawn to `bond` Å from each other."""
    coordinates = structure.cart_coords.copy()
    placed: set[int] = set()
    for i, site in enumerate(structure):
        if i in placed:
            continue
        radius = 1.0
        while not (neighbours := structure.get_neighbors(site, radius)):
            radius *= 1.2
        nearest = min(neighbours, key=lambda n: n.nn_distance)
        j = int(nearest.index)
        centre = (site.coords + nearest.coords) / 2
        half = (nearest.coords - site.coords) / np.linalg.norm(nearest.coords - site.coords) * bond / 2
        coordinates[i] = centre - half
        coordinates[j] = centre + half
        placed |= {i, j}
    return Structure(structure.lattice, structure.species, coordinates, coords_are_cartesian=True)
