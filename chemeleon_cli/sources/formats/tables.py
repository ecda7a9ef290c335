"""What tables of crystals share, whether they are CSV, Parquet or JSON: their columns, and a row as a record."""

from __future__ import annotations

from typing import Any

from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.formats.base import NoCrystals, no_ids, shown
from chemeleon_cli.sources.records import CRYSTAL_COLUMNS, ID_COLUMNS, Record
from chemeleon_cli.sources.streams import Source


def crystal_column(header: list[str]) -> str | None:
    """The column with the crystals, whatever the case of its letters."""
    lower = {name.lower(): name for name in reversed(header)}
    return next((lower[c] for c in CRYSTAL_COLUMNS if c in lower), None)


def columns_of(source: Source, header: list[str], id_column: str | None) -> tuple[str, str | None]:
    """The columns with the crystal and with its id.

    Raises:
        NoCrystals: there is no column with crystals.
        UserError: a column is there twice, or `id_column` is not there.
    """
    crystal = crystal_column(header)
    if crystal is None:
        wanted = "expected one of cif, cif_string (CIF text) or structure (a pymatgen Structure as JSON)"
        raise NoCrystals(f"{source.name}: no column with crystals; found {shown(header)}", wanted)
    twice = {name for name in header if name and header.count(name) > 1}
    if twice:
        raise UserError(f"{source.name}: column {shown(sorted(twice))} is there twice", "rename one")
    if id_column is not None and id_column not in header:
        raise no_ids(source, id_column, header)
    lower = {name.lower(): name for name in reversed(header)}
    return crystal, id_column or next((lower[c] for c in ID_COLUMNS if c in lower), None)


def of_cell(name: str, content: Any, fields: dict[str, Any], identity: str | None) -> Record:
    """The record of a row.

    Args:
        name: its id.
        content: what stands in the column with crystals.
        fields: the other cells, by column.
        identity: the column with ids, which is no label.
    """
    fields = {k: v for k, v in fields.items() if k != identity}
    if isinstance(content, dict):
        properties = content.get("properties")
        extra = properties if isinstance(properties, dict) else {}
        extra = {k: v for k, v in extra.items() if k != identity}
        return Record(name, "json", content, extra | fields)
    text = content if isinstance(content, str) else ""
    return Record(name, "json" if text.lstrip().startswith("{") else "cif", text, fields)
