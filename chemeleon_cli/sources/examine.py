"""Checks one crystal of a source: returns what a data folder keeps of it, or why it is rejected."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chemeleon_cli.core.data.cif import MAX_SITES, cif_text
from chemeleon_cli.core.data.limits import MAX_ANGLE, MIN_ANGLE, MIN_DISTANCE, MIN_VOLUME
from chemeleon_cli.sources.files import structure_of
from chemeleon_cli.sources.records import Record, is_empty, number, unreadable

if TYPE_CHECKING:
    from pymatgen.core import Structure

SPARSEST = 1_000.0
"""Largest volume in Å^3 per atom. It is far above the models' MAX_VOLUME, as large volumes can be real: Cs has 116."""
LARGEST_BOX = 1e7
"""Largest volume in Å^3 of the rectangular box around a cell, a cube of 215 Å. The search for neighbours takes 30 bytes
per Å^3."""
SHOWN = 40
"""Number of characters of a cell that messages show."""
REASONS = {
    "duplicate": "a crystal with the same id and structure was read before",
    "too_many_atoms": "its primitive cell has more than max_atoms atoms",
    "cell": f"an angle outside {MIN_ANGLE:g} to {MAX_ANGLE:g} degrees, or a box of more than {LARGEST_BOX:g} Å^3",
    "volume": f"less than {MIN_VOLUME:g} or more than {SPARSEST:g} Å^3 per atom",
    "distance": f"two atoms closer than {MIN_DISTANCE:g} Å",
}
"""Further reasons to reject a crystal, in addition to those of `files.REASONS`."""


@dataclass(frozen=True)
class Examined:
    """One crystal of the source after its checks.

    Attributes:
        id: its name in the source.
        split: the source's own split, or "".
        reason: `code: detail` of a rejected one.
        formula: reduced.
        elements: symbols in it.
        size: atoms in its cell.
        cif: its text, without an id; "" of a rejected one.
        labels: the row's numbers by column, None where the cell is empty.
        words: the cells of the row that are not numbers, by column, each in one line.
    """

    id: str
    split: str
    reason: str | None
    formula: str = ""
    elements: tuple[str, ...] = ()
    size: int = 0
    cif: str = ""
    labels: dict[str, float | None] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)


def examine(item: tuple[str, Record], max_atoms: int | None) -> Examined:
    """Parse and check one (split, record); any error becomes the reason of its rejection."""
    split, record = item
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of noble gases (no electronegativity to sort a formula by), of huge numbers
        try:
            structure, reason = structure_of(record)
            if structure is not None:
                structure, reason = _checked(structure, max_atoms)
            if structure is None:
                return Examined(record.id, split, reason)
            formula, cif = structure.composition.reduced_formula, cif_text(structure, "")
        except Exception as error:  # one bad row must not stop the reading of all others
            return Examined(record.id, split, unreadable(error))
    cells = {k.strip(): v for k, v in record.fields.items()}
    numbers = {k: number(v) for k, v in cells.items()}
    labels = {k: v for k, v in numbers.items() if v is not None or is_empty(cells[k])}
    return Examined(
        record.id,
        split,
        None,
        formula,
        tuple(sorted({site.specie.symbol for site in structure})),
        len(structure),
        cif,
        labels,
        {k: " ".join(str(cell)[:SHOWN].split()) for k, cell in cells.items() if k not in labels},
    )


def _checked(structure: Structure, max_atoms: int | None) -> tuple[Structure | None, str | None]:
    """The structure, reduced to a primitive cell if it has more than `max_atoms`, or the reason to reject it."""
    angles = structure.lattice.angles
    if not (min(angles) >= MIN_ANGLE and max(angles) <= MAX_ANGLE):
        return None, f"cell: angles {', '.join(f'{a:.1f}' for a in angles)}"
    volume = abs(structure.volume) / len(structure)
    if not MIN_VOLUME <= volume <= SPARSEST:
        return None, f"volume: {volume:.4g} Å^3 per atom"
    if max_atoms is not None and len(structure) > max_atoms:
        smallest = _fewest_atoms(structure)
        if smallest > max_atoms:
            return None, f"too_many_atoms: {smallest} or more"
        primitive = _primitive(structure) if len(structure) <= MAX_SITES else None
        if primitive is None or len(primitive) > max_atoms:
            return None, f"too_many_atoms: {len(primitive or structure)}"
        structure = primitive
    box = math.prod(abs(structure.lattice.matrix).sum(0).tolist())
    if not box <= LARGEST_BOX:
        return None, f"cell: spans {box:.3g} Å^3"
    # within 2 Å although only 0.5 Å matter: the search divides the box into cubes of this size
    distances = structure.get_neighbor_list(2.0, exclude_self=True)[3]
    if len(distances) and min(distances) < MIN_DISTANCE:
        return None, f"distance: {min(distances):.3f} Å"
    return structure, None


def _fewest_atoms(structure: Structure) -> int:
    """A lower limit of the size of a primitive cell, from the composition. Finding the symmetry can take minutes."""
    return len(structure) // math.gcd(*Counter(structure.atomic_numbers).values())


def _primitive(structure: Structure) -> Structure | None:
    import spglib
    from pymatgen.core import Lattice, Structure

    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    found = spglib.standardize_cell(cell, to_primitive=True, no_idealize=True, symprec=0.01)  # type: ignore[arg-type]
    return None if found is None else Structure(Lattice(found[0]), found[2], found[1])  # type: ignore[arg-type]
