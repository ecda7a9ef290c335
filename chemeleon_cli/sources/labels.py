"""Labels from a second table, joined to crystals by id."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from chemeleon_cli.core.paths import file_sha256
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.records import Record, is_empty, read_rows
from chemeleon_cli.sources.streams import path_of


class LabelTable:
    """The rows of a table by id, and which of them found a crystal.

    Attributes:
        rows: columns by id.
        found: ids of rows that belong to a crystal.
        without: crystals that have no row.
    """

    def __init__(self, path: str | Path, id_column: str | None = None) -> None:
        """Read a table.

        Args:
            path: CSV or Parquet with a header, maybe .gz; a row per crystal.
            id_column: the column with the ids; found by its usual names where it is not given or not there.

        Raises:
            UserError: no such table, no ids in it, or an id with two different rows.
        """
        self.path = path_of(path)
        self.rows: dict[str, dict[str, Any]] = {}
        self.found: set[str] = set()
        self.without = 0
        for name, row in read_rows(self.path, id_column):
            if self.rows.setdefault(name, row) != row:
                raise UserError(f"{self.path}: id '{name}' has two rows that differ", "keep one of them")

    def join(self, items: Iterable[tuple[str, Record]]) -> Iterator[tuple[str, Record]]:
        """Every (split, record) with the columns of its row added.

        Raises:
            UserError: a column is in both tables, or no crystal at all has a row.
        """
        first = ""
        for split, record in items:
            first = first or record.id
            row = self.rows.get(record.id)
            if row is None:
                self.without += 1
                yield split, record
                continue
            self.found.add(record.id)
            for column in row:
                if not is_empty(record.fields.get(column)):
                    raise UserError(f"{self.path}: column '{column}' is in the source too", "rename one of them")
            yield split, dataclasses.replace(record, fields={**record.fields, **row})
        if first and not self.found:
            there = next(iter(self.rows), "nothing")
            raise UserError(
                f"{self.path}: none of its {len(self.rows):,} ids is one of the {self.without:,} crystals",
                f"ids there are like '{there}', those of the crystals like '{first}'; is it the right id_column?",
            )

    def summary(self) -> dict[str, Any]:
        """What the manifest says: name, sha256, rows, crystals without one, rows without a crystal."""
        return {
            "name": self.path.name,
            "sha256": file_sha256(self.path),
            "rows": len(self.rows),
            "crystals_without_row": self.without,
            "rows_without_crystal": len(self.rows) - len(self.found),
        }
