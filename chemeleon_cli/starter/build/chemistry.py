"""The elements of the starter set: their oxidation states, radii, and which of them may meet."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Sequence

from pymatgen.core import Composition, Element

from chemeleon_cli.core.data.validity import neutral_binary, smact_valid

STATES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Li", "Na", "K", "Rb", "Cs", "Ag"), (1,)),
    **dict.fromkeys(("Mg", "Ca", "Sr", "Ba", "Zn", "Cd"), (2,)),
    **dict.fromkeys(("Sc", "Y", "La", "B", "Al", "Ga"), (3,)),
    **dict.fromkeys(("Zr", "Hf"), (4,)),
    **dict.fromkeys(("Si", "Ge"), (4, -4)),
    **dict.fromkeys(("F", "Cl", "Br"), (-1,)),
    "I": (-1, 5),
    "Cu": (1, 2),
    "Ti": (4, 3),
    "Nb": (5,),
    "Ta": (5,),
    "In": (3, 1),
    "Sn": (4, 2),
    "Pb": (2, 4),
    "Sb": (3, 5, -3),
    "Bi": (3, -3),
    "N": (-3, 5),
    "P": (-3, 5),
    "O": (-2,),
    "S": (-2, 6),
    "Se": (-2, 4),
}
"""The states that compounds are composed with: the common ones. SMACT's longer list has the last word."""
OXYGEN_ONLY = {("N", 5), ("S", 6), ("Se", 4), ("I", 5)}
"""Cations that are met with oxygen as the only anion."""
ELEMENTS = tuple(sorted(STATES, key=lambda s: Element(s).Z))
SEMIMETALS = ("Si", "Ge", "Sb", "Bi")
_NONMETALS = ("B", "N", "P", "O", "S", "Se", "F", "Cl", "Br", "I")
ALLOYING = (*(s for s in ELEMENTS if s not in (*SEMIMETALS, *_NONMETALS)), *SEMIMETALS)
REFUSES_ALKALI = frozenset(["Sc", "Y", "La", "Ti", "Zr", "Hf", "Nb", "Ta"])
ALKALI = frozenset(["Li", "Na", "K", "Rb", "Cs"])
WEIGHT = {
    **{"O": 4.0, "S": 1.7, "F": 1.2, "Cl": 1.2, "Br": 1.1, "Se": 1.1},
    **{"N": 0.8, "P": 0.7, "Si": 0.5, "Ge": 0.5, "Sb": 0.35, "Bi": 0.4, "Nb": 0.6},
}
"""How often an element is wanted, relative to the others (1)."""


@functools.cache
def electronegativity(symbol: str) -> float:
    """Pauling's."""
    return float(Element(symbol).X)


@functools.cache
def ionic_radius(symbol: str, charge: int) -> float:
    """Shannon's radius in Å of the state nearest to `charge` and of its sign; else the atomic radius."""
    element = Element(symbol)
    alike = {int(q): float(r) for q, r in element.ionic_radii.items() if q * charge > 0}
    if not alike:
        return atomic_radius(symbol) * (1.3 if charge < 0 else 0.7)
    return alike[min(alike, key=lambda q: (abs(q - charge), q))]


@functools.cache
def atomic_radius(symbol: str) -> float:
    """Slater's radius in Å."""
    return float(Element(symbol).atomic_radius or 1.5)


def ions(sign: int) -> list[tuple[str, int]]:
    """(element, charge) of every cation (sign 1) or anion (sign -1)."""
    return [(s, q) for s in ELEMENTS for q in STATES[s] if q * sign > 0]


def compatible(occupants: Sequence[tuple[str, int]]) -> bool:
    """Whether these ions, given as (element, charge), may share a crystal.

    Distinct elements, every cation less electronegative than every anion (Pauling order), and no cation of
    OXYGEN_ONLY beside another anion.
    """
    symbols = [s for s, _ in occupants]
    anions = [s for s, q in occupants if q < 0]
    cations = [s for s, q in occupants if q > 0]
    if len(set(symbols)) < len(symbols) or not anions or not cations:
        return False
    if max(map(electronegativity, cations)) >= min(map(electronegativity, anions)):
        return False
    return anions == ["O"] or not OXYGEN_ONLY.intersection(occupants)


def is_metal(symbol: str) -> bool:
    """Whether SMACT calls it a metal."""
    from smact import metals

    return symbol in metals


def alloyable(symbols: Iterable[str]) -> bool:
    """Whether metals may form a compound: alkali metals and early transition metals do not mix."""
    found = set(symbols)
    return not (found & ALKALI and found & REFUSES_ALKALI)


RATIOS = [(1, 1), (1, 2), (1, 3), (2, 3), (1, 4), (3, 4), (2, 5), (1, 5), (1, 6), (3, 5)]


def pair_formulas(first: str, second: str) -> list[tuple[int, int]]:
    """Stoichiometries (m of `first`, n of `second`) of the pair's neutral compounds, the commonest first.

    Those of the common states; for pairs without any, the simplest one that SMACT allows. Empty for two metals
    that are never ions of each other, and where SMACT allows none.
    """
    found = []
    for p, q in itertools.product(STATES[first], STATES[second]):
        if p * q < 0 and compatible([(first, p), (second, q)]):
            divisor = math.gcd(p, q)
            found.append((abs(q) // divisor, abs(p) // divisor))
    found = [r for r in dict.fromkeys(found) if smact_valid(Composition({first: r[0], second: r[1]}))]
    if found or not neutral_binary(first, second):
        return found
    for ratio in RATIOS:
        for m, n in dict.fromkeys((ratio, ratio[::-1])):
            if smact_valid(Composition({first: m, second: n})):
                return [(m, n)]
    return []
