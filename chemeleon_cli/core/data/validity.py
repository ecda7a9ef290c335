"""Checks of whether a crystal is possible (geometry) and charge-balanced (SMACT)."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from pymatgen.core import Composition, Element, Lattice, Structure

from chemeleon_cli.core.data.limits import MAX_ANGLE, MAX_VOLUME, MAX_Z, MIN_ANGLE, MIN_DISTANCE, MIN_VOLUME

ENUMERATED = 20_000
"""Largest number of assignments of oxidation states that SMACT tries one by one (0.1 s); beyond it, `balanced` computes
the sums of charges instead."""
GUESSED = 100_000
"""Largest number of assignments that pymatgen tries (about 1 s); see `_ways`."""


def problem(structure: Structure | None) -> str | None:
    """Why a structure cannot be a crystal, or None if it can.

    Returns:
        "no structure"; "element": an atomic number outside 1..100, or disorder; "cell": lengths, angles or coordinates
        that are not finite, or angles outside 10-170 degrees; "volume": outside 4-100 Å^3 per atom; "distance": two
        atoms, or an atom and its periodic image, closer than 0.5 Å.
    """
    if structure is None or not len(structure):
        return "no structure"
    numbers = np.array([getattr(site.specie, "Z", 0) for site in structure] if structure.is_ordered else [0])
    if numbers.min() < 1 or numbers.max() > MAX_Z:
        return "element"
    matrix, frac = structure.lattice.matrix, structure.frac_coords
    lengths = np.linalg.norm(matrix, axis=1)
    if not (np.isfinite(matrix).all() and np.isfinite(frac).all() and lengths.min() > 0):
        return "cell"
    unit = matrix / lengths[:, None]
    angles = np.degrees(np.arccos(np.clip([unit[1] @ unit[2], unit[2] @ unit[0], unit[0] @ unit[1]], -1, 1)))
    if angles.min() < MIN_ANGLE or angles.max() > MAX_ANGLE:
        return "cell"
    if not MIN_VOLUME <= abs(np.linalg.det(matrix)) / len(structure) <= MAX_VOLUME:
        return "volume"
    return "distance" if any_closer(matrix, frac, MIN_DISTANCE) else None


def any_closer(matrix: np.ndarray, frac_coords: np.ndarray, distance: float) -> bool:
    """Whether two atoms of a crystal, periodic images included, are closer than `distance`.

    Args:
        matrix: (3, 3) lattice vectors as rows, Å, of a cell with positive volume.
        frac_coords: (N, 3).
        distance: Å.
    """
    if np.linalg.norm(matrix, axis=1).min() < distance:
        return True
    reach = _images_within(matrix, distance)
    if reach.max() > 2:  # a long, skewed cell needs many images, the reduced cell of the same crystal few
        reduced = Lattice(matrix).get_lll_reduced_lattice().matrix
        matrix, frac_coords = reduced, frac_coords @ matrix @ np.linalg.inv(reduced)
        if np.linalg.norm(matrix, axis=1).min() < distance:
            return True
        reach = _images_within(matrix, distance)
    offsets = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), -1).reshape(-1, 3)
    difference = frac_coords[:, None] - frac_coords[None]
    difference -= np.round(difference)
    vectors = (difference[:, :, None] + offsets) @ matrix  # (N, N, images, 3)
    squares = (vectors**2).sum(-1)
    diagonal = np.arange(len(frac_coords))
    squares[diagonal, diagonal, len(offsets) // 2] = np.inf  # the middle offset is 0, the atom itself
    return bool(squares.min() < distance**2)


def _images_within(matrix: np.ndarray, distance: float) -> np.ndarray:
    """(3,) int, number of cells to search along each vector, for fractional differences in [-0.5, 0.5]."""
    return np.floor(distance * np.linalg.norm(np.linalg.inv(matrix), axis=0) + 0.5).astype(int)


def shortest_contact(structure: Structure, longest: float) -> float | None:
    """The shortest distance between two atoms, periodic images included, over the sum of their covalent radii (Cordero
    et al. 2008, doi:10.1039/b801115j).

    Args:
        structure: a possible crystal.
        longest: largest ratio to search for.

    Returns:
        The ratio, at most `longest`; None if an element has no radius (heavier than curium).
    """
    from pymatgen.analysis.local_env import CovalentRadius

    symbols = [site.specie.symbol for site in structure]  # type: ignore[union-attr]
    if not CovalentRadius.radius.keys() >= set(symbols):
        return None
    radii = np.array([CovalentRadius.radius[symbol] for symbol in symbols])
    centres, neighbours, _, distances = structure.get_neighbor_list(2 * longest * radii.max())
    return min(longest, (distances / (radii[centres] + radii[neighbours])).min(initial=longest))


def smact_valid(composition: Composition) -> bool:
    """Whether oxidation states found in the ICSD (2024) balance, with cations less electronegative than anions.

    Elements and alloys (compounds of metals only) pass. Results are cached by reduced formula.
    """
    counts = {str(element): round(n) for element, n in composition.element_composition.items()}
    divisor = math.gcd(*counts.values())
    return _smact_valid(tuple(sorted((symbol, n // divisor) for symbol, n in counts.items())))


@functools.lru_cache(maxsize=200_000)
def _smact_valid(formula: tuple[tuple[str, int], ...]) -> bool:
    from smact import Element
    from smact.screening import ICSD24FilterConfig, smact_validity

    symbols = [symbol for symbol, _ in formula]
    if len(symbols) == 1 or alloy(symbols):
        return True
    states = [_states().get(symbol, []) for symbol in symbols]
    if math.prod(map(len, states)) <= ENUMERATED:
        return bool(smact_validity("".join(f"{s}{n}" for s, n in formula), icsd_filter=ICSD24FilterConfig()))
    electronegativities = [Element(symbol).pauling_eneg for symbol in symbols]
    return balanced(states, [n for _, n in formula], electronegativities)


def balanced(
    states: Sequence[Sequence[int]], counts: Sequence[int], electronegativities: Sequence[float | None]
) -> bool:
    """SMACT's rule without trying every assignment: for every electronegativity that may separate cations from anions,
    compute all total charges that can be reached.

    Args:
        states: possible oxidation states of each element, none of them 0.
        counts: number of atoms of each element.
        electronegativities: of each element; if one is None (unknown), the compound fails, as in SMACT.
    """
    known = [e for e in electronegativities if e is not None]
    if len(known) < len(electronegativities):
        return False
    for cut in set(known):
        reached = {0}
        for element_states, count, electronegativity in zip(states, counts, known, strict=True):
            allowed = [q for q in element_states if (q > 0) == (electronegativity < cut)]
            reached = {charge + q * count for charge in reached for q in allowed}
        if 0 in reached:
            return True
    return False


def oxidation_states(composition: Composition) -> dict[str, float] | None:
    """The likeliest balanced oxidation states, by pymatgen's statistics of the ICSD; 0 for elements and alloys.

    Common states are tried first, then all known ones. Results are cached by reduced formula.

    Returns:
        The oxidation state of each element, averaged over its atoms; None if no assignment balances or there are too
        many to try.
    """
    return _oxidation_states(composition.element_composition.reduced_formula)


@functools.lru_cache(maxsize=200_000)
def _oxidation_states(formula: str) -> dict[str, float] | None:
    composition = Composition(formula)
    counts = {Element(symbol): round(n) for symbol, n in composition.get_el_amt_dict().items()}
    if len(counts) == 1 or alloy([element.symbol for element in counts]):
        return {element.symbol: 0.0 for element in counts}
    for everything in (False, True):
        if _ways(counts, everything) <= GUESSED:
            guesses = composition.oxi_state_guesses(all_oxi_states=everything)
            if guesses:
                return dict(guesses[0])
    return None


def _ways(counts: Mapping[Element, int], everything: bool) -> int:
    """Number of assignments that pymatgen tries: those of each element's atoms, and the combinations of their sums."""
    one_by_one, together = 0, 1
    for element, n in counts.items():
        states = element.oxidation_states if everything else element.icsd_oxidation_states or element.oxidation_states
        if states:
            one_by_one += n * math.comb(n + len(states) - 1, n)
            together *= n * (max(states) - min(states)) + 1
    return one_by_one + together


def alloy(symbols: Collection[str]) -> bool:
    """Whether these are several elements, all of them metals in SMACT's list."""
    from smact import metals

    return len(symbols) > 1 and all(symbol in metals for symbol in symbols)


@functools.cache
def neutral_binary(a: str, b: str) -> bool:
    """Whether a compound of these two elements can be neutral with the less electronegative one as the cation.

    False for two metals, because an alloy need not balance.
    """
    from smact import Element, metals

    if a in metals and b in metals:
        return False
    ions = []
    for symbol in (a, b):
        electronegativity = Element(symbol).pauling_eneg
        if electronegativity is None:
            return False
        ions.append((electronegativity, _states().get(symbol, [])))
    (low, cation), (high, anion) = sorted(ions)
    return low < high and max(cation, default=0) > 0 > min(anion, default=0)


@functools.cache
def _states() -> dict[str, list[int]]:
    """Oxidation states by element symbol, from SMACT's default ICSD24 filter."""
    from smact.utils.oxidation import ICSD24OxStatesFilter

    table = ICSD24OxStatesFilter().filter(consensus=3, include_zero=False, commonality="low")
    return {
        str(element): [int(q) for q in str(states).split()]
        for element, states in zip(table["element"], table["oxidation_state"], strict=True)
    }
