"""The atom sites of a CIF block, with element and position of each row, and its chemical formula.

Every row becomes a site, or the crystal is rejected; a row that cannot be read is never skipped. The only exception is
a row that the file marks as a dummy (`_atom_site_calc_flag dum`).
"""

from __future__ import annotations

import functools
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chemeleon_cli.core.data.limits import ISOTOPES, MAX_Z, Unfit

Block = Mapping[str, Sequence[str]]
"""Values by tag (lower case, with `_` for the `.` of newer dictionaries); a value outside a loop is a list of one."""

FULL = 0.01
"""An occupancy that differs from 1 by less counts as 1."""
LARGEST_COORDINATE = 1_000.0
"""Largest fractional coordinate; a larger one is a typing error, and too few digits are left to place the atom."""
MOLECULES = (
    *("H2O", "HOH", "H3O", "NO2", "NO3", "NH2", "NH3", "NH4", "CH3", "CH4"),
    *("CO2", "CO3", "SO3", "SO4", "PO4", "CN"),
)
"""Symbols and labels of a single position that stand for several atoms."""

# `*+` and `++` give back nothing that they took, so that a very long value is refused at once.
_ESD = re.compile(r"([-+]?(?:\d++\.?\d*+|\.\d++)(?:[eE][-+]?\d++)?)(?:\(\d*\))?$")
_FRACTION = re.compile(r"([-+]?\d+)/(\d+)$")
_SYMBOL = re.compile(r"([A-Za-z]+)[\d.+\-]*+(?:\([\dIVX+\-]*\))?[\d.+\-]*+$")
_LABEL = re.compile(r"\d*([A-Za-z]+)(.*)$", re.DOTALL)
_FORMULA = re.compile(r"([A-Z][a-z]?|[a-z]{1,2})(\d*\.?\d*)")


@dataclass(frozen=True)
class Site:
    """A row of the `_atom_site` loop.

    Attributes:
        label: as in the file.
        element: symbol of the element.
        position: fractional coordinates as in the file.
        multiplicity: number of equivalent atoms in the cell; None if the file does not give it.
    """

    label: str
    element: str
    position: tuple[float, float, float]
    multiplicity: int | None


@dataclass(frozen=True)
class Formula:
    """The chemical formula that a file gives.

    Attributes:
        counts: number of atoms of each element in `_chemical_formula_sum`.
        units: `_cell_formula_units_Z`, the number of formula units in the cell; None if the file does not give it.
    """

    counts: Mapping[str, float]
    units: float | None

    def agrees(self, content: Mapping[str, int]) -> bool:
        """Whether a cell with this content is a whole number of formula units, and `units` of them if that is given.

        Some programs, such as pymatgen, write the content of the whole cell as the formula, together with the number of
        reduced formulas in it. Both conventions are accepted.
        """
        if set(content) != set(self.counts):
            return False
        times = sum(content.values()) / sum(self.counts.values())
        if any(abs(times * self.counts[e] - n) > 0.01 * n for e, n in content.items()):
            return False
        if self.units is None:
            return abs(times - round(times)) < 0.01 and times > 0.99
        whole_cell = abs(times - 1) < 0.01 and math.gcd(*content.values()) % max(round(self.units), 1) == 0
        return abs(times - self.units) < 0.01 * self.units or whole_cell

    def __str__(self) -> str:
        text = "".join(f"{e}{n:g}" if n != 1 else e for e, n in self.counts.items())
        return text if self.units is None else f"{text} (Z = {self.units:g})"


def text_of(block: Block, *tags: str) -> str:
    """The value of the first of these tags that has one (`?` and `.` do not count), or ""."""
    for tag in tags:
        for value in block.get(tag, ()):
            if value.strip() not in ("", "?", "."):
                return value.strip()
    return ""


def number_of(text: str) -> float | None:
    """`0.5`, `0.5(3)` or `1/2` as a number; None for anything else, and for numbers that overflow (1e400)."""
    text = text.strip()
    if text.replace(".", "", 1).isdecimal() and len(text) < 20:  # most are, and this is four times as fast
        return float(text)
    match = _ESD.match(text)
    if match is not None:
        value = float(match.group(1))
    else:
        fraction = _FRACTION.match(text)
        if fraction is None or not float(fraction.group(2)):
            return None
        value = float(fraction.group(1)) / float(fraction.group(2))
    return value if math.isfinite(value) else None


def read_formula(block: Block) -> Formula | None:
    """The formula of a file, or None if it has none that can be read."""
    text = text_of(block, "_chemical_formula_sum")
    counts: dict[str, float] = defaultdict(float)
    for word in text.replace(",", " ").split():
        if re.fullmatch(r"[A-Z]{2}\d*+\.?\d*+", word) and _is_element(word.rstrip("0123456789.").capitalize()):
            word = word.capitalize()  # SI1, as in old files
        position = 0
        while position < len(word):
            found = _FORMULA.match(word, position)
            if found is None or not _is_element(found.group(1).capitalize()):
                return None
            counts[found.group(1).capitalize()] += float(found.group(2).strip(".") or 1)
            position = found.end()
    present = {element: count for element, count in counts.items() if count > 0}
    units = number_of(text_of(block, "_cell_formula_units_z"))
    return Formula(present, units if units and units > 0 else None) if present else None


def read_sites(block: Block, formula: Formula | None) -> list[Site]:
    """All rows of the atom sites except dummies.

    Args:
        block: the values of a data block.
        formula: of the same block. It decides between two readings of a label (CO1 may be cobalt or a carbon).

    Raises:
        Unfit: a row has no position, an occupancy other than 1, a hydrogen without a position, or a symbol that is not
            an element.
    """
    columns = [block.get(f"_atom_site_fract_{k}") for k in "xyz"]
    if any(column is None for column in columns):
        only_cartesian = "_atom_site_cartn_x" in block
        raise Unfit(f"unreadable: no fractional coordinates{', only Cartesian ones' if only_cartesian else ''}")
    count = len(columns[0] or ())
    if any(len(column or ()) != count for column in columns):
        raise Unfit("unreadable: the columns of coordinates have different lengths")
    labels = _column(block, count, "_atom_site_label")
    symbols = _column(block, count, "_atom_site_type_symbol")
    flags = _column(block, count, "_atom_site_calc_flag")
    occupancies = _column(block, count, "_atom_site_occupancy")
    hydrogens = _column(block, count, "_atom_site_attached_hydrogens")
    multiplicities = _column(block, count, "_atom_site_symmetry_multiplicity", "_atom_site_site_symmetry_multiplicity")
    named = enumerate(zip(labels, symbols, strict=True), 1)
    names = [(label or symbol or f"site {i}")[:40] for i, (label, symbol) in named]
    kept = [i for i in range(count) if flags[i].lower() != "dum"]
    for i in kept:
        _check_whole(names[i], occupancies[i], hydrogens[i])
    sites = []
    for i in kept:
        element = _element(symbols[i], labels[i], formula)
        position = _position(names[i], [column[i] for column in columns if column])
        sites.append(Site(names[i], element, position, _count(multiplicities[i])))
    hydroxyl = next((i for i in kept if not symbols[i] and re.fullmatch(r"OH\d*", labels[i])), None)
    if hydroxyl is not None and formula is None and all(site.element != "H" for site in sites):
        raise Unfit(f"incomplete: {names[hydroxyl]} is a hydroxyl group, and its hydrogen has no position")
    return sites


def _column(block: Block, count: int, *tags: str) -> Sequence[str]:
    """A column of the same length as the coordinates; missing values, or a missing column, are ""."""
    for tag in tags:
        values = block.get(tag)
        if values is not None:
            if len(values) != count:
                raise Unfit(f"unreadable: {tag} has {len(values)} values and there are {count} sites")
            return ["" if value in ("?", ".") else value for value in values]
    return [""] * count


def _check_whole(name: str, occupancy: str, hydrogens: str) -> None:
    share = number_of(occupancy) if occupancy else 1.0
    if share is None:
        raise Unfit(f"unreadable: the occupancy of {name} is '{occupancy[:20]}'")
    if abs(share - 1) > FULL:
        raise Unfit(f"disorder: {name} with occupancy {share:g}")
    attached = number_of(hydrogens) if hydrogens else 0.0
    if attached is None or attached > 0:
        raise Unfit(f"incomplete: hydrogen is attached to {name} ({hydrogens[:20]}) and has no position")


def _position(name: str, texts: Sequence[str]) -> tuple[float, float, float]:
    values = [number_of(text) for text in texts]
    if all(text in ("?", ".") for text in texts):
        raise Unfit(f"incomplete: {name} has no coordinates")
    if any(value is None or abs(value) > LARGEST_COORDINATE for value in values):
        raise Unfit(f"unreadable: {name} is at {', '.join(text[:20] for text in texts)}")
    x, y, z = values
    return x, y, z  # type: ignore[return-value]


def _count(text: str) -> int | None:
    value = number_of(text)
    return int(value) if value is not None and value > 0 and value == int(value) else None


def _element(symbol: str, label: str, formula: Formula | None) -> str:
    """The element of a row, from its type symbol or, if it has none, from its label."""
    readings = _of_symbol(symbol) if symbol else _of_label(label)
    if not readings:
        raise Unfit(f"element: '{(symbol or label)[:40]}' is not an element up to Z = {MAX_Z}")
    known = formula.counts if formula else ()
    element = next((reading for reading in readings if reading in known), readings[0])
    if element in ISOTOPES:
        raise Unfit(f"element: {element}")
    return element


@functools.lru_cache(4096)
def _of_symbol(symbol: str) -> tuple[str, ...]:
    """The element of a type symbol: iron for Fe, FE, Fe3+, Fe+3, Fe(III) and Fe3; none for Va, OH, Du and NH4."""
    _refuse_mixture(symbol)
    match = _SYMBOL.match(symbol)
    element = match.group(1).capitalize() if match and symbol not in MOLECULES else ""
    return (element,) if _is_element(element) or element in ISOTOPES else ()


@functools.lru_cache(4096)
def _of_label(label: str) -> tuple[str, ...]:
    """The elements that a label can stand for, the likeliest first.

    A label begins with the symbol of its element, followed by a number or a mark in capitals (SiT1, OW2, CaM2). Two
    capitals can be one symbol or a symbol and a mark: CA1 is calcium, or the carbon A.
    """
    _refuse_mixture(label)
    match = _LABEL.match(label)
    if match is None or label in MOLECULES:
        return ()
    letters = match.group(1)
    readings = []
    if len(letters) <= 2:
        readings.append(letters.capitalize())
    if letters[:2].istitle() and len(letters) > 2 and letters[2:].isupper():
        readings.append(letters[:2])
    if letters[:1].isupper() and len(letters) > 1 and letters[1:].isupper():
        readings.append(letters[0])
    return tuple(r for r in readings if _is_element(r) or r in ISOTOPES)


def _refuse_mixture(text: str) -> None:
    """Reject a site with more than one element: `Si/Al`, `Nb,Zr`, `0.75Si + 0.25Al`, `O-H`."""
    parts = [re.sub(r"^[\d.\s]+|[^A-Za-z].*$", "", part, flags=re.DOTALL) for part in re.split(r"[,/+&\-]", text)]
    named = [part for part in parts if _is_element(part)]
    if len(named) > 1:
        raise Unfit(f"disorder: '{text[:40]}' names several elements")


@functools.lru_cache(1024)
def _is_element(symbol: str) -> bool:
    from pymatgen.core.periodic_table import Element

    return symbol not in ISOTOPES and Element.is_valid_symbol(symbol) and Element(symbol).Z <= MAX_Z
