"""Crystals whose content is known without any CIF reader: spglib's 530 tabulated settings, expanded here.

A setting is a row of spglib's database (a Hall number): the operations, and the symbols that name them. A crystal
is a setting, a cell that its operations leave alone, and sites; its atoms are the sites under every operation.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import spglib
from ase.data import atomic_numbers, covalent_radii
from pymatgen.core import Lattice, Structure

SETTINGS = range(1, 531)
"""Hall numbers of all tabulated settings."""
SAME_ATOM = 1e-4
"""Fractional coordinates of an atom on its special position agree this well; no two atoms come this close."""
CLOSEST = 1.7
"""Å between any two atoms of a crystal; no bond of the elements used here is shorter."""
ELEMENTS = ("Li", "O", "F", "Na", "Al", "Si", "Cl", "Ca", "Ti", "Fe", "Co", "Cu", "S", "Y", "Cs", "Hf", "Pb", "In")

# Where spglib's table has a slip of the pen (127 to 130: half of the full symbol; 68: c for e).
_FULL = {
    406: "P 4/m 2_1/b 2/m",
    407: "P 4/m 2_1/n 2/c",
    408: "P 4/n 2_1/m 2/m",
    409: "P 4/n 2_1/m 2/m",
    410: "P 4/n 2_1/c 2/c",
    411: "P 4/n 2_1/c 2/c",
}
_SHORT = {331: "B b e b"}
# Symbols before 1992 of the groups that have an e now, by setting (International Tables A, table 4.3.2.1).
_BEFORE_E = {
    39: ("A b m 2", "B m a 2", "B 2 c m", "C 2 m b", "C m 2 a", "A c 2 m"),
    41: ("A b a 2", "B b a 2", "B 2 c b", "C 2 c b", "C c 2 a", "A c 2 a"),
    64: ("C m c a", "C c m b", "A b m a", "A c a m", "B b c m", "B m a b"),
    67: ("C m m a", "C m m b", "A b m m", "A c m m", "B m c m", "B m a m"),
    68: ("C c c a", "C c c b", "A b a a", "A c a a", "B b c b", "B b a b"),
}
_ORDER = ("", "ba-c", "cab", "-cba", "bca", "a-cb")


@dataclass(frozen=True)
class Setting:
    """One tabulated description of a space group.

    Attributes:
        hall_number: its row in spglib's database.
        number: of the space group, 1..230.
        short: Hermann-Mauguin symbol as people write it: `P 21/n`, `F d -3 m`.
        full: with every direction: `P 1 21/n 1`, `F 41/d -3 2/m`.
        old: the symbol that older texts have (`F d 3 m`, `C m c a`), or the short one.
        hall: its Hall symbol.
        code: the setting among those of the group (`b2`, `cab`, `2`, `H`), or nothing.
        rotations: of its operations (n, 3, 3).
        translations: the same (n, 3).
    """

    hall_number: int
    number: int
    short: str
    full: str
    old: str
    hall: str
    code: str
    rotations: np.ndarray
    translations: np.ndarray

    @property
    def origin(self) -> str:
        """`1` or `2` where the group has two origins, `H` or `R` where it has two sets of axes, else nothing."""
        return self.code[:1] if self.code[:1] in ("1", "2", "H", "R") and self.number > 15 else ""

    @property
    def axis(self) -> str:
        """The unique axis of a monoclinic setting: `a`, `b` or `c`; else nothing."""
        return self.code.strip("-")[:1] if 3 <= self.number <= 15 else ""

    @property
    def is_first(self) -> bool:
        """Whether it is the one that a number alone stands for."""
        return self.hall_number == min(s.hall_number for s in settings_of(self.number))

    def fits(self, cell: tuple[float, ...]) -> bool:
        """Whether its operations leave a cell (a, b, c in Å, angles in degrees) as it is."""
        metric = metric_of(cell)
        moved = self.rotations.transpose(0, 2, 1) @ metric @ self.rotations
        return bool(np.abs(moved - metric).max() < 1e-3 * np.abs(metric).max())


@functools.cache
def setting(hall_number: int) -> Setting:
    """The setting with a Hall number of 1..530."""
    kind = spglib.get_spacegroup_type(hall_number)
    operations = spglib.get_symmetry_from_database(hall_number)
    assert kind is not None and operations is not None
    full = _FULL.get(hall_number, kind.international_full).replace("_", "")
    short = _SHORT.get(hall_number, kind.international.split(" = ")[0]).replace("_", "")
    if 3 <= kind.number <= 15:  # the short symbol of a setting leaves out the directions without symmetry
        short = " ".join(part for part in full.split() if part != "1")
    old = short
    if kind.number in _BEFORE_E:
        names = _BEFORE_E[kind.number]
        old = names[_ORDER.index(re.sub(r"^[12]", "", kind.choice))]
    elif re.fullmatch(r"[PFI] \S+ -3( \S+)?", short):
        old = short.replace("-3", "3")
    return Setting(
        hall_number,
        kind.number,
        short,
        full,
        old,
        kind.hall_symbol,
        kind.choice,
        np.array(operations["rotations"], dtype=int),
        np.array(operations["translations"], dtype=float),
    )


@functools.cache
def settings_of(number: int) -> tuple[Setting, ...]:
    """All settings of a space group, the standard one first."""
    return tuple(one for one in map(setting, SETTINGS) if one.number == number)


@functools.cache
def named(symbol: str) -> tuple[Setting, ...]:
    """All settings with this short, full or old symbol, in whatever spacing and case."""
    return _by_symbol()[squeezed(symbol)]


@functools.cache
def _by_symbol() -> dict[str, tuple[Setting, ...]]:
    found: dict[str, tuple[Setting, ...]] = {}
    for one in map(setting, SETTINGS):
        for symbol in {squeezed(name) for name in (one.short, one.full, one.old)}:
            found[symbol] = (*found.get(symbol, ()), one)
    return found


def squeezed(symbol: str) -> str:
    return symbol.replace(" ", "").lower()


@dataclass(frozen=True)
class Site:
    """A row of the list of atoms: a symbol, and where it is (fractions of the cell)."""

    symbol: str
    position: tuple[float, float, float]


@dataclass(frozen=True)
class Crystal:
    """Sites in a setting, and all atoms that they stand for.

    Attributes:
        setting: of the description.
        cell: a, b, c in Å, then the angles in degrees.
        sites: one of each orbit.
        symbols: of all atoms of the cell, orbit by orbit.
        positions: of the same, fractions of the cell (n, 3).
    """

    setting: Setting
    cell: tuple[float, float, float, float, float, float]
    sites: tuple[Site, ...]
    symbols: tuple[str, ...]
    positions: np.ndarray

    @property
    def content(self) -> Counter[str]:
        """Atoms in the cell, by element."""
        return Counter(self.symbols)

    @property
    def units(self) -> int:
        """Formula units in the cell."""
        return math.gcd(*self.content.values())

    @property
    def multiplicities(self) -> tuple[int, ...]:
        """Atoms of each site."""
        return tuple(len(orbit(self.setting, np.array(site.position))) for site in self.sites)

    def group_number(self) -> int:
        """The space group that spglib finds for the atoms; a supergroup where they have more symmetry."""
        kinds = {symbol: i for i, symbol in enumerate(self.content)}
        cell = (matrix_of(self.cell), self.positions, [kinds[s] for s in self.symbols])
        found = spglib.get_symmetry_dataset(cell, symprec=1e-3)
        assert found is not None
        return int(found.number)

    def is_fully_listed(self) -> bool:
        """Whether the sites are all atoms there are."""
        return len(self.sites) == len(self.symbols)

    def listed(self) -> Crystal:
        """The same atoms, each a site of its own, without symmetry."""
        sites = tuple(Site(s, tuple(p)) for s, p in zip(self.symbols, self.positions.tolist(), strict=True))
        return Crystal(setting(1), self.cell, sites, self.symbols, self.positions)


def metric_of(cell: tuple[float, ...]) -> np.ndarray:
    """The dot products of the edges of a cell (3, 3), in Å²."""
    lengths, cosines = np.array(cell[:3]), np.cos(np.radians(cell[3:]))
    shape = np.array([[1, cosines[2], cosines[1]], [cosines[2], 1, cosines[0]], [cosines[1], cosines[0], 1]])
    return shape * np.outer(lengths, lengths)


def matrix_of(cell: tuple[float, ...]) -> np.ndarray:
    """Edges of a cell as rows (3, 3), in Å."""
    return np.linalg.cholesky(metric_of(cell))


def orbit(one: Setting, position: np.ndarray) -> np.ndarray:
    """All atoms (n, 3) in the cell that a site stands for, the site itself first, each once."""
    images = (one.rotations @ position + one.translations) % 1.0
    apart = images[:, None] - images
    same = np.abs(apart - np.round(apart)).max(axis=-1) < SAME_ATOM
    return images[same.argmax(axis=1) == np.arange(len(images))]


def crystal(hall_number: int, special: bool, seed: int = 0) -> Crystal:
    """A crystal in a setting, the same one for the same arguments.

    Args:
        hall_number: of the setting.
        special: only sites on symmetry elements, and so few atoms, where the group has any; else one site that
            the operations leave nowhere, and two special ones.
        seed: another one is another crystal.
    """
    one = setting(hall_number)
    rng = np.random.default_rng([hall_number, special, seed])
    for attempt in itertools.count():
        count = int(rng.integers(2, 5)) if special else 3
        positions = [_site(one, rng, special or i > 0) for i in range(count)]
        orbits = [orbit(one, p) for p in positions]
        if any(len(one.rotations) % len(o) for o in orbits):  # so near a special position that images merge by chance
            continue
        cell = _cell(one, 16.0 * 1.02**attempt * sum(map(len, orbits)), rng)
        if closest(cell, positions, orbits) > CLOSEST:
            break
    names = rng.choice(ELEMENTS, len(positions), replace=False).tolist()
    if len(names) > 2 and rng.random() < 0.5:
        names[-1] = names[0]  # one element on two sites
    sites = tuple(Site(n, _three(p)) for n, p in zip(names, positions, strict=True))
    symbols = tuple(itertools.chain.from_iterable([n] * len(o) for n, o in zip(names, orbits, strict=True)))
    every = np.concatenate(orbits)
    return Crystal(one, _with_room(cell, symbols, every), sites, symbols, every)


def _with_room(cell: tuple[float, ...], symbols: Sequence[str], positions: np.ndarray) -> tuple[float, ...]:
    """The cell, larger where two atoms would be closer than the sum of their covalent radii, as in no crystal."""
    structure = Structure(Lattice(matrix_of(cell)), list(symbols), positions)
    first, second, _, distances = structure.get_neighbor_list(5.0, exclude_self=True)
    radii = np.array([covalent_radii[atomic_numbers[symbol]] for symbol in symbols])
    ratio = (distances / (radii[first] + radii[second])).min(initial=1.0)
    return (*(round(length / ratio, 4) for length in cell[:3]), *cell[3:])


def _three(position: np.ndarray) -> tuple[float, float, float]:
    x, y, z = position.tolist()
    return x, y, z


def _site(one: Setting, rng: np.random.Generator, special: bool) -> np.ndarray:
    """A point with 4 digits; special, it is moved onto the elements of some operations, often onto many."""
    if not special:
        points = rng.integers(300, 9700, (8, 3)) / 10000
        cell = _cell(one, 1.0, rng)
        return max(points, key=lambda p: closest(cell, [p], [orbit(one, p)]))
    found = [np.array(rng.integers(300, 9700, 3)) / 10000 for _ in range(int(rng.integers(1, 8)))]
    for i, point in enumerate(found):
        for j in rng.choice(len(one.rotations), min(4, len(one.rotations)), replace=False):
            found[i] = point = _onto(one.rotations[j], one.translations[j], point, rng)
    return min(found, key=lambda p: len(orbit(one, p)))


def _onto(rotation: np.ndarray, translation: np.ndarray, point: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean of a point and its images under one operation, which leaves it in its place; or the point itself."""
    shift = translation + rng.integers(-1, 2, 3)
    images = [point]
    for _ in range(6):
        images.append(rotation @ images[-1] + shift)
        if np.abs(images[-1] - point).max() < 1e-9:
            mean = np.mean(images[:-1], axis=0)
            return np.round(mean * 720000) / 720000 % 1.0
    return point


def _cell(one: Setting, volume: float, rng: np.random.Generator) -> tuple[float, float, float, float, float, float]:
    """A cell with the symmetry of a setting and none beyond, as a file has it, of about this volume (Å³)."""
    while True:
        edges = np.diag(rng.permutation([0.85, 1.0, 1.2]) * rng.uniform(0.95, 1.05, 3)) + 0.14 * _signs(rng)
        metric = np.mean(one.rotations.transpose(0, 2, 1) @ (edges @ edges.T) @ one.rotations, axis=0)
        skew = np.abs(metric[np.triu_indices(3, 1)])
        if not ((skew > 1e-9) & (skew < 0.05)).any():  # no angle that only looks like 90 degrees
            break
    metric *= (volume / math.sqrt(np.linalg.det(metric))) ** (2 / 3)
    lengths = np.sqrt(np.diag(metric))
    cosines = metric / np.outer(lengths, lengths)
    angles = np.degrees(np.arccos([cosines[1, 2], cosines[0, 2], cosines[0, 1]]))
    a, b, c = np.round(lengths, 4).tolist()
    alpha, beta, gamma = np.round(angles, 3).tolist()
    return a, b, c, alpha, beta, gamma


def _signs(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0.5, 1.0, (3, 3)) * rng.choice([-1, 1], (3, 3)) * (1 - np.eye(3))


def closest(cell: tuple[float, ...], positions: list[np.ndarray], orbits: list[np.ndarray]) -> float:
    """The shortest distance (Å) between two atoms."""
    matrix, atoms = matrix_of(cell), np.concatenate(orbits)
    cells = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
    shortest = math.inf
    for position in positions:
        apart = atoms - position
        apart = (apart - np.round(apart))[:, None] + cells
        distances = np.sqrt(((apart @ matrix) ** 2).sum(-1)).ravel()
        shortest = min(shortest, float(np.partition(distances, 1)[1]))  # the smallest is of the atom itself
    return shortest


def crystals(hall_numbers: Iterable[int] = SETTINGS) -> Iterator[Crystal]:
    """Two crystals in every setting: one with a general position, one with special positions only."""
    for hall_number in hall_numbers:
        yield crystal(hall_number, special=False)
        yield crystal(hall_number, special=True)


def seeded(*words: object) -> np.random.Generator:
    """Random numbers that depend on the words alone, in every process."""
    return np.random.default_rng(zlib.crc32(repr(words).encode()))


def same_operations(one: Setting, other: Setting) -> bool:
    return one is other or (one.number == other.number and _operations(one) == _operations(other))


def _operations(one: Setting) -> frozenset[tuple[int, ...]]:
    shifts = np.rint(one.translations * 24).astype(int) % 24
    return frozenset((*r.ravel().tolist(), *t.tolist()) for r, t in zip(one.rotations, shifts, strict=True))


def is_read_right(crystal: Crystal, structure: Structure, tolerance: float = 0.01) -> bool:
    """Whether a structure is the crystal: the same cell, and each atom within `tolerance` (Å) of its place.

    The same atoms in the same cell have the same space group, so this covers its number, and the handedness too.
    """
    lengths_and_angles = np.array(structure.lattice.parameters)
    if np.abs(lengths_and_angles - crystal.cell).max() > 2e-3 or structure.lattice.volume < 0:
        return False
    found = np.array([site.specie.symbol for site in structure])
    if Counter(found.tolist()) != crystal.content:
        return False
    matrix = matrix_of(crystal.cell)
    for symbol in crystal.content:
        there = structure.frac_coords[found == symbol]
        apart = crystal.positions[np.array(crystal.symbols) == symbol][:, None] - there
        near = np.linalg.norm((apart - np.round(apart)) @ matrix, axis=-1) < tolerance
        if not (near.sum(axis=0) == 1).all() or not (near.sum(axis=1) == 1).all():
            return False
    return True
