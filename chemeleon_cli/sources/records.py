"""What a file holds, crystal by crystal, before anything is parsed: id, text and the columns beside it."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from chemeleon_cli.core.data import cif
from chemeleon_cli.core.paths import SPLITS
from chemeleon_cli.errors import UserError, did_you_mean
from chemeleon_cli.sources.streams import Source, csv_rows, kind_of, lines_of, read_whole, readable, sources_of

CRYSTAL_COLUMNS = ("cif", "cif_string", "structure")
ID_COLUMNS = ("material_id", "id", "mp_id", "mpid", "jid", "structure_id", "immutable_id", "entry_id")
EMPTY = frozenset(("", "?", "nan", "na", "n/a", "none", "null", "inf", "-inf"))
LARGEST = 1e30
"""A label beyond is none: models keep labels as float32 (3e38), and sums of them have to fit, too."""


@dataclass(frozen=True)
class Record:
    """One crystal as its file gives it.

    Attributes:
        id: its name there, else made from the file's name and its place in it.
        kind: "cif", "poscar", "extxyz" or "structure" (pymatgen's dict, or its JSON), or "broken".
        content: the text or dict; of a broken one, what is wrong with it.
        fields: everything else in the row, by column.
    """

    id: str
    kind: str
    content: Any
    fields: dict[str, Any]


def number(value: Any) -> float | None:
    """A cell as a number of at most LARGEST (true and false are 1 and 0), or None."""
    if isinstance(value, str):
        text = value.strip().lower()
        if text in ("true", "false"):
            return float(text == "true")
        if text in EMPTY or "_" in text:
            return None
    if getattr(value, "shape", ()):
        return None
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return result if abs(result) <= LARGEST else None


def is_row_count(column: str) -> bool:
    """Whether a column is the count of rows that pandas writes beside a table."""
    return not column or column.startswith("Unnamed")


def is_empty(value: Any) -> bool:
    """Whether a cell holds no label at all."""
    if isinstance(value, str):
        return value.strip().lower() in EMPTY
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def read_records(path: str | Path, id_column: str | None = None) -> Iterator[Record]:
    """Every crystal in a file, folder or zip, in order, a piece at a time.

    Args:
        path: CIF, CSV, Parquet, JSON, extxyz or POSCAR, maybe .gz; a folder or a zip of these.
        id_column: the column with the ids; found by its usual names where it is not given.

    Raises:
        UserError: there is nothing to read, or a file is broken as a whole.
    """
    for source in sources_of(Path(path)):
        yield from _records_of(source, id_column)


def read_splits(path: str | Path, id_column: str | None = None) -> Iterator[tuple[str, Record]]:
    """Every crystal with the split it is in: the name of its table (train, val, test), else its column `split`.

    Args:
        path: as for `read_records`.
        id_column: as for `read_records`.

    Raises:
        UserError: as of `read_records`, or a crystal that is in no split.
    """
    for source in sources_of(Path(path)):
        table = PurePosixPath(source.stem).name
        for record in _records_of(source, id_column):
            split = table if table in SPLITS else record.fields.get("split")
            if split not in SPLITS:
                raise UserError(
                    f"{source.name}: has no splits of its own: {record.id} is in none",
                    "name tables train.csv, val.csv, test.csv, or add a column `split` with these words; "
                    "or take `split.by: formula`",
                )
            yield split, record


def read_rows(path: Path, id_column: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table without crystals, each with its id.

    Args:
        path: CSV or Parquet with a header, maybe .gz.
        id_column: the column with the ids; found by its usual names where it is not given or not there.

    Raises:
        UserError: no such table, no column with ids, or a row that does not fit the header.
    """
    if path.is_dir() or kind_of(path.name) not in ("csv", "parquet"):
        raise UserError(f"{path}: is no table", "expected CSV or Parquet, a row for each crystal")
    (source,) = sources_of(path)
    with readable(source.name), source.open() as file:
        for n, row in enumerate(_TABLES[source.kind](source, file), 1):
            identity = id_column if id_column in row else next((c for c in row if c.lower() in ID_COLUMNS), None)
            if identity is None:
                raise UserError(
                    f"{source.name}: no column with ids; found {', '.join(repr(c) for c in list(row)[:12])}",
                    f"call it {ID_COLUMNS[0]}, or name it as id_column",
                )
            kept = {k: v for k, v in row.items() if k != identity and not is_row_count(k)}
            yield _name(row[identity], source, n), kept


def _csv_rows(source: Source, file: BinaryIO) -> Iterator[dict[str, Any]]:
    rows = csv_rows(file, source.name)
    header = [name.strip() for name in next(rows, [])]
    for n, row in enumerate(filter(None, rows), 1):
        if len(row) != len(header):
            raise UserError(f"{source.name}: row {n} has {len(row)} cells, its header {len(header)}", "mend the table")
        yield dict(zip(header, row, strict=True))


def _parquet_rows(source: Source, file: BinaryIO) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=500):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{source.name}: not a sound Parquet file: {_line(error)}", "is it whole?") from error


_TABLES = {"csv": _csv_rows, "parquet": _parquet_rows}


def _records_of(source: Source, id_column: str | None) -> Iterator[Record]:
    with readable(source.name), source.open() as file:
        yield from _READERS[source.kind](source, file, id_column)


def _cif(source: Source, file: BinaryIO, id_column: str | None) -> Iterator[Record]:
    blocks = cif.split_blocks(lines_of(file, source.name, strict=False))
    first, second = next(blocks), next(blocks, None)
    identifier, labels = cif.block_tags(first)
    if second is None and cif.ID_TAG not in first:
        identifier = source.stem  # one crystal a file: people name the file, programs the block
    yield Record(identifier or f"{source.stem}-1", "cif", first, dict(labels))
    for n, block in enumerate(itertools.chain([second] if second else [], blocks), 2):
        identifier, labels = cif.block_tags(block)
        yield Record(identifier or f"{source.stem}-{n}", "cif", block, dict(labels))


def _csv(source: Source, file: BinaryIO, id_column: str | None) -> Iterator[Record]:
    rows = csv_rows(file, source.name)
    header = [name.strip() for name in next(rows, [])]
    crystal, identity = _columns(source, header, id_column)
    for n, row in enumerate(rows, 1):
        if not row:
            continue
        name = _name(row[header.index(identity)] if identity and len(row) == len(header) else None, source, n)
        if len(row) != len(header):
            yield Record(name, "broken", f"{len(row)} cells in a table of {len(header)} columns", {})
            continue
        fields = dict(zip(header, row, strict=True))
        yield _of_cell(name, fields.pop(crystal), fields, identity)


def _parquet(source: Source, file: BinaryIO, id_column: str | None) -> Iterator[Record]:
    for n, fields in enumerate(_parquet_rows(source, file), 1):
        crystal, identity = _columns(source, list(fields), id_column)
        name = _name(fields.get(identity) if identity else None, source, n)
        yield _of_cell(name, fields.pop(crystal), fields, identity)


def _json(source: Source, file: BinaryIO, id_column: str | None) -> Iterator[Record]:
    try:
        content = json.loads(read_whole(file, source.name))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source.name}: not JSON: {_line(error)}", "is it whole?") from error
    if isinstance(content, dict) and not _is_crystal(content):
        content = [{"material_id": key, **_entry(value, id_column)} for key, value in content.items()]
    elif isinstance(content, dict):
        content = [content]
    if not isinstance(content, list) or not any(_is_crystal(entry) for entry in content):
        raise UserError(f"{source.name}: no crystals in this JSON", "expected a list of pymatgen Structures")
    named, columns = False, []
    for n, entry in enumerate(content, 1):
        fields = dict(_entry(entry, id_column))
        crystal = next((c for c in CRYSTAL_COLUMNS if c in fields), None)
        identity = id_column or next((c for c in ID_COLUMNS if c in fields), None)
        named = named or identity in fields
        name = _name(fields.get(identity) if identity else None, source, n)
        record = _of_cell(name, fields.pop(crystal) if crystal else None, fields, identity)
        columns = list(record.fields)
        yield record
    if id_column is not None and not named:
        raise _no_ids(source, id_column, columns)


def _extxyz(source: Source, file: BinaryIO, id_column: str | None) -> Iterator[Record]:
    lines = lines_of(file, source.name)
    columns = ID_COLUMNS if id_column is None else (id_column,)
    pattern = re.compile(rf"(?<!\S)(?:{'|'.join(map(re.escape, columns))})=(?:\"([^\"]*)\"|(\S+))")
    n, named, comment = 0, False, ""
    for line in lines:
        if not line.strip():
            continue
        n += 1
        if not re.fullmatch(r"[0-9]{1,9}", line.strip()):
            raise UserError(
                f"{source.name}: crystal {n} starts with {line.strip()[:40]!r}, not with its number of atoms",
                "each crystal is a count, a line with Lattice=, and a line per atom",
            )
        count = int(line)
        comment = next(lines, "")
        frame = [line, comment]
        size = len(comment)
        for _ in range(count):
            frame.append(next(lines, ""))
            size += len(frame[-1])
            if not frame[-1] or size > cif.MAX_BLOCK:
                break
        found = pattern.search(comment)
        named = named or found is not None
        name = _name(found and (found.group(1) or found.group(2)), source, n)
        if size > cif.MAX_BLOCK:
            raise UserError(f"{source.name}: {name} has more than {cif.MAX_BLOCK:,} characters", "is its count right?")
        if not frame[-1]:
            yield Record(name, "broken", f"ends before its {count} atoms", {})
        else:
            yield Record(name, "extxyz", "".join(frame), _xyz_fields(comment, (*columns, *ID_COLUMNS)))
    if n and id_column is not None and not named:
        raise _no_ids(source, id_column, list(_xyz_info(comment)))


def _xyz_fields(comment: str, ids: tuple[str, ...]) -> dict[str, Any]:
    taken = ("lattice", "properties", "pbc", "cell", *(column.lower() for column in ids))
    return {k: v for k, v in _xyz_info(comment).items() if k.lower() not in taken and number(v) is not None}


def _xyz_info(comment: str) -> dict[str, Any]:
    from ase.io.extxyz import key_val_str_to_dict

    try:
        return key_val_str_to_dict(comment)
    except Exception:  # it raises whatever it stumbles over; the parser of the frame will say what is wrong
        return {}


def _poscar(source: Source, file: BinaryIO, id_column: str | None) -> Iterator[Record]:
    content = read_whole(file, source.name, cif.MAX_BLOCK).decode("utf-8", errors="replace")
    yield Record(source.stem, "poscar", content, {})


_READERS = {
    "cif": _cif, "csv": _csv, "parquet": _parquet, "json": _json, "extxyz": _extxyz, "poscar": _poscar
}  # fmt: skip


def _columns(source: Source, header: list[str], id_column: str | None) -> tuple[str, str | None]:
    """The columns with the crystal and with its id."""
    shown = ", ".join(repr(name) for name in header[:12]) + (", ..." if len(header) > 12 else "")
    lower = {name.lower(): name for name in reversed(header)}
    crystal = next((lower[c] for c in CRYSTAL_COLUMNS if c in lower), None)
    if crystal is None:
        wanted = "expected one of cif, cif_string (CIF text) or structure (a pymatgen Structure as JSON)"
        raise UserError(f"{source.name}: no column with crystals; found {shown or 'nothing'}", wanted)
    twice = {name for name in header if name and header.count(name) > 1}
    if twice:
        raise UserError(f"{source.name}: column {', '.join(sorted(twice))} is there twice", "rename one")
    if id_column is not None and id_column not in header:
        raise _no_ids(source, id_column, header)
    return crystal, id_column or next((lower[c] for c in ID_COLUMNS if c in lower), None)


def _no_ids(source: Source, id_column: str, columns: list[str]) -> UserError:
    hint = did_you_mean(id_column, columns, "") or f"found {', '.join(map(repr, columns[:12])) or 'none'}"
    return UserError(f"{source.name}: no column '{id_column}' (id_column)", hint)


def _of_cell(name: str, content: Any, fields: dict[str, Any], identity: str | None) -> Record:
    fields = {k: v for k, v in fields.items() if k != identity}
    if isinstance(content, dict):
        properties = content.get("properties")
        extra = properties if isinstance(properties, dict) else {}
        extra = {k: v for k, v in extra.items() if k != identity}
        return Record(name, "structure", content, extra | fields)
    text = content if isinstance(content, str) else ""
    return Record(name, "structure" if text.lstrip().startswith("{") else "cif", text, fields)


def _is_crystal(entry: Any) -> bool:
    return isinstance(entry, dict) and ("lattice" in entry or any(c in entry for c in CRYSTAL_COLUMNS))


def _entry(value: Any, id_column: str | None) -> dict[str, Any]:
    """A row from what stands in a JSON list: a Structure's dict, or a dict with one in it."""
    if not isinstance(value, dict):
        return {"cif": value}
    if "lattice" not in value:
        return value
    properties = value.get("properties")
    ids = (*ID_COLUMNS, id_column or "")
    names = {k: v for k, v in properties.items() if k in ids} if isinstance(properties, dict) else {}
    kept = {k: v for k, v in value.items() if k in ids}
    return {"structure": value, **names, **kept}


def _name(value: Any, source: Source, n: int) -> str:
    """An id; a number that a table kept as 12.0 is 12."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"{source.stem}-{n}" if is_empty(value) else str(value).strip()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
