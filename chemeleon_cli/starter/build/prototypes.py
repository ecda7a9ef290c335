"""Structure types: the AFLOW prototypes that pymatgen ships, and orderings of more elements on their sites."""

from __future__ import annotations

import functools
import gzip
import itertools
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import spglib
from pymatgen.core import Composition, Lattice, Structure

MAX_ATOMS = 20
MAX_SPLIT = 8
"""Equivalent sites of which halves are enumerated (35 ways)."""
DOUBLED = (((1, 0, 0), (0, 1, 0), (0, 0, 2)), ((0, 1, 1), (1, 0, 1), (1, 1, 0)), ((1, 1, 0), (1, -1, 0), (0, 0, 1)))
"""Supercells of twice the volume."""
MOLECULAR = {
    "A3B_cP16_198_b_a",  # ammonia
    "A3B_cI8_229_b_a",  # H3S at 150 GPa
    "AB_hR16_148_cf_cf",  # cubane
    "ABC_oP6_59_a_a_a",  # cyanogen chloride
    "ABCD_oP16_57_d_c_d_d",  # potassium thiocyanate
    "AB_cP8_198_a_a",  # carbon monoxide
}
"""AFLOW labels of structures held together by bonds that no other element makes."""


@dataclass(frozen=True)
class Slot:
    """The sites of a prototype that one element takes.

    Attributes:
        count: sites in the cell.
        original: the element found there in the type's namesake.
        charge: its oxidation state there, 0 in a metallic type.
    """

    count: int
    original: str
    charge: int


@dataclass(frozen=True)
class Prototype:
    """A structure type.

    Attributes:
        name: unique; an AFLOW label, its occurrence, and how it was ordered.
        lattice: (3, 3) rows, Å.
        frac_coords: (N, 3).
        slot_of: (N,) index into `slots`.
        slots: what may be replaced.
        is_ionic: the namesake's charges balance.
    """

    name: str
    lattice: np.ndarray
    frac_coords: np.ndarray
    slot_of: np.ndarray
    slots: tuple[Slot, ...]
    is_ionic: bool

    def __len__(self) -> int:
        return len(self.slot_of)

    def fill(self, symbols: list[str] | tuple[str, ...]) -> Structure:
        """The crystal with one element per slot, in the namesake's cell."""
        return Structure(Lattice(self.lattice), [symbols[i] for i in self.slot_of], self.frac_coords)


@functools.cache
def parents() -> tuple[Prototype, ...]:
    """The AFLOW types with a primitive cell of at most MAX_ATOMS atoms, in the order of pymatgen's file."""
    path = resources.files("pymatgen.analysis") / "prototypes" / "aflow_prototypes.json.gz"
    found: list[Prototype] = []
    seen: dict[str, int] = {}
    for entry in json.loads(gzip.decompress(path.read_bytes())):
        label = entry["tags"]["aflow"]
        structure = Structure.from_dict(entry["snl"]).get_primitive_structure()
        if len(structure) > MAX_ATOMS or label in MOLECULAR or not structure.is_ordered:
            continue
        seen[label] = seen.get(label, 0) + 1
        found.append(_prototype(f"{label}.{seen[label]}", structure))
    return tuple(found)


def _prototype(name: str, structure: Structure) -> Prototype:
    symbols = [site.specie.symbol for site in structure]
    originals = list(dict.fromkeys(symbols))
    charges = _charges(structure.composition)
    slots = tuple(Slot(symbols.count(s), s, charges.get(s, 0)) for s in originals)
    slot_of = np.array([originals.index(s) for s in symbols])
    return Prototype(name, structure.lattice.matrix, structure.frac_coords, slot_of, slots, bool(charges))


def _charges(composition: Composition) -> dict[str, int]:
    """Oxidation states of the namesake, rounded away from 0, or nothing where there are none that balance."""
    if len(composition) == 1:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guesses = composition.reduced_composition.oxi_state_guesses()
    charged = [g for g in guesses if all(g.values())]
    return {s: round(v) or (1 if v > 0 else -1) for s, v in charged[0].items()} if charged else {}


def orderings(parent: Prototype, limit: int = 3) -> list[Prototype]:
    """Types with one slot more: the sites of one slot of `parent` shared between two elements, symmetry kept high.

    Slots of several orbits are divided orbit by orbit; orbits of 2 to MAX_SPLIT sites into a half, a third or a
    quarter and the rest; of cells that allow it, the doubled ones too.

    Args:
        parent: a type.
        limit: orderings kept of each slot, by the number of symmetry operations left.
    """
    found = []
    for slot in range(len(parent.slots)):
        ranked: dict[tuple, tuple[int, str, Prototype]] = {}
        for number, (cell, chosen) in enumerate(_choices(parent, slot)):
            new = np.where(chosen, len(cell.slots), cell.slot_of)
            numbers: Any = (cell.lattice, cell.frac_coords, new + 1)
            dataset = spglib.get_symmetry_dataset(numbers, symprec=0.01)
            if dataset is None:
                continue
            primitive = spglib.find_primitive(numbers, symprec=0.01)
            if primitive is None or len(primitive[2]) < len(new):
                continue  # the ordering of a smaller cell, met there
            order = len(dataset.rotations)
            key = (int(dataset.number), len(new), int(chosen.sum()))
            if key not in ranked or ranked[key][0] < order:
                old = cell.slots[slot]
                taken = int(chosen.sum())
                slots = list(cell.slots)
                slots[slot] = Slot(old.count - taken, old.original, old.charge)
                slots.append(Slot(taken, old.original, old.charge))
                name = f"{parent.name}/{old.original}{slot}-{number}"
                ranked[key] = (
                    order,
                    name,
                    Prototype(name, cell.lattice, cell.frac_coords, new, tuple(slots), parent.is_ionic),
                )
        best = sorted(ranked.items(), key=lambda item: (len(item[1][2]) > len(parent), -item[1][0], item[0]))
        found += [prototype for _, (_, _, prototype) in best[:limit]]
    return found


def _choices(parent: Prototype, slot: int) -> Iterator[tuple[Prototype, np.ndarray]]:
    """(cell, (N,) bool of the sites that a new element takes)."""
    cells = [parent]
    if 2 * len(parent) <= MAX_ATOMS:
        cells += [_doubled(parent, np.array(matrix)) for matrix in DOUBLED]
    for i, cell in enumerate(cells):
        numbers: Any = (cell.lattice, cell.frac_coords, cell.slot_of + 1)
        dataset = spglib.get_symmetry_dataset(numbers, symprec=0.01)
        if dataset is None:
            continue
        sites = np.flatnonzero(cell.slot_of == slot)
        orbits = sorted({int(o) for o in dataset.equivalent_atoms[sites]})
        for orbit in orbits:
            members = sites[dataset.equivalent_atoms[sites] == orbit]
            if len(orbits) > 1 and i == 0:
                yield cell, np.isin(np.arange(len(cell)), members)
            if len(orbits) > 1 or not 2 <= len(members) <= MAX_SPLIT:
                continue
            for part in (2, 3, 4):
                if len(members) % part or len(members) == 1:
                    continue
                for rest in itertools.combinations(members[1:], len(members) // part - 1):
                    yield cell, np.isin(np.arange(len(cell)), [members[0], *rest])


def _doubled(parent: Prototype, matrix: np.ndarray) -> Prototype:
    structure = Structure(
        Lattice(parent.lattice), ["H"] * len(parent), parent.frac_coords, site_properties={"slot": parent.slot_of}
    )
    structure.make_supercell(matrix, to_unit_cell=True)
    slot_of = np.array(structure.site_properties["slot"], dtype=int)
    slots = tuple(Slot(2 * s.count, s.original, s.charge) for s in parent.slots)
    return Prototype(parent.name, structure.lattice.matrix, structure.frac_coords, slot_of, slots, parent.is_ionic)


def merged(parent: Prototype) -> Iterator[Prototype]:
    """Types with one slot less: two slots whose ions have charges of one sign taken by one element."""
    for i, j in itertools.combinations(range(len(parent.slots)), 2):
        first, second = parent.slots[i], parent.slots[j]
        if first.charge * second.charge <= 0:
            continue
        slots = list(parent.slots)
        slots[i] = Slot(first.count + second.count, first.original, first.charge)
        del slots[j]
        renumbered = np.where(parent.slot_of == j, i, parent.slot_of)
        renumbered = np.where(renumbered > j, renumbered - 1, renumbered)
        name = f"{parent.name}/{first.original}={second.original}"
        yield Prototype(name, parent.lattice, parent.frac_coords, renumbered, tuple(slots), parent.is_ionic)


@functools.cache
def all_types() -> tuple[Prototype, ...]:
    """The parents, every ordering of the binary and ternary ones, and ternary ones merged into binary ones."""
    found = list(parents())
    for parent in parents():
        if len(parent.slots) == 3:
            found += merged(parent)
        if 2 <= len(parent.slots) <= 3:
            found += orderings(parent)
    return tuple(found)
