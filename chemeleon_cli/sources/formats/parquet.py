"""Parquet: a table with a column of CIFs or of pymatgen Structures as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.formats.base import Format, IsId
from chemeleon_cli.sources.formats.tables import columns_of, of_cell
from chemeleon_cli.sources.records import Record, name_of, one_line
from chemeleon_cli.sources.streams import Source


def _labels(source: Source, file: BinaryIO, is_id: IsId | None = None) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=500):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{source.name}: not a sound Parquet file: {one_line(error)}", "is it whole?") from error


def _split(source: Source, file: BinaryIO, id_column: str | None) -> Iterator[Record]:
    for n, fields in enumerate(_labels(source, file), 1):
        crystal, identity = columns_of(source, list(fields), id_column)
        name = name_of(fields.get(identity) if identity else None, f"{source.stem}-{n}")
        yield of_cell(name, fields.pop(crystal), fields, identity)


PARQUET = Format(suffixes=(".parquet", ".pq"), split=_split, labels=_labels)
