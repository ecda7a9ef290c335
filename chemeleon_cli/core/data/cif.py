"""CIF text to a structure and back.

A crystal without symmetry (what pymatgen and this program write) is read here, atom by atom: order, digits
and even overlapping atoms stay as they are written, so that a generated crystal is scored as it was made.
Everything else goes through pymatgen's parser, which applies the symmetry and mends what people write.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from chemeleon_cli.core.data.limits import MAX_Z

if TYPE_CHECKING:
    from pymatgen.core import Structure

MAX_BLOCK = 2_000_000
"""Characters of one crystal; more (some 30,000 atoms) is no crystal for this program and is not parsed."""
MAX_SITES = 2_000
"""Sites before symmetry; the general parser takes minutes for more."""
FULL = 0.01
"""An occupancy within this of 1 is rounding."""

ID_TAG = "_chemeleon_id"

_BLOCK = re.compile(r"\s*data_(\S*)", re.IGNORECASE)
_TAG = re.compile(r"^_chemeleon_(id|label_\S+)\s+(\S.*?)\s*$", re.MULTILINE)
_NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?:\(\d+\))?$")
_SYMBOL = re.compile(r"([A-Z][a-z]?)(?:\d*\.?\d*[+-]\d*)?$")
_CRYSTAL_TAGS = ("_cell_length", "_atom_site")
_OPERATIONS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
_GROUP_NUMBERS = ("_symmetry_int_tables_number", "_space_group_it_number")
_GROUP_NAMES = (
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_hall",
    "_space_group_name_hall",
)


ISOTOPES = ("D", "T")
"""Symbols that pymatgen reads as hydrogen; a T in a file is as likely to be a tetrahedral site."""


class Unfit(ValueError):
    """Read, but not an ordered crystal of known elements; the message is `code: detail`."""


def split_blocks(lines: Iterable[str]) -> Iterator[str]:
    """The data blocks of a CIF that hold a crystal or the start of one, cut at MAX_BLOCK.

    A file without any such block comes back as one block, so that it can be named as unreadable.
    """
    block: list[str] = []
    length, found, first = 0, False, ""
    for line in lines:
        if _BLOCK.match(line):
            if _holds_crystal(block):
                found = True
                yield "".join(block)
            block, length = [], 0
        if length <= MAX_BLOCK:
            block.append(line)
            length += len(line)
        first = first or line
    if _holds_crystal(block):
        yield "".join(block)
    elif not found:
        yield "".join(block) or first


def _holds_crystal(block: list[str]) -> bool:
    has_name = any(_BLOCK.match(line) for line in block)
    return has_name and any(line.lstrip().lower().startswith(_CRYSTAL_TAGS) for line in block)


def block_tags(block: str) -> tuple[str, dict[str, str]]:
    """The id (as written by `cif_text`, else the block's name) and the labels of a block, as they are written."""
    name = _BLOCK.search(block)
    identifier, labels = (name.group(1) if name else ""), {}
    for tag, value in _TAG.findall(block):
        if tag == "id":
            identifier = unquote(value.strip('"'))
        else:
            labels[unquote(tag.removeprefix("label_"))] = value
    return identifier, labels


def cif_text(structure: Structure, identifier: str, labels: Mapping[str, float] | None = None) -> str:
    """One data block without symmetry; `parse_cif` gives back cell and coordinates to 1e-8.

    Args:
        structure: an ordered structure.
        identifier: kept whole in a tag of ours, and made safe for the block's name; may be empty.
        labels: numbers to keep with it; those that are not finite are left out.
    """
    a, b, c = structure.lattice.abc
    alpha, beta, gamma = structure.lattice.angles
    formula = structure.composition.reduced_formula
    kept = {k: v for k, v in (labels or {}).items() if math.isfinite(v)}
    name = "_".join(filter(None, (formula, identifier)))
    lines = [
        f"data_{re.sub(r'[^A-Za-z0-9.+-]', '_', name)[:74]}",
        *([f'{ID_TAG}   "{quote(identifier, safe=" /:+,()=")}"'] if identifier else []),
        *(f"_chemeleon_label_{quote(k, safe='')}   {v!r}" for k, v in kept.items()),
        "_symmetry_space_group_name_H-M   'P 1'",
        f"_cell_length_a   {a:.8f}",
        f"_cell_length_b   {b:.8f}",
        f"_cell_length_c   {c:.8f}",
        f"_cell_angle_alpha   {alpha:.8f}",
        f"_cell_angle_beta   {beta:.8f}",
        f"_cell_angle_gamma   {gamma:.8f}",
        "_symmetry_Int_Tables_number   1",
        f"_chemical_formula_sum   '{structure.composition.formula}'",
        "loop_",
        " _symmetry_equiv_pos_site_id",
        " _symmetry_equiv_pos_as_xyz",
        "  1  'x, y, z'",
        "loop_",
        " _atom_site_type_symbol",
        " _atom_site_label",
        " _atom_site_fract_x",
        " _atom_site_fract_y",
        " _atom_site_fract_z",
        " _atom_site_occupancy",
    ]
    symbols = [site.specie.symbol for site in structure]
    for i, (symbol, (x, y, z)) in enumerate(zip(symbols, structure.frac_coords.tolist(), strict=True)):
        lines.append(f"  {symbol}  {symbol}{i}  {x:.8f}  {y:.8f}  {z:.8f}  1")
    return "\n".join(lines) + "\n"


def parse_cif(text: str) -> Structure:
    """One CIF (its first crystal, if there are several) to a structure.

    Raises:
        Unfit: a site is partly empty, or an isotope.
        Exception: whatever the general parser stumbles over.
    """
    from pymatgen.io.cif import CifBlock

    if len(text) > MAX_BLOCK:
        raise ValueError(f"more than {MAX_BLOCK:,} characters")
    block = next(split_blocks(text.splitlines(keepends=True)))
    start = _BLOCK.search(block)
    if start is None:
        raise ValueError("no data_ block")
    data = {k.lower(): v for k, v in CifBlock.from_str(block[start.start() :].lstrip()).data.items()}
    return _without_symmetry(data) or _with_symmetry(block, data)


def plain(structure: Structure) -> Structure:
    """The structure without oxidation states, site properties and labels.

    Raises:
        Unfit: it is empty, not finite, disordered, or holds what is no element of 1..MAX_Z.
    """
    import numpy as np
    from pymatgen.core import Structure

    if not len(structure):
        raise Unfit("no_structure: no atoms")
    if not (np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.frac_coords).all()):
        raise Unfit("no_cell: cell or coordinates are not finite")
    numbers = []
    for site in structure:
        species = {s: share for s, share in site.species.items() if share > 1e-6}
        if len(species) != 1 or abs(sum(species.values()) - 1) > FULL:
            raise Unfit(f"disorder: {site.species_string}")
        symbol = next(iter(species)).symbol
        z = getattr(next(iter(species)), "Z", 0)
        if not 1 <= z <= MAX_Z:
            raise Unfit(f"element: {symbol}")
        numbers.append(z)
    return Structure(structure.lattice, numbers, structure.frac_coords)


def _without_symmetry(data: Mapping[str, Any]) -> Structure | None:
    """The structure, atom by atom, or None where the general parser has to look."""
    from pymatgen.core import Lattice, Structure
    from pymatgen.core.periodic_table import Element

    if not _is_plain(data):
        return None
    try:
        cell = [_number(data[f"_cell_length_{k}"]) for k in "abc"]
        cell += [_number(data[f"_cell_angle_{k}"]) for k in ("alpha", "beta", "gamma")]
        symbols = [_SYMBOL.match(s) for s in data["_atom_site_type_symbol"]]
        coordinates = [[_number(v) for v in data[f"_atom_site_fract_{k}"]] for k in "xyz"]
        occupancies = [_number(v) for v in data.get("_atom_site_occupancy", ())]
    except (KeyError, ValueError):
        return None
    elements = [m.group(1) if m else "" for m in symbols]
    if not elements or any(e in ISOTOPES or not Element.is_valid_symbol(e) for e in elements):
        return None
    for element, occupancy in zip(elements, occupancies, strict=False):
        if abs(occupancy - 1) > FULL:
            raise Unfit(f"disorder: {element} with occupancy {occupancy:g}")
    return Structure(Lattice.from_parameters(*cell), elements, list(zip(*coordinates, strict=True)))


def _is_plain(data: Mapping[str, Any]) -> bool:
    """Whether nothing but the identity is to be applied, and nothing magnetic or implicit is in the way."""
    if any("_moment" in key or "_magn" in key or key == "_atom_site_attached_hydrogens" for key in data):
        return False
    for key in _OPERATIONS:
        if key in data:
            operations = [data[key]] if isinstance(data[key], str) else data[key]
            return [o.replace(" ", "").lower().replace("+x", "x") for o in operations] == ["x,y,z"]
    numbers = {str(data[k]).strip() for k in _GROUP_NUMBERS if k in data}
    names = {str(data[k]).replace(" ", "").upper() for k in _GROUP_NAMES if k in data}
    return numbers <= {"1"} and names <= {"P1"}


def _number(text: str) -> float:
    match = _NUMBER.match(text.strip())
    if match is None:
        raise ValueError(f"'{text}' is not a number")
    return float(match.group(1))


def _with_symmetry(block: str, data: Mapping[str, Any]) -> Structure:
    from pymatgen.io.cif import CifParser

    sites = data.get("_atom_site_fract_x", ())
    if len(sites) > MAX_SITES:
        raise ValueError(f"{len(sites)} sites with symmetry")
    for symbol in data.get("_atom_site_type_symbol", data.get("_atom_site_label", ())):
        if re.sub(r"[^A-Za-z].*", "", symbol) in ISOTOPES:
            raise Unfit(f"element: {symbol}")
    parser = CifParser.from_str(block, occupancy_tolerance=1 + FULL, site_tolerance=1e-3, check_cif=False)
    return parser.parse_structures(primitive=False, on_error="raise")[0]
