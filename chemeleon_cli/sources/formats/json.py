"""JSON: pymatgen Structures, alone, in a list or by id, with labels beside them; and what other programs write.

Read are also the tables of pandas (so matbench's, too), OPTIMADE responses, and lists of pymatgen's
ComputedStructureEntry (Alexandria's `entries`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from chemeleon_cli.core.data.cif import plain
from chemeleon_cli.core.data.limits import Unfit
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.formats.base import (
    Crystals,
    Format,
    IsId,
    NoCrystals,
    NoLabels,
    no_ids,
    refuse_isotopes,
    shown,
)
from chemeleon_cli.sources.formats.tables import of_cell
from chemeleon_cli.sources.records import CRYSTAL_COLUMNS, ID_COLUMNS, Record, is_empty, name_of, one_line
from chemeleon_cli.sources.streams import Source, read_whole

if TYPE_CHECKING:
    from pymatgen.core import Structure

_READ = (
    "make it a list of pymatgen Structures, or a table with a column `structure` or `cif`; read are also "
    "OPTIMADE structures and lists of ComputedStructureEntry"
)
_COUNTS = ("nsites", "nelements", "nperiodic_dimensions")
"""Numbers of an OPTIMADE structure that its sites say already: no labels."""
_OF_ENTRY = ("entry_id", "energy", "correction")
"""What is taken of a ComputedStructureEntry beside its structure and its `data`; energies in eV per cell."""


def _load(source: Source, file: BinaryIO) -> Any:
    try:
        return json.loads(read_whole(file, source.name))
    except (ValueError, RecursionError) as error:
        hint = "is it whole? a file with a JSON document in each line is not read: make it one list"
        raise UserError(f"{source.name}: not JSON: {one_line(error)}", hint) from error


def _split(source: Source, file: BinaryIO, id_column: str | None) -> Iterator[Record]:
    content = _load(source, file)
    entries = _entries(content)
    if not any(map(_holds_crystal, entries)):
        raise NoCrystals(f"{source.name}: no crystals in this JSON, it is {_described(content)}", _READ)
    ids = ID_COLUMNS if id_column is None else (id_column,)
    alone = isinstance(content, dict) and len(entries) == 1
    named, columns = False, []
    for n, entry in enumerate(entries, 1):
        fields = _row(entry, ids)
        crystal = next((c for c in CRYSTAL_COLUMNS if c in fields), None)
        identity = next((c for c in ids if not is_empty(fields.get(c))), None)
        named = named or identity is not None
        name = name_of(fields[identity] if identity else None, source.stem if alone else f"{source.stem}-{n}")
        record = of_cell(name, fields.pop(crystal) if crystal else None, fields, identity)
        columns = list(record.fields)
        yield record
    if id_column is not None and not named:
        raise no_ids(source, id_column, columns)


def _entries(content: Any) -> list[Any]:
    """What may be the crystals of a document, one by one; of other documents, what holds no crystal."""
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        return []
    if _holds_crystal(content):
        return [content]
    if table := _pandas_table(content, CRYSTAL_COLUMNS):
        return table
    if _holds_crystal(content.get("data")):  # the answer of an OPTIMADE server about one structure
        return [content["data"]]
    lists = [inside for inside in content.values() if isinstance(inside, list) and any(map(_holds_crystal, inside))]
    if len(lists) == 1:  # `entries` of Alexandria, `data` of OPTIMADE
        return lists[0]
    return [{"material_id": key} | _as_dict(value) for key, value in content.items() if _holds_crystal(value)]


def _pandas_table(content: dict[str, Any], columns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of a table that pandas has written.

    Args:
        content: as of `orient="split"`, or of "columns", which is the default there.
        columns: of the second, one that is there, as else it may be anything.

    Returns:
        Rows, each with its place in the index as `id` unless that only counts them; empty for another document.
    """
    header, index, data = (content.get(key) for key in ("columns", "index", "data"))
    if isinstance(header, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        rows = [dict(zip(map(str, header), row, strict=False)) for row in data]
        index = index if isinstance(index, list) and len(index) == len(rows) else range(len(rows))
    elif any(column.lower() in columns for column in content) and all(isinstance(v, dict) for v in content.values()):
        index = list(next(iter(content.values())))
        rows = [{column: cells.get(key) for column, cells in content.items()} for key in index]
    else:
        return []
    if [str(key) for key in index] == [str(n) for n in range(len(rows))]:
        return rows
    return [{"id": key} | row for key, row in zip(index, rows, strict=True)]


def _as_dict(entry: Any) -> dict[str, Any]:
    """What stands for a crystal as a dict: a text is its CIF."""
    return entry if isinstance(entry, dict) else {"cif": entry}


def _holds_crystal(entry: Any) -> bool:
    """Whether this is a crystal (a Structure's dict, an OPTIMADE structure, a CIF), or a dict with one in it."""
    if isinstance(entry, str):
        return "data_" in entry
    if not isinstance(entry, dict):
        return False
    cells = [entry[column] for column in CRYSTAL_COLUMNS if column in entry]
    return "lattice" in entry or _is_optimade(entry) or any(_is_cell(cell) for cell in cells)


def _is_cell(cell: Any) -> bool:
    """Whether a cell has a crystal or is a place for one; with a dict of many, its column is all of a table."""
    return not isinstance(cell, dict) or "lattice" in cell


def _is_optimade(entry: dict[str, Any]) -> bool:
    attributes = entry.get("attributes")
    return isinstance(attributes, dict) and "lattice_vectors" in attributes


def _row(entry: Any, ids: Sequence[str]) -> dict[str, Any]:
    """The row of a crystal: its structure or cif, its id where it has one, and what stands beside it."""
    entry = _as_dict(entry)
    if _is_optimade(entry):
        attributes = entry["attributes"]
        numbers = {k: v for k, v in attributes.items() if isinstance(v, int | float) and k not in _COUNTS}
        return {**numbers, "id": entry.get("id"), "structure": attributes}
    if "lattice" in entry:
        properties = entry.get("properties")
        names = {k: v for k, v in properties.items() if k in ids} if isinstance(properties, dict) else {}
        return {"structure": entry, **names, **{k: v for k, v in entry.items() if k in ids}}
    if "ComputedStructureEntry" in str(entry.get("@class")):
        data = entry.get("data")
        taken = {key: entry.get(key) for key in _OF_ENTRY}
        return {**(data if isinstance(data, dict) else {}), **taken, "structure": entry.get("structure")}
    return dict(entry)


def _described(content: Any) -> str:
    """What a document is, in a few words."""
    if isinstance(content, dict):
        if {"ids", "nextid"} <= set(content):
            return "a database of ASE (`ase convert` makes it x.extxyz)"
        return f"an object with the keys {shown(list(content))}" if content else "an empty object"
    if isinstance(content, list):
        return f"a list of {len(content):,}, the first {type(content[0]).__name__}" if content else "an empty list"
    return f"only {str(content)[:40]!r}"


def _labels(source: Source, file: BinaryIO, is_id: IsId | None) -> Iterator[dict[str, Any]]:
    """The rows of a table of labels: a list of them, pandas's tables, or an object with a row or a number by id."""
    content = _load(source, file)
    rows = _label_rows(content, is_id or (lambda key: True))
    if not rows:
        what = f"{source.name}: neither crystals nor labels by their ids, it is {_described(content)}"
        raise NoLabels(what, "expected an object like {id: {band_gap: 1.0}}, or a list of rows with an id in each")
    yield from rows


def _label_rows(content: Any, is_id: IsId) -> list[dict[str, Any]]:
    if isinstance(content, list):
        return content if all(isinstance(row, dict) for row in content) else []
    if not isinstance(content, dict):
        return []
    if table := _pandas_table(content):
        return table
    rows = {key: row for key, row in content.items() if isinstance(row, dict)}
    if any(map(is_id, rows)):
        return [{"id": key} | row for key, row in rows.items()]
    keys = list(dict.fromkeys(key for column in rows.values() for key in column))
    if any(map(is_id, keys)):
        return [{"id": key} | {name: column.get(key) for name, column in rows.items()} for key in keys]
    values = {key: value for key, value in content.items() if not isinstance(value, dict | list)}
    return [{"id": key, "target": value} for key, value in values.items()] if any(map(is_id, values)) else []


def _parse(content: dict[str, Any] | str) -> Structure:
    fields = json.loads(content) if isinstance(content, str) else content
    try:
        return plain(_from_optimade(fields) if "lattice_vectors" in fields else _from_pymatgen(fields))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"not a structure as pymatgen or OPTIMADE writes it: {one_line(error)}") from error


def _from_pymatgen(fields: dict[str, Any]) -> Structure:
    from pymatgen.core import Structure

    for site in fields["sites"]:
        refuse_isotopes([species["element"] for species in site["species"]])
        if not site["species"]:
            raise Unfit("disorder: a site without atoms")
    return Structure.from_dict(fields)


def _from_optimade(attributes: dict[str, Any]) -> Structure:
    """The structure of a resource of type `structures` (https://www.optimade.org, specification 1.2)."""
    from pymatgen.core import Structure

    vectors = attributes["lattice_vectors"]
    if attributes.get("nperiodic_dimensions", 3) != 3 or any(x is None for vector in vectors for x in vector):
        raise Unfit("no_cell: not periodic in three directions")
    species = {kind["name"]: kind for kind in attributes.get("species") or ()}
    symbols = []
    for name in attributes["species_at_sites"]:
        kind = species.get(name, {"chemical_symbols": [name], "concentration": [1.0]})
        if len(kind["chemical_symbols"]) != 1 or abs(kind.get("concentration", [1.0])[0] - 1) > 0.01:
            raise Unfit(f"disorder: {name}")
        if kind.get("attached"):
            raise Unfit(f"unreadable: atoms attached to {name} without places of their own")
        symbols += kind["chemical_symbols"]
    refuse_isotopes(symbols)
    return Structure(vectors, symbols, attributes["cartesian_site_positions"], coords_are_cartesian=True)


def _lines(crystals: Crystals) -> Iterator[str]:
    before = "["
    for name, structure, values in crystals:
        content = structure.as_dict() | {"properties": {"material_id": name, **values}}
        yield before + json.dumps(content, allow_nan=False)
        before = ",\n"
    yield "]\n" if before != "[" else "[]\n"


JSON = Format(suffixes=(".json",), split=_split, parse=_parse, write=_lines, labels=_labels)
