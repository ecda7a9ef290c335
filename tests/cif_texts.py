"""CIF texts whose right reading is known: a crystal with its symmetry stated in every way that a file may have."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from cif_truth import (
    Crystal,
    Setting,
    Site,
    named,
    same_operations,
    seeded,
    setting,
    settings_of,
    squeezed,
)

READ, EITHER, REFUSE = "read", "read or refuse", "refuse"
"""What is right to do with a text: it says what the crystal is; it leaves that open; it contradicts itself."""

NAME_TAGS = ("_symmetry_space_group_name_H-M", "_space_group_name_H-M_alt")
NUMBER_TAGS = ("_symmetry_Int_Tables_number", "_space_group_IT_number")
HALL_TAGS = ("_symmetry_space_group_name_Hall", "_space_group_name_Hall")
OPERATION_TAGS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
OTHER_NAME_TAGS = (
    "_symmetry_space_group_name_H_M",
    "_space_group_name_H-M_full",
    "_space_group_name_H-M_ref",
    "_space_group.name_H-M_alt",
    "_space_group.name_H-M_full",
)
OPERATION_IDS = {OPERATION_TAGS[0]: "_symmetry_equiv_pos_site_id", OPERATION_TAGS[1]: "_space_group_symop_id"}
IDENTITY = ["loop_", "_symmetry_equiv_pos_as_xyz", "'x, y, z'"]
NO_ELEMENTS = ("OH", "NO3", "H2O", "NH4", "Wat", "Va", "Vac", "Du", "X", "M", "Q", "Xx")


@dataclass(frozen=True)
class Case:
    """One CIF text and what is right to make of it.

    Attributes:
        kind: how it states its symmetry, or what contradicts what.
        text: of the file.
        crystal: what it means; None where it contradicts itself.
        right: READ, EITHER or REFUSE.
        tolerance: Å by which rounded coordinates may be off.
    """

    kind: str
    text: str
    crystal: Crystal | None
    right: str = READ
    tolerance: float = 0.01


def symmetry_cases(crystal: Crystal) -> Iterator[Case]:
    """A crystal with its symmetry stated in every way there is, once each."""
    for kind, lines, meant in statements(crystal):
        rng = seeded(kind, crystal.setting.hall_number, len(crystal.symbols))
        fitting: list[Setting] = []
        for other in meant:
            if other.fits(crystal.cell) and not any(same_operations(other, f) for f in fitting):
                fitting.append(other)
        sure = len(fitting) == 1 and same_operations(fitting[0], crystal.setting)
        yield Case(kind, text_of(crystal, lines, formula_lines(crystal, rng), rng), crystal, READ if sure else EITHER)
    yield from _listings(crystal)


def statements(crystal: Crystal) -> Iterator[tuple[str, list[str], tuple[Setting, ...]]]:
    """(kind, lines that state the symmetry, all settings that they may mean)."""
    one = crystal.setting
    rng = seeded("statements", one.hall_number, len(crystal.symbols))
    name, number, hall = (str(rng.choice(tags)) for tags in (NAME_TAGS, NUMBER_TAGS, HALL_TAGS))
    numbered = [f"{number} {one.number}"]
    only, unsure = (one,), (one, setting(1))
    standard = settings_of(one.number)[0]

    yield "operations alone", operation_lines(one, rng), only
    yield "operations, names", [*_named(NAME_TAGS[0], one.short), *numbered, *operation_lines(one, rng)], only
    mixed = [*operation_lines(one, rng, shuffled=True), *_named(hall, one.hall)]
    yield "operations in any order, Hall symbol", mixed, only
    if not same_operations(one, standard):
        told = [*_named(NAME_TAGS[1], standard.short), *numbered, *operation_lines(one, rng)]
        yield "operations beside the name of another setting", told, unsure

    for kind, symbol in (("short symbol", one.short), ("full symbol", one.full), ("old symbol", one.old)):
        if kind == "old symbol" and one.old == one.short:
            continue
        meant = named(symbol)
        if kind == "short symbol" and one.axis == "a":
            meant = (*meant, *unsure)  # hardly anybody writes the short symbol for the unique axis a
        yield kind, _named(name, symbol), meant
        of_group = tuple(m for m in meant if m.number in (1, one.number))
        yield f"{kind}, number", [*numbered, *_named(name, symbol)], of_group
        yield f"{kind} in another spelling", _named(name, _spelt(symbol, rng)), meant
    if one.origin:
        symbol = one.old if one.old != one.short else one.short
        meant = tuple(m for m in named(symbol) if m.origin == one.origin)
        before = str(rng.choice([symbol, squeezed(symbol).capitalize()]))
        yield "symbol with :1 :2 :H :R", _named(name, before + str(rng.choice([":", " :"])) + one.origin), meant
        letter = {"1": "S", "2": "Z"}.get(one.origin, one.origin)
        yield "symbol with S Z H R", _named(name, before + str(rng.choice(["", " "])) + letter), meant
        words = {"H": "hexagonal axes", "R": "rhombohedral axes"}.get(one.origin, f"origin choice {one.origin}")
        meant = tuple(m for m in named(one.full) if m.origin == one.origin)
        yield "symbol with (origin choice 2)", _named(name, f"{one.full} ({words})"), meant
        if len(one.code) == 1:
            code = f"_space_group.IT_coordinate_system_code {one.code.lower()}"
            yield "number, coordinate system code", [*numbered, code], only
    for tag in OTHER_NAME_TAGS:
        yield f"symbol as {tag}", _named(tag, one.full), named(one.full)
    yield "Hall symbol as _space_group.name_Hall", _named("_space_group.name_Hall", one.hall), only
    yield "Hall symbol", _named(hall, one.hall), only
    yield "Hall symbol, number", [*_named(hall, one.hall), *numbered], only
    if _is_told_by_number(one):
        sure = (one.is_first and one.origin not in ("1", "2")) or one.origin == "R"
        meant = only if sure else unsure
        yield "number", numbered, meant
        yield "number, unknown symbol", [*_named(name, "?"), *numbered], meant
    if one.number > 2:
        reference = _named("_space_group_name_H-M_ref", standard.short)
        yield "reference symbol, full symbol", [*reference, *_named(NAME_TAGS[1], one.full)], named(one.full)
        yield "symbol ?", [*_named(name, "?"), f"{number} ?"], unsure
        yield "symbol that is none", _named(name, "Q" + one.short[1:]), unsure
        yield "identity beside the symbol", [*_named(name, one.full), *numbered, *IDENTITY], unsure


def _is_told_by_number(one: Setting) -> bool:
    """Whether people write the number alone for it: the standard setting, or one that origin or cell show."""
    return one.is_first or (len(one.code) == 1 and one.origin != "") or one.code in ("a", "c", "a1", "c1")


def _listings(crystal: Crystal) -> Iterator[Case]:
    """All atoms one by one, with and without a word on symmetry."""
    one, listed = crystal.setting, crystal.listed()
    rng = seeded("listings", one.hall_number, len(crystal.symbols))
    formula = formula_lines(crystal, rng, always=True)
    p1 = [*_named(NAME_TAGS[0], "P 1"), f"{NUMBER_TAGS[0]} 1"]
    yield Case("all atoms, P 1", text_of(listed, [*p1, *IDENTITY], formula, rng), crystal)
    yield Case("all atoms, P 1 without operations", text_of(listed, p1, formula, rng), crystal)
    told = [*_named(NAME_TAGS[0], one.full), f"{NUMBER_TAGS[0]} {one.number}", *IDENTITY]
    yield Case("all atoms, identity beside the symbol", text_of(listed, told, formula, rng), crystal, EITHER)
    yield Case("all atoms, symbol", text_of(listed, _named(NAME_TAGS[0], one.full), formula, rng), crystal, EITHER)
    yield Case("all atoms, nothing of symmetry", text_of(listed, [], formula, rng), crystal, EITHER)
    if not crystal.is_fully_listed():
        yield Case("nothing of symmetry", text_of(crystal, [], formula, rng), crystal, EITHER)


def contradictions(crystal: Crystal) -> Iterator[Case]:
    """Texts with sound symmetry whose atoms are not what they are said to be."""
    one = crystal.setting
    rng = seeded("contradictions", one.hall_number, len(crystal.symbols))
    symmetry = operation_lines(one, rng)
    formula = formula_lines(crystal, rng, always=True)
    first, *rest = crystal.sites

    def case(kind: str, sites: list[Site], formula: list[str] = formula, **columns: list[str]) -> Case:
        told = Crystal(one, crystal.cell, tuple(sites), crystal.symbols, crystal.positions)
        return Case(kind, text_of(told, symmetry, formula, rng, **columns), None, REFUSE)

    counts = dict(zip(crystal.sites, crystal.multiplicities, strict=True))
    left = crystal.content - Counter({first.symbol: counts[first]})
    if first.symbol not in left or _ratio(left) != _ratio(crystal.content):
        yield case("a site left out", rest)
    more = {**crystal.content, "H": 2 * crystal.units}
    yield case("hydrogen in the formula alone", [first, *rest], _formula(more, crystal.units, rng))
    yield case("a symbol that is no element", [Site(str(rng.choice(NO_ELEMENTS)), first.position), *rest])
    occupancy = str(rng.choice(["0", "-1", "0.5", "-0.03(5)", "0.000"]))
    yield case("occupancy", [first, *rest], occupancies=[occupancy, *["1"] * len(rest)])
    hydrogens = [str(rng.choice(["1", "2", "4"])), *["0"] * len(rest)]
    yield case("attached hydrogens", [first, *rest], [], hydrogens=hydrogens)
    if len(one.rotations) > 1:  # without symmetry, overlapping atoms are read as they are written, and scored so
        yield case("two elements on one site", [first, Site("K", first.position), *rest], [])
    nowhere = Site("H", (math.nan,) * 3)
    yield case("coordinates . or ?", [first, *rest, nowhere], _formula(more, crystal.units, rng))


def _ratio(content: dict[str, int]) -> dict[str, int]:
    unit = math.gcd(*content.values())
    return {symbol: n // unit for symbol, n in content.items()}


def formula_lines(crystal: Crystal, rng: np.random.Generator, always: bool = False) -> list[str]:
    """The formula and Z, or (unless `always`) one of them or none, as a file may have them."""
    lines = _formula(crystal.content, crystal.units, rng)
    return lines if always else lines[: int(rng.integers(0, 3))]


def _formula(content: dict[str, int], units: int, rng: np.random.Generator) -> list[str]:
    """Of one formula unit, or like pymatgen of the whole cell; sorted; a 1 is written or not."""
    per_cell = rng.random() < 0.3
    counts = content if per_cell else {symbol: n // units for symbol, n in content.items()}
    one = str(rng.choice(["", "1"]))
    words = [f"{symbol}{n if n > 1 else one}" for symbol, n in sorted(counts.items())]
    return [f"_chemical_formula_sum '{' '.join(words)}'", f"_cell_formula_units_Z {units}"]


def _named(tag: str, symbol: str) -> list[str]:
    plain = re.fullmatch(r"[A-Za-z][^\s'\"#]*", symbol)
    return [f"{tag} {symbol}" if plain and len(symbol) % 2 else f"{tag} '{symbol}'"]


def _spelt(symbol: str, rng: np.random.Generator) -> str:
    """A symbol without spaces, with underscores for them, with a screw axis as 2_1 or 2(1), or in capitals."""
    below = re.sub(r"(?<= )([2346])([1-5])", r"\1_\2", symbol)
    beside = re.sub(r"(?<= )([2346])([1-5])", r"\1(\2)", symbol)
    spellings = [
        symbol.replace(" ", ""),
        symbol.replace(" ", "_"),
        symbol.upper(),
        symbol.replace(" ", "").upper(),
        below,
        below.replace(" ", ""),
        beside,
        beside.replace(" ", ""),
    ]
    return str(rng.choice(spellings))


def operation_lines(one: Setting, rng: np.random.Generator, shuffled: bool = False) -> list[str]:
    """A loop of the operations in one of the usual spellings."""
    style, quoted = int(rng.integers(0, 6)), rng.random() < 0.6
    with_id = rng.random() < 0.3
    order = rng.permutation(len(one.rotations)) if shuffled else np.arange(len(one.rotations))
    tag = str(rng.choice(OPERATION_TAGS))
    lines = ["loop_", *([OPERATION_IDS[tag]] if with_id else []), tag]
    for n, i in enumerate(order, 1):
        text = operation(one.rotations[i], one.translations[i], style)
        text = f"'{text}'" if quoted or " " in text else text
        lines.append(f"{n} {text}" if with_id else text)
    return lines


def operation(rotation: np.ndarray, translation: np.ndarray, style: int) -> str:
    """`-y, x+1/2, z`; or without spaces; `1/2+x`; `X+1/2`; `x+0.5`; `+x+1/2`: by style 0..5."""
    parts = []
    for row, shift in zip(rotation.tolist(), translation.tolist(), strict=True):
        axes = "".join(f"{'+' if k > 0 else '-'}{axis}" for k, axis in zip(row, "xyz", strict=True) if k)
        axes = axes if style == 5 else axes.removeprefix("+")
        steps = round(shift % 1 * 24)
        if steps == 0:
            parts.append(axes)
            continue
        common = math.gcd(steps, 24)
        share = f"{steps // common}/{24 // common}" if style != 4 else f"{steps / 24:.5g}"
        parts.append(share + (axes if axes[0] in "+-" else "+" + axes) if style == 2 else f"{axes}+{share}")
    text = (", " if style in (0, 5) else ",").join(parts)
    return text.upper() if style == 3 else text


def text_of(
    crystal: Crystal,
    symmetry: list[str],
    formula: list[str],
    rng: np.random.Generator,
    occupancies: list[str] | None = None,
    hydrogens: list[str] | None = None,
) -> str:
    """A plain file: cell, symmetry, formula and atoms, in an order and with columns of its own.

    Args:
        crystal: its cell and its sites; a site at NaN gets no coordinates.
        symmetry: lines that state it.
        formula: lines with formula and Z.
        rng: for what files have in this way or another.
        occupancies: of the sites; None is no such column, or ones.
        hydrogens: attached to the sites; None is no such column.
    """
    cell = cell_lines(crystal.cell)
    columns = {"label": [f"{site.symbol}{i}" for i, site in enumerate(crystal.sites, 1)]}
    if rng.random() < 0.8 or any(site.symbol in NO_ELEMENTS for site in crystal.sites):
        columns["type_symbol"] = [site.symbol for site in crystal.sites]
    digits = int(rng.integers(5, 9))
    for i, axis in enumerate("xyz"):
        columns[f"fract_{axis}"] = [number(site.position[i], digits) for site in crystal.sites]
    if occupancies or rng.random() < 0.3:
        columns["occupancy"] = occupancies or ["1"] * len(crystal.sites)
    if hydrogens:
        columns["attached_hydrogens"] = hydrogens
    pieces = [formula, cell, symmetry, loop("_atom_site_", columns)]
    pieces = [pieces[i] for i in rng.permutation(len(pieces))]
    ending = "\r\n" if rng.random() < 0.1 else "\n"
    return ending.join([f"data_{crystal.setting.hall_number}", *(line for piece in pieces for line in piece), ""])


def cell_lines(cell: tuple[float, ...]) -> list[str]:
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    return [f"_cell_{name} {value:g}" for name, value in zip(names, cell, strict=True)]


def loop(prefix: str, columns: dict[str, list[str]]) -> list[str]:
    rows = zip(*columns.values(), strict=True)
    return ["loop_", *(prefix + name for name in columns), *(" ".join(row) for row in rows)]


def number(value: float, digits: int = 5) -> str:
    """A coordinate with so many digits, none after the last that is not 0; NaN is a dot."""
    return "." if math.isnan(value) else f"{value:.{digits}f}".rstrip("0").rstrip(".")
