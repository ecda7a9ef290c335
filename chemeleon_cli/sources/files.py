"""Crystals in files of every common format: read row by row, written whole or not at all.

A row that does not parse is a row without a structure and with a reason, never a crash. A reason is
`code: detail`; the codes are in REASONS.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemeleon_cli.core.data import cif
from chemeleon_cli.core.data.limits import MAX_Z
from chemeleon_cli.core.paths import replacing, writable
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.parallel import ordered_map
from chemeleon_cli.sources.records import Record, number, read_records
from chemeleon_cli.sources.streams import kind_of

if TYPE_CHECKING:
    from pymatgen.core import Structure

REASONS = {
    "no_structure": "an empty cell, or no atoms",
    "unreadable": "the text does not parse",
    "no_cell": "not periodic in three directions, or a cell that is not finite",
    "disorder": "a site that is shared or partly empty",
    "element": f"a symbol that is no element, an isotope, or an element heavier than Z = {MAX_Z}",
    "incomplete": "atoms without a position: hydrogen that is only mentioned, coordinates left open",
    "symmetry": "a space group that is unknown, ambiguous, or contradicts the operations or the cell",
    "formula": "the atoms of the cell are not those of the formula that the file gives",
}
"""What the part of a reason before its colon means."""


@dataclass(frozen=True)
class Row:
    """One crystal of a file.

    Attributes:
        id: its name.
        structure: None where there is none to have.
        reason: why there is none, as `code: detail`; None where there is one.
        labels: the numbers beside it.
    """

    id: str
    structure: Structure | None
    reason: str | None
    labels: dict[str, float]


def read_crystals(path: str | Path, id_column: str | None = None) -> Iterator[Row]:
    """Every crystal in a file, folder or zip, in order.

    Streams; a long table is parsed by worker processes.

    Args:
        path: CIF (any number of data blocks), CSV or Parquet with a column cif, cif_string or structure,
            JSON list of pymatgen Structures, extxyz, POSCAR, each maybe .gz; a folder or a zip of these.
        id_column: the column with the ids; found by its usual names where it is not given.

    Raises:
        UserError: there is nothing to read, or a file is broken as a whole (cut short, of another format).
    """
    return ordered_map(parse, read_records(path, id_column))


def parse(record: Record) -> Row:
    """One record to a row; whatever goes wrong becomes its reason."""
    labels = {k: v for k, cell in record.fields.items() if (v := number(cell)) is not None}
    structure, reason = structure_of(record)
    return Row(record.id, structure, reason, labels)


def structure_of(record: Record) -> tuple[Structure | None, str | None]:
    """The ordered structure of a record, cell, elements and coordinates only, or the reason why not."""
    if record.kind == "broken":
        return None, f"unreadable: {record.content}"
    if not record.content or (isinstance(record.content, str) and not record.content.strip()):
        return None, "no_structure: nothing there"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return cif.plain(_PARSERS[record.kind](record.content)), None
        except cif.Unfit as error:
            return None, str(error)
        except Exception as error:  # parsers raise whatever they stumble over; the row gets the blame
            return None, f"unreadable: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _from_dict(content: dict[str, Any] | str) -> Structure:
    from pymatgen.core import Structure

    fields = json.loads(content) if isinstance(content, str) else content
    for site in fields["sites"]:
        _known([species["element"] for species in site["species"]])
    return Structure.from_dict(fields)


def _from_poscar(content: str) -> Structure:
    from pymatgen.io.vasp import Poscar

    poscar = Poscar.from_str(content)
    if not poscar.true_names:
        raise cif.Unfit("element: this POSCAR does not name its elements")
    _known(content.splitlines()[5].split())
    return poscar.structure


def _from_extxyz(content: str) -> Structure:
    from ase.io.extxyz import read_extxyz
    from pymatgen.core import Structure

    atoms = next(read_extxyz(io.StringIO(content)))
    if not atoms.pbc.all() or atoms.cell.rank < 3:
        raise cif.Unfit("no_cell: not periodic in three directions")
    if atoms.numbers.min(initial=1) < 1:
        raise cif.Unfit("element: X")
    return Structure(atoms.cell.array, atoms.numbers.tolist(), atoms.positions, coords_are_cartesian=True)


def _known(symbols: Sequence[str]) -> None:
    for symbol in symbols:
        if symbol in cif.ISOTOPES:
            raise cif.Unfit(f"element: {symbol}")


_PARSERS = {"cif": cif.parse_cif, "poscar": _from_poscar, "extxyz": _from_extxyz, "structure": _from_dict}


def write_crystals(
    path: str | Path,
    structures: Sequence[Structure],
    ids: Sequence[str],
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Write crystals in the format of the file's suffix, under a temporary name until all is written.

    Args:
        path: .cif (a data block per crystal), .extxyz, .csv, .json; .gz after any of them.
        structures: ordered structures; CIF and CSV keep lengths and angles (1e-8), not the orientation.
        ids: a name for each.
        columns: values beside them; text stays out of CIF and extxyz, what is not finite out of all.

    Raises:
        UserError: another suffix, or the folder cannot be written to.
    """
    path = Path(path)
    writer = writer_for(path)
    rows = ({k: _cell(v[i]) for k, v in (columns or {}).items()} for i in range(len(structures)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # formulas of noble gases: pymatgen knows no electronegativity to sort by
        write_lines(path, writer(zip(ids, structures, rows, strict=True)))


def writer_for(path: Path) -> Callable[..., Iterable[str]]:
    """What writes a file of this name.

    Raises:
        UserError: nothing does.
    """
    writer = _WRITERS.get(kind_of(path.name) or "")
    if writer is None or path.name.lower().endswith(".xyz"):
        raise UserError(f"{path}: cannot write this format", "name it .cif, .extxyz, .csv(.gz) or .json(.gz)")
    return writer


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write text (compressed where the name ends in .gz), under a temporary name until all is written."""
    with writable(str(path)), replacing(path) as temporary, temporary.open("wb") as file:
        zipped = path.name.lower().endswith(".gz")
        # without name and date, so that equal content has equal hashes
        out = gzip.GzipFile("", "wb", 6, file, mtime=0) if zipped else file
        for line in lines:
            out.write(line.encode())
        if zipped:
            out.close()


def csv_lines(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Lines of a CSV table; None is an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow(row)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


_Crystals = Iterable[tuple[str, "Structure", dict[str, Any]]]


def _cif_lines(crystals: _Crystals) -> Iterator[str]:
    for name, structure, values in crystals:
        yield cif.cif_text(structure, name, {k: v for k, v in values.items() if isinstance(v, float)})


def _csv_lines(crystals: _Crystals) -> Iterator[str]:
    header: list[str] = []
    rows = []
    for name, structure, values in crystals:
        header = ["material_id", "pretty_formula", *values, "cif"]
        formula = structure.composition.reduced_formula
        rows.append([name, formula, *values.values(), cif.cif_text(structure, name)])
    yield from csv_lines(header or ["material_id", "pretty_formula", "cif"], rows)


def _json_lines(crystals: _Crystals) -> Iterator[str]:
    before = "["
    for name, structure, values in crystals:
        content = structure.as_dict() | {"properties": {"material_id": name, **values}}
        yield before + json.dumps(content, allow_nan=False)
        before = ",\n"
    yield "]\n" if before != "[" else "[]\n"


def _extxyz_lines(crystals: _Crystals) -> Iterator[str]:
    for name, structure, values in crystals:
        cell = " ".join(repr(x) for x in structure.lattice.matrix.ravel().tolist())
        identifier = re.sub(r'["\\\s]+', "_", name)  # the format cannot hold these
        info = [f'Lattice="{cell}"', "Properties=species:S:1:pos:R:3", f'material_id="{identifier}"']
        info += [f"{re.sub(r'[^A-Za-z0-9_]', '_', k)}={v!r}" for k, v in values.items() if isinstance(v, float)]
        yield f'{len(structure)}\n{" ".join(info)} pbc="T T T"\n'
        for site in structure:
            x, y, z = site.coords.tolist()
            yield f"{site.specie.symbol} {x:.10f} {y:.10f} {z:.10f}\n"


_WRITERS = {"cif": _cif_lines, "csv": _csv_lines, "json": _json_lines, "extxyz": _extxyz_lines}


def _cell(value: Any) -> Any:
    """A value as text files hold it: float, text, or None."""
    if value is None or isinstance(value, str):
        return value
    value = float(value)
    return value if math.isfinite(value) else None
