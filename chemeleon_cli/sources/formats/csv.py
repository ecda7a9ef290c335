"""CSV: a table with a header and a column of CIFs or of pymatgen Structures as JSON."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

from chemeleon_cli.core.data import cif
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.formats.base import Crystals, Format, IsId, NoLabels
from chemeleon_cli.sources.formats.tables import columns_of, crystal_column, of_cell
from chemeleon_cli.sources.records import LABEL_ID_COLUMNS, Record, name_of, number
from chemeleon_cli.sources.streams import MAX_LINE, Source, lines_of

_SEPARATORS = ",;\t"
_HEADERLESS = "id_prop"
"""The table of labels of a CGCNN data set has no header; this is how its file's name starts."""


def csv_rows(
    file: BinaryIO, name: str, is_header: Callable[[list[str]], object] = lambda row: False
) -> Iterator[list[str]]:
    """The rows of a table, its header first.

    Args:
        file: bytes.
        name: for messages.
        is_header: whether this can be the first row. Cells are separated by a comma, a semicolon or a tab: by the one
            that makes the first line a header, else by the only one in it, else by a comma.

    Raises:
        UserError: no row can be made of a line, or of what follows a quote that is not closed.
    """
    csv.field_size_limit(MAX_LINE)  # a quoted cell may span lines: without a limit, the rest of the file
    lines = lines_of(file, name)
    first = next(lines, "")
    cells = {separator: _cells(first, separator) for separator in _SEPARATORS}
    fitting = [s for s, row in cells.items() if is_header(row)] or [s for s, row in cells.items() if len(row) > 1]
    separator = fitting[0] if fitting else ","
    rows = csv.reader(itertools.chain([first] if first else [], lines), strict=True, delimiter=separator)
    line = 1
    try:
        for row in rows:
            yield row
            line = rows.line_num + 1
    except csv.Error as error:
        raise UserError(f"{name}:{line}: not a readable CSV row: {error}", "is a quote not closed there?") from error


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


def _cells(line: str, separator: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error:  # reading the rows will say it
        return []


def _split(source: Source, file: BinaryIO, id_column: str | None) -> Iterator[Record]:
    rows = csv_rows(file, source.name, crystal_column)
    header = [name.strip() for name in next(rows, [])]
    crystal, identity = columns_of(source, header, id_column)
    place = header.index(identity) if identity else None
    for n, row in enumerate(rows, 1):
        if not row:
            continue
        fits = len(row) == len(header)
        name = name_of(row[place] if place is not None and fits else None, f"{source.stem}-{n}")
        if not fits:
            yield Record(name, "broken", f"{len(row)} cells in a table of {len(header)} columns", {})
            continue
        fields = dict(zip(header, row, strict=True))
        yield of_cell(name, fields.pop(crystal), fields, identity)


def _labels(source: Source, file: BinaryIO, is_id: IsId | None) -> Iterator[dict[str, Any]]:
    """The rows of a table of labels; without a header, its columns are `id` and `target`, or `target_1` and so on."""

    def is_header(row: list[str]) -> bool:
        return len(row) > 1 and (any(cell.lower() in LABEL_ID_COLUMNS for cell in row) or bool(is_id and is_id(row[0])))

    rows = filter(None, csv_rows(file, source.name, is_header))
    header = [name.strip() for name in next(rows, [])]
    named = source.stem.rpartition("/")[2].lower().startswith(_HEADERLESS)
    if len(header) > 1 and ((is_id and is_id(header[0])) or (named and number(header[1]) is not None)):
        rows = itertools.chain([header], rows)
        targets = ["target"] if len(header) == 2 else [f"target_{n}" for n in range(1, len(header))]
        header = ["id", *targets]
    for n, row in enumerate(rows, 1):
        if len(row) != len(header):
            kind = UserError if is_header(header) else NoLabels
            raise kind(f"{source.name}: row {n} has {len(row)} cells, its header {len(header)}", "mend the table")
        yield dict(zip(header, row, strict=True))


def _lines(crystals: Crystals) -> Iterator[str]:
    header: list[str] = []
    rows = []
    for name, structure, values in crystals:
        header = ["material_id", "pretty_formula", *values, "cif"]
        formula = structure.composition.reduced_formula
        rows.append([name, formula, *values.values(), cif.cif_text(structure, name)])
    yield from csv_lines(header or ["material_id", "pretty_formula", "cif"], rows)


CSV = Format(suffixes=(".csv", ".tsv"), split=_split, write=_lines, labels=_labels)
