"""Reading and writing of CIF.

gemmi parses the text. `cif_sites` reads the atom sites and `cif_symmetry` the symmetry, and `cif_cell` combines and
checks the two. The result is the crystal that the file describes, or the reason why it cannot be read. A CIF without
symmetry (as pymatgen and this program write) is read atom by atom: order, digits and even overlapping atoms are kept,
so that a generated crystal is scored as it was generated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from chemeleon_cli.core.data.cif_sites import FULL, Block, number_of, read_formula, read_sites, text_of
from chemeleon_cli.core.data.limits import MAX_Z, Unfit

if TYPE_CHECKING:
    from pymatgen.core import Structure

MAX_BLOCK = 2_000_000
"""Largest number of characters of one crystal (some 30,000 atoms); longer data blocks are not parsed."""
MAX_SITES = 2_000
"""Largest number of atoms in a cell for which a search for symmetry takes seconds and not minutes."""

ID_TAG = "_chemeleon_id"

_BLOCK = re.compile(r"^[ \t]*data_(\S*)", re.IGNORECASE | re.MULTILINE)
_TAG = re.compile(r"^_chemeleon_(id|label_\S+)[ \t]+(\S.*)$", re.MULTILINE)
_CRYSTAL_TAGS = ("_cell_length", "_cell.length", "_atom_site")
_ONCE = (
    *("_cell_length_", "_cell_angle_", "_cell_formula_units_z", "_chemical_formula_sum"),
    *("_atom_site_", "_symmetry_", "_space_group_"),
)
"""Beginnings of the tags whose values make the crystal: a block that gives one twice has to give it alike."""
FLAT = 1e-6
"""Volume of a cell, in products of its lengths, below which its angles belong to no cell, up to rounding."""
_CIF2_VALUE = re.compile(r"\"\"\".*?\"\"\"|'''.*?'''|(?<=\s)\[[^\[\]]*\](?=\s)|(?<=\s)\{[^{}]*\}(?=\s)", re.DOTALL)


def split_blocks(lines: Iterable[str]) -> Iterator[str]:
    """Yield the data blocks of a CIF that contain a cell or atom sites, each cut off after MAX_BLOCK characters.

    A line `data_...` inside a text field (between lines that begin with a semicolon) does not start a block. A file
    without any crystal is yielded as one block, so that it can be reported as unreadable.
    """
    block: list[str] = []
    length, in_text, holds_crystal, found = 0, False, False, False
    kept_first = ""
    for line in lines:
        if line.startswith(";"):
            in_text = not in_text
        elif not in_text and _BLOCK.match(line):
            if holds_crystal:
                found = True
                yield "".join(block)
            block, length, holds_crystal = [], 0, False
        elif not in_text and block and line.lstrip().lower().startswith(_CRYSTAL_TAGS):
            holds_crystal = True
        if length <= MAX_BLOCK:
            block.append(line)
            length += len(line)
        kept_first = kept_first or line
    if holds_crystal:
        yield "".join(block)
    elif not found:
        yield "".join(block) or kept_first


def block_tags(block: str) -> tuple[str, dict[str, str]]:
    """The id (as written by `cif_text`, else the name of the block) and the labels of a block, as text."""
    name = _BLOCK.search(block)
    identifier, labels = (name.group(1) if name else ""), {}
    for tag, text in _TAG.findall(_with_newlines(block)):
        value = text.rstrip()
        if tag == "id":
            identifier = unquote(value.strip('"'))
        else:
            labels[unquote(tag.removeprefix("label_"))] = value
    return identifier, labels


def cif_text(structure: Structure, identifier: str, labels: Mapping[str, float] | None = None) -> str:
    """Write a structure as one data block without symmetry. `parse_cif` restores cell and coordinates to 1e-8.

    Lengths and angles describe a right-handed cell. For a left-handed cell, all axes and coordinates are inverted,
    which moves no atom; keeping the coordinates would mirror the crystal.

    Args:
        structure: an ordered structure.
        identifier: written unchanged to the tag `_chemeleon_id`, and simplified in the name of the block; may be empty.
        labels: numbers to write with the structure; those that are not finite are left out.
    """
    import numpy as np

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
    right_handed = np.linalg.det(structure.lattice.matrix) > 0
    coordinates = structure.frac_coords if right_handed else -structure.frac_coords
    for i, (symbol, (x, y, z)) in enumerate(zip(symbols, coordinates.tolist(), strict=True)):
        lines.append(f"  {symbol}  {symbol}{i}  {x:.8f}  {y:.8f}  {z:.8f}  1")
    return "\n".join(lines) + "\n"


def parse_cif(text: str) -> Structure:
    """Read a CIF with one crystal as a structure in the cell of the file.

    Raises:
        Unfit: the crystal is disordered, contains a symbol that is not an element, or contradicts itself.
        ValueError: the text is not a CIF, or a number in it cannot be read.
    """
    from pymatgen.core import Element, Lattice, Structure

    from chemeleon_cli.core.data.cif_cell import fill_cell
    from chemeleon_cli.core.data.cif_symmetry import read_symmetry

    if len(text) > MAX_BLOCK:
        raise ValueError(f"more than {MAX_BLOCK:,} characters")
    block = _crystal_block(text)
    parameters = [number_of(text_of(block, f"_cell_length_{k}")) for k in "abc"]
    parameters += [number_of(text_of(block, f"_cell_angle_{k}")) for k in ("alpha", "beta", "gamma")]
    if any(value is None for value in parameters):
        raise ValueError("a length or an angle of the cell is missing or is not a number")
    lengths, angles = parameters[:3], parameters[3:]
    lattice = Lattice.from_parameters(*parameters)  # type: ignore[arg-type]
    is_cell = min(lengths) > 0 and min(angles) > 0 and max(angles) < 180  # type: ignore[type-var,operator]
    if not is_cell or not FLAT * math.prod(lengths) < lattice.volume < math.inf:  # type: ignore[arg-type]
        raise Unfit(f"no_cell: no cell has the parameters {', '.join(f'{value:g}' for value in parameters)}")
    formula = read_formula(block)
    sites = read_sites(block, formula)
    if not sites:
        raise Unfit("no_structure: no atoms")
    symmetry = read_symmetry(block, lattice.metric_tensor)
    content = fill_cell(sites, symmetry, formula, lattice.matrix)
    return Structure(lattice, [Element(symbol) for symbol in content.elements], content.positions)


def _crystal_block(text: str) -> Block:
    """The values of the only data block with atom sites."""
    import gemmi

    if "\0" in text:
        raise ValueError("it contains NUL characters: it is damaged, or not in UTF-8")
    text = _with_newlines(text.lstrip("\ufeff"))
    start = _BLOCK.search(text)
    if start is None:
        raise ValueError("no data_ block")
    text = text[start.start() :]
    try:
        document = gemmi.cif.read_string(text, 0)
    except ValueError:
        simpler = _CIF2_VALUE.sub("?", text)  # lists and triple quotes of CIF 2, which are not needed here
        if simpler == text:
            raise
        document = gemmi.cif.read_string(simpler, 0)
    blocks = [_values(block) for block in document]
    crystals = [block for block in blocks if any(tag.startswith("_atom_site_") for tag in block)]
    if len(crystals) > 1:
        raise ValueError(f"{len(crystals)} data blocks with atoms where one crystal is expected")
    return crystals[0] if crystals else blocks[0]


def _with_newlines(text: str) -> str:
    """The text with `\\n` at the end of each line; after a lone `\\r`, gemmi would read on in a comment."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _values(block: Any) -> Block:
    """All values of a block by tag, without quotes.

    Raises:
        ValueError: a tag that determines the crystal occurs twice with different values.
    """
    values: dict[str, Sequence[str]] = {}
    for item in block:
        columns: list[tuple[str, Sequence[str]]] = []
        if item.pair is not None:
            columns = [(item.pair[0], item.pair[1:])]
        elif item.loop is not None:
            tags, cells = item.loop.tags, item.loop.values
            columns = [(tag, cells[k :: len(tags)]) for k, tag in enumerate(tags)]
        for name, column in columns:
            tag, found = _tag(name), [_unquoted(value) for value in column]
            if values.setdefault(tag, found) != found and tag.startswith(_ONCE):
                raise ValueError(f"{tag[:60]} is there twice, with different values")
    return values


def _tag(tag: str) -> str:
    return tag.lower().replace(".", "_")


def _unquoted(value: str) -> str:
    if value[:1] in "'\";":
        import gemmi

        return gemmi.cif.as_string(value)
    return value


def plain(structure: Structure) -> Structure:
    """The structure without oxidation states, site properties and labels.

    Raises:
        Unfit: the structure is empty, not finite, disordered, or contains a species that is not an element up to MAX_Z.
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
