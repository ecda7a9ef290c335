"""Energies of formation from the set's own elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pymatgen.core import Composition


def element_references(compositions: Sequence[Composition], energies: Sequence[float]) -> dict[str, float]:
    """The lowest energy, eV/atom, of each element that one of the crystals is made of alone."""
    lowest: dict[str, float] = {}
    for composition, energy in zip(compositions, energies, strict=True):
        if len(composition) == 1:
            symbol = composition.elements[0].symbol
            lowest[symbol] = min(energy, lowest.get(symbol, energy))
    return lowest


def formation_energy(composition: Composition, energy: float, references: Mapping[str, float]) -> float | None:
    """eV/atom against the elements; None where one has no reference."""
    shares = {e.symbol: composition.get_atomic_fraction(e) for e in composition.elements}
    if not shares.keys() <= references.keys():
        return None
    return energy - sum(x * references[s] for s, x in shares.items())
