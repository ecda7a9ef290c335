"""The atoms in the cell of a CIF: its sites, repeated by its symmetry and checked against its formula."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chemeleon_cli.core.data.cif_sites import Formula, Site
from chemeleon_cli.core.data.cif_symmetry import Setting, Symmetry
from chemeleon_cli.core.data.limits import Unfit

SPECIAL = 0.15
"""Å. Images of a site closer than this are one atom on a symmetry element that is given with few digits (0.333)."""
SAME_ATOM = 0.1
"""Å. Two rows of one element that are closer than this after symmetry are one atom listed twice."""
SHORT, SHORT_BETWEEN_HEAVY_NONMETALS = 0.65, 0.9
"""Contacts, in units of the sum of covalent radii, below which an origin is ruled out. For metals the radii are a poor
guide (0.85 for La-La in LaAl2), and bonds of H, C, N and O can be multiple bonds (0.68 in uranyl); other contacts, such
as Si-Si, are hardly ever below 0.9."""
SEARCHED_BOX, SEARCHED_ATOMS, THINNEST = 1e7, 2_000, 1.0
"""Largest box around a cell (Å^3), largest number of atoms, and smallest distance between faces (Å) for which contacts
are found in seconds."""
MAX_ATOMS = 10_000
"""Largest number of atoms in a cell, after symmetry."""


@dataclass(frozen=True)
class Content:
    """The atoms of a cell.

    Attributes:
        setting: the symmetry that they were generated with.
        elements: (N,) symbols.
        positions: (N, 3) fractional coordinates.
        multiplicities: number of atoms of each site; a site that is listed twice is counted once.
    """

    setting: Setting
    elements: Sequence[str]
    positions: np.ndarray
    multiplicities: Sequence[int]

    @property
    def counts(self) -> Counter[str]:
        """Number of atoms of each element."""
        return Counter(self.elements)


def fill_cell(sites: Sequence[Site], symmetry: Symmetry, formula: Formula | None, lattice: np.ndarray) -> Content:
    """The atoms of the cell, in the order of the sites.

    If the file does not determine the setting, the one that agrees with its formula is taken; if there are several, its
    multiplicities and then the shortest contacts must leave exactly one.

    Args:
        sites: of the file.
        symmetry: the settings that the file allows.
        formula: of the file, or None.
        lattice: (3, 3) cell vectors as rows, Å.

    Raises:
        Unfit: no setting, or more than one, agrees with the file.
    """
    contents = _possible(sites, symmetry.settings, lattice)
    fitting = [content for content in contents if formula is None or formula.agrees(content.counts)]
    if not fitting:
        raise Unfit(f"formula: the file says {formula}, its sites give {_formula(contents[0])}")
    if not symmetry.doubt:
        return fitting[0]
    is_sure = formula is not None and formula.units is not None
    if len(contents[0].setting.rotations) == 1:  # only the identity is listed, or nothing at all
        listed, *others = fitting
        if listed is not contents[0]:
            return _only(fitting, symmetry.doubt)
        if any(content.counts == listed.counts for content in others) or (is_sure and not others):
            return listed
        raise Unfit(f"symmetry: {symmetry.doubt}; give a formula with Z, or the operations")
    if len(fitting) > 1:
        told = [c for c in fitting if list(c.multiplicities) == [site.multiplicity for site in sites]]
        fitting = told if len(told) == 1 else fitting
    if len(fitting) > 1:
        fitting = [content for content in fitting if not _is_crowded(content, lattice)]
    return _only(fitting, symmetry.doubt)


def _possible(sites: Sequence[Site], settings: Sequence[Setting], lattice: np.ndarray) -> list[Content]:
    """The content of the cell for each setting that yields one."""
    contents, refused = [], []
    for setting in settings:
        try:
            contents.append(_expand(sites, setting, lattice))
        except Unfit as error:
            refused.append(error)
    if not contents:
        raise refused[0]
    return contents


def _only(contents: Sequence[Content], doubt: str) -> Content:
    if len(contents) != 1:
        raise Unfit(f"symmetry: {doubt}, and its atoms do not decide it; give the full symbol, or list the operations")
    return contents[0]


def _formula(content: Content) -> str:
    return "".join(f"{element}{count if count > 1 else ''}" for element, count in content.counts.items())


def _expand(sites: Sequence[Site], setting: Setting, lattice: np.ndarray) -> Content:
    """All images of all sites. Atoms on symmetry elements, and atoms listed in several rows, are included once."""
    operations = len(setting.rotations)
    if operations == 1:
        listed = np.array([site.position for site in sites])
        return Content(setting, [site.element for site in sites], listed, [1] * len(sites))
    if len(sites) * operations > MAX_ATOMS * 10:
        raise Unfit(f"unreadable: {len(sites)} sites and {operations} operations")
    elements: list[str] = []
    positions = np.empty((MAX_ATOMS + operations, 3))  # of each atom, as far as there are `elements`
    multiplicities = []
    for site in sites:
        images = _orbit(site, setting, lattice)
        here = _distances(positions[: len(elements)] - images[0], lattice) < SAME_ATOM
        there = {elements[i] for i in np.flatnonzero(here)}
        if there - {site.element}:
            raise Unfit(f"disorder: {site.label} has the position of another site with {' and '.join(sorted(there))}")
        if there:
            continue
        positions[len(elements) : len(elements) + len(images)] = images
        elements += [site.element] * len(images)
        multiplicities.append(len(images))
        if len(elements) > MAX_ATOMS:
            raise Unfit(f"unreadable: more than {MAX_ATOMS:,} atoms in a cell")
    return Content(setting, elements, positions[: len(elements)].copy(), multiplicities)


def _orbit(site: Site, setting: Setting, lattice: np.ndarray) -> np.ndarray:
    """(K, 3) the distinct images of a site in [0, 1), after the site is moved onto the symmetry element it lies on."""
    position = np.array(site.position)
    shifts = setting.rotations @ position + setting.translations - position
    shifts -= np.round(shifts)
    fixing = _distances(shifts, lattice) < SPECIAL
    position = position + shifts[fixing].mean(0)
    images = (setting.rotations @ position + setting.translations) % 1.0
    count, rest = divmod(len(images), int(fixing.sum()))
    if count == len(images):
        return images
    differences = images[:, None] - images
    same = (np.abs(differences - np.round(differences)) < 1e-4).all(-1)  # the site was moved: only rounding is left
    images = images[~np.triu(same, 1).any(0)]
    if rest or len(images) != count:
        raise Unfit(f"symmetry: {site.label} is too close to a symmetry element to decide whether it lies on it")
    return images


def _distances(differences: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    """(K,) lengths, Å, of fractional differences (K, 3), each coordinate wrapped to within half a cell."""
    return np.linalg.norm((differences - np.round(differences)) @ lattice, axis=-1)


def _is_crowded(content: Content, lattice: np.ndarray) -> bool:
    """Whether two atoms are closer than any bond, which shows that this is not the origin that the file means.

    True for less than 1 Å^3 per atom, which no crystal has; False for a cell that is too large or too flat to search.
    """
    from pymatgen.core import Element, Lattice, Structure

    if abs(np.linalg.det(lattice)) < len(content.elements):
        return True
    thickness = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0).max()
    box = np.abs(lattice).sum(0).prod()
    if box > SEARCHED_BOX or thickness < THINNEST or len(content.elements) > SEARCHED_ATOMS:
        return False
    structure = Structure(Lattice(lattice), list(content.elements), content.positions)
    first, second, _, distances = structure.get_neighbor_list(4.0, exclude_self=True)
    for i, j, distance in zip(first.tolist(), second.tolist(), distances.tolist(), strict=True):
        pair = {content.elements[i], content.elements[j]}
        is_open = pair & {"H", "C", "N", "O"} or any(Element(symbol).is_metal for symbol in pair)
        limit = SHORT if is_open else SHORT_BETWEEN_HEAVY_NONMETALS
        if distance < limit * (_radius(content.elements[i]) + _radius(content.elements[j])):
            return True
    return False


@functools.lru_cache(128)
def _radius(symbol: str) -> float:
    from ase.data import atomic_numbers, covalent_radii

    return float(covalent_radii[atomic_numbers[symbol]])
