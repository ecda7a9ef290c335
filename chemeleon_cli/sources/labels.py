"""Labels in a separate table, which is in the folder of the crystals or given by name, and is joined to them by id."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.folders import is_collection, is_zip, path_of, sources_of
from chemeleon_cli.sources.formats import FORMATS, stem_of
from chemeleon_cli.sources.formats.base import IsId, NoCrystals, NoLabels, shown
from chemeleon_cli.sources.records import LABEL_ID_COLUMNS, Record, is_empty, is_row_count, name_of, number
from chemeleon_cli.sources.streams import Source, readable

_NEITHER = ("atom_init.json",)
"""Files of a CGCNN data set that contain neither crystals nor labels."""


class LabelTable:
    """The rows of a table by id, and which of them belong to a crystal.

    Attributes:
        name: the name of its file.
        rows: the columns of each row, by id.
        found: the ids of rows that belong to a crystal.
        without: the number of crystals without a row.
    """

    def __init__(self, source: Source, id_column: str | None = None, is_id: IsId | None = None) -> None:
        """Read a table.

        Args:
            source: a file of a format that can contain labels, with one row per crystal.
            id_column: the column with the ids; if it is None or missing, a column with ids of crystals or with one of
                the usual names.
            is_id: whether a cell is the id of a crystal, if that is known before the crystals are read.

        Raises:
            NoLabels: there is no column with ids.
            UserError: a row does not fit the header, two different rows have the same id, or several columns have ids.
        """
        self.name = source.name
        self.rows: dict[str, dict[str, Any]] = {}
        self.found: set[str] = set()
        self.without = 0
        self._by_form: tuple[dict[str, list[str]], ...] = ({}, {}, {}, {})
        self._taken: dict[str, tuple[str, int]] = {}
        labels = FORMATS[source.format].labels
        if labels is None:
            raise UserError(f"{source.name}: is not a table", "expected CSV, Parquet or JSON, a row for each crystal")
        with readable(source.name), source.open() as file:
            rows = list(labels(source, file, is_id))
        identity = _identity(source, rows, id_column, is_id) if rows else ""
        for n, row in enumerate(rows, 1):
            name = name_of(row.get(identity), f"{source.stem}-{n}")
            kept = {k: v for k, v in row.items() if k != identity and not is_row_count(k)}
            if self.rows.setdefault(name, kept) != kept:
                raise UserError(f"{self.name}: id '{name}' has two different rows", "keep one of them")
        for name in self.rows:
            for form, names in zip(_forms(name), self._by_form, strict=True):
                names.setdefault(form, []).append(name)

    def join(self, items: Iterable[tuple[str, Record]]) -> Iterator[tuple[str, Record]]:
        """Every (split, record) with the columns of its row added.

        An id matches the name of a crystal's file if they are equal as written, without suffix (`a.cif`), without
        folders (`set/a`), or as whole numbers (`004`, `4.0`); the first match in this order counts.

        Raises:
            UserError: a column is in both tables, the match of ids and crystals is ambiguous, or no crystal has a row.
        """
        first = ""
        for split, record in items:
            first = first or record.id
            name = self._row_of(record.id)
            if name is None:
                self.without += 1
                yield split, record
                continue
            self.found.add(name)
            row = self.rows[name]
            for column in row:
                if not is_empty(record.fields.get(column)):
                    raise UserError(f"{self.name}: column '{column}' is also in the source", "rename one of them")
            yield split, dataclasses.replace(record, fields={**record.fields, **row})
        if first and not self.found:
            there = next(iter(self.rows), "nothing")
            raise UserError(
                f"{self.name}: none of its {len(self.rows):,} ids is that of one of the {self.without:,} crystals",
                f"its ids look like '{there}', those of the crystals like '{first}'; is it the right id_column?",
            )

    def _row_of(self, crystal: str) -> str | None:
        """The id of the row of a crystal, or None."""
        for step, (form, names) in enumerate(zip(_forms(crystal), self._by_form, strict=True)):
            found = names.get(form, []) if form else []
            if any(self.rows[name] != self.rows[found[0]] for name in found[1:]):
                rows = " and ".join(f"'{name}'" for name in found[:2])
                raise UserError(f"{self.name}: rows {rows} could both belong to '{crystal}'", "keep one of them")
            if found:
                other, before = self._taken.setdefault(found[0], (crystal, step))
                if other != crystal and (before or step):
                    raise UserError(
                        f"{self.name}: row '{found[0]}' could belong to '{other}' or '{crystal}'",
                        "write the ids exactly as the names of the files, with folders and zeros",
                    )
                return found[0]
        return None

    def summary(self) -> dict[str, Any]:
        """The entry in the manifest: name, rows, crystals without a row, rows without a crystal."""
        return {
            "name": PurePosixPath(self.name.replace("\\", "/")).name,
            "rows": len(self.rows),
            "crystals_without_row": self.without,
            "rows_without_crystal": len(self.rows) - len(self.found),
        }


def _forms(name: str) -> tuple[str, str, str, str]:
    """The forms in which an id can be written elsewhere, the most exact first: unchanged, without suffix, without
    folders, and as a whole number ("" if it is not one)."""
    exact = unicodedata.normalize("NFC", name).strip()
    bare = stem_of(exact.replace("\\", "/"))
    base = bare.rpartition("/")[2]
    whole = re.fullmatch(r"0*([0-9]+)(?:\.0+)?", base)
    return exact, bare, base, whole[1] if whole else ""


def _identity(source: Source, rows: list[dict[str, Any]], id_column: str | None, is_id: IsId | None) -> str:
    """The column of a table with the ids of the crystals."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if id_column in columns:
        return str(id_column)
    usual = [c for name in LABEL_ID_COLUMNS for c in columns if c.lower() == name]
    with_ids = next((c for c in usual if is_id and any(is_id(row.get(c)) for row in rows)), None)
    if with_ids is not None:
        return with_ids
    # in columns with other names, numbers do not count as ids: a gap of 1 is not the crystal in 1.cif
    texts = [c for c in columns if is_id and any(number(row.get(c)) is None and is_id(row.get(c)) for row in rows)]
    if len(texts) > 1:
        raise UserError(
            f"{source.name}: columns {shown(texts)} all contain ids of crystals",
            f"choose one: --set id_column='{texts[0]}'",
        )
    found = [*texts, *usual]
    if not found:
        what = f"{source.name}: no column with ids; found {shown(columns)}"
        raise NoLabels(what, f"call it {LABEL_ID_COLUMNS[0]}, or set id_column to its name")
    return found[0]


@dataclass(frozen=True)
class Beside:
    """What a folder or archive contains in addition to crystals.

    Attributes:
        table: the labels of its crystals.
        skipped: the names of files without crystals.
        unread: those of them that are not labels either, each with the reason.
        is_id: whether a cell is the name of a crystal's file; None if crystals are in tables.
    """

    table: LabelTable | None = None
    skipped: frozenset[str] = frozenset()
    unread: dict[str, str] = field(default_factory=dict)
    is_id: IsId | None = None


def without_units(items: Iterable[tuple[str, Record]], units: Mapping[str, str]) -> Iterator[tuple[str, Record]]:
    """Every (split, record) with the units removed that are written after numbers.

    Args:
        items: the (split, record) of every crystal.
        units: the unit of each column.
    """
    for split, record in items:
        fields = dict(record.fields)
        for column, cell in record.fields.items():
            unit = units.get(column.strip())
            if unit and isinstance(cell, str) and number(text := cell.strip().removesuffix(unit)) is not None:
                fields[column] = text
        yield split, dataclasses.replace(record, fields=fields)


def labels_in(file: str, id_column: str | None, is_id: IsId | None) -> LabelTable:
    """The table of labels in a file that the user named.

    Args:
        file: the path of the table.
        id_column: as for `LabelTable`.
        is_id: as for `LabelTable`.

    Raises:
        UserError: as `LabelTable`, or it is a folder.
    """
    path = path_of(file)
    if path.is_dir() or is_zip(path):
        raise UserError(f"{path}: is not a table", "expected CSV, Parquet or JSON, a row for each crystal")
    (table,) = sources_of(path)
    return LabelTable(table, id_column, is_id)


def look_beside(path: Path, id_column: str | None = None, search: bool = True) -> Beside:
    """The files in a folder or archive without crystals, and the labels among them.

    Args:
        path: the path of the crystals; a file, or a folder with train.csv and so on, contains nothing else.
        id_column: as for `LabelTable`.
        search: whether to look for labels.

    Raises:
        UserError: several tables could be the labels, or a file is broken.
    """
    if not is_collection(path):
        return Beside()
    is_id = _ids_in(path)
    tables, skipped, unread, crystals = [], set(), {}, 0
    for source in sources_of(path):
        if _holds_crystals(source, is_id):
            crystals += 1
            continue
        skipped.add(source.name)
        if not search or PurePosixPath(source.name).name in _NEITHER:
            continue
        try:
            tables.append(LabelTable(source, id_column, is_id))
        except NoLabels as error:
            unread[source.name] = error.message.removeprefix(f"{source.name}: ")
    if not crystals:
        return Beside()  # the error comes when the crystals are read
    if is_id and len(matching := [table for table in tables if any(map(is_id, table.rows))]) == 1:
        others = [table for table in tables if table is not matching[0]]
        unread |= {table.name: "none of its ids is that of a crystal" for table in others}
        tables = matching
    if len(tables) > 1:
        names = " and ".join(table.summary()["name"] for table in tables[:2])
        raise UserError(
            f"{path}: {names} could both be the labels of its crystals",
            "choose one of them, or merge them into one: --set labels_file=FILE",
        )
    return Beside(tables[0] if tables else None, frozenset(skipped), unread, is_id)


def _ids_in(path: Path) -> IsId | None:
    """Tests whether a cell is the name of a crystal's file in a folder or archive; None if crystals are in tables."""
    if not is_collection(path):
        return None
    stems = [source.stem for source in sources_of(path) if FORMATS[source.format].labels is None]
    names = {form for stem in stems for form in _forms(stem)[:3]}
    return (lambda cell: not names.isdisjoint(_forms(name_of(cell, ""))[:3])) if names else None


def _holds_crystals(source: Source, is_id: IsId | None) -> bool:
    """Whether a file contains crystals; a table whose column `cif` contains names of files does not."""
    known = FORMATS[source.format]
    if known.labels is None:
        return True
    with readable(source.name), source.open() as file:
        try:
            first = next(known.split(source, file, None), None)
        except NoCrystals:
            return False
    return first is None or not (is_id and isinstance(first.content, str) and is_id(first.content))
