"""Reads crystals from files of every format row by row, and writes files completely or not at all.

A row that cannot be parsed has a reason instead of a structure; it never stops the program. A reason is
`code: detail`; the codes are in REASONS.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from chemeleon_cli.core.data.limits import MAX_Z, Unfit
from chemeleon_cli.core.paths import SPLITS
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.folders import sources_of
from chemeleon_cli.sources.formats import FORMATS, format_of
from chemeleon_cli.sources.labels import look_beside
from chemeleon_cli.sources.parallel import ordered_map
from chemeleon_cli.sources.records import Record, number, unreadable
from chemeleon_cli.sources.streams import Source, readable, write_lines

if TYPE_CHECKING:
    from pymatgen.core import Structure

FARTHEST = 10_000.0
"""Largest distance of an atom from the origin, in cells. A larger coordinate has lost its digits or is an error."""
REASONS = {
    "no_structure": "an empty cell, or no atoms",
    "unreadable": "the text does not parse",
    "no_cell": "not periodic in three directions, or a cell that is not finite",
    "disorder": "a site with several species or partial occupancy",
    "element": f"a symbol that is not an element, an isotope, or an element heavier than Z = {MAX_Z}",
    "incomplete": "atoms without a position: hydrogen given only in the formula, missing coordinates",
    "symmetry": "a space group that is unknown, ambiguous, or contradicts the operations or the cell",
    "formula": "the atoms of the cell are not those of the formula that the file gives",
    "coordinates": f"an atom more than {FARTHEST:,.0f} cells away from the origin",
}
"""The meaning of the code of each reason."""


@dataclass(frozen=True)
class Row:
    """One crystal of a file.

    Attributes:
        id: its name.
        structure: None if it cannot be read.
        reason: why it cannot be read, as `code: detail`; None if there is a structure.
        labels: the numbers in the other columns.
    """

    id: str
    structure: Structure | None
    reason: str | None
    labels: dict[str, float]


def read_crystals(path: str | Path, id_column: str | None = None) -> Iterator[Row]:
    """Every crystal in a file, folder or zip, in order.

    Streams; a long table is parsed by worker processes.

    Args:
        path: a file of one of `formats.FORMATS`, possibly compressed; or a folder or zip of such files.
        id_column: the column with the ids; None: one of the usual names.

    Raises:
        UserError: there is nothing to read, or a file cannot be read at all (incomplete, of another format).
    """
    skipped = look_beside(Path(path), search=False).skipped
    return ordered_map(parse, read_records(path, id_column, skipped))


def read_records(path: str | Path, id_column: str | None = None, skipped: Collection[str] = ()) -> Iterator[Record]:
    """Every crystal in a file, folder or zip, in order, read in pieces and not yet parsed.

    Args:
        path: as for `read_crystals`.
        id_column: as for `read_crystals`.
        skipped: names of files that are not read.

    Raises:
        UserError: as `read_crystals`.
    """
    for source in sources_of(Path(path)):
        if source.name not in skipped:
            yield from _records_of(source, id_column)


def read_splits(
    path: str | Path, id_column: str | None = None, skipped: Collection[str] = ()
) -> Iterator[tuple[str, Record]]:
    """Every crystal with its split: the name of its table (train, val, test), or else its column `split`.

    Args:
        path: as for `read_crystals`.
        id_column: as for `read_crystals`.
        skipped: names of files that are not read.

    Raises:
        UserError: as `read_crystals`, or a crystal is in no split.
    """
    for source in sources_of(Path(path)):
        if source.name in skipped:
            continue
        table = PurePosixPath(source.stem).name
        for record in _records_of(source, id_column):
            split = table if table in SPLITS else record.fields.get("split")
            if split not in SPLITS:
                raise UserError(
                    f"{source.name}: has no splits of its own: {record.id} is in none",
                    "call the tables train.csv, val.csv and test.csv, add a column `split` with train, val or test, "
                    "or use `split.by: formula`",
                )
            yield split, record


def _records_of(source: Source, id_column: str | None) -> Iterator[Record]:
    with readable(source.name), source.open() as file:
        yield from FORMATS[source.format].split(source, file, id_column)


def parse(record: Record) -> Row:
    """Parse one record; any error becomes the reason of the row."""
    labels = {k: v for k, cell in record.fields.items() if (v := number(cell)) is not None}
    structure, reason = structure_of(record)
    return Row(record.id, structure, reason, labels)


def structure_of(record: Record) -> tuple[Structure | None, str | None]:
    """The ordered structure of a record (cell, elements and coordinates only), or the reason why there is none."""
    if record.format == "broken":
        return None, f"unreadable: {record.content}"
    if not record.content or (isinstance(record.content, str) and not record.content.strip()):
        return None, "no_structure: nothing there"
    parser = FORMATS[record.format].parse
    assert parser is not None, f"no record is of the format {record.format}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            structure = parser(record.content)
        except Unfit as error:
            return None, str(error)
        except Exception as error:  # parsers raise many kinds of errors; each is the reason of its row
            return None, unreadable(error)
    farthest = abs(structure.frac_coords).max()
    if farthest > FARTHEST:
        return None, f"coordinates: an atom {farthest:.3g} cells away from the origin"
    return structure, None


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
        columns: further values; CIF and extxyz leave out text, and all formats leave out what is not finite.

    Raises:
        UserError: the suffix is unknown, or the folder cannot be written to.
    """
    path = Path(path)
    writer = writer_for(path)
    rows = ({k: _cell(v[i]) for k, v in (columns or {}).items()} for i in range(len(structures)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # formulas of noble gases: pymatgen knows no electronegativity to sort by
        write_lines(path, writer(zip(ids, structures, rows, strict=True)))


def writer_for(path: Path) -> Callable[..., Iterable[str]]:
    """The function that writes a file of this name.

    Raises:
        UserError: its format cannot be written.
    """
    name = path.name.lower()
    known = FORMATS.get(format_of(name) or "")
    if known is None or known.write is None or not name.removesuffix(".gz").endswith(known.suffixes[0]):
        raise UserError(f"{path}: cannot write this format", "use the suffix .cif, .extxyz, .csv(.gz) or .json(.gz)")
    return known.write


def _cell(value: Any) -> Any:
    """A value as it is written to text files: float, text, or None."""
    if value is None or isinstance(value, str):
        return value
    value = float(value)
    return value if math.isfinite(value) else None
