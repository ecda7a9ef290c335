"""CIF: any number of data blocks, a crystal each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import BinaryIO

from chemeleon_cli.core.data import cif
from chemeleon_cli.sources.formats.base import Crystals, Format
from chemeleon_cli.sources.records import Record
from chemeleon_cli.sources.streams import Source, lines_of


def _split(source: Source, file: BinaryIO, id_column: str | None) -> Iterator[Record]:
    blocks = cif.split_blocks(lines_of(file, source.name, strict=False))
    first, second = next(blocks), next(blocks, None)
    identifier, labels = cif.block_tags(first)
    if second is None and cif.ID_TAG not in first:
        identifier = source.stem  # one crystal a file: people name the file, programs the block
    yield Record(identifier or f"{source.stem}-1", "cif", first, dict(labels))
    for n, block in enumerate(itertools.chain([second] if second else [], blocks), 2):
        identifier, labels = cif.block_tags(block)
        yield Record(identifier or f"{source.stem}-{n}", "cif", block, dict(labels))


def _lines(crystals: Crystals) -> Iterator[str]:
    for name, structure, values in crystals:
        yield cif.cif_text(structure, name, {k: v for k, v in values.items() if isinstance(v, float)})


CIF = Format(suffixes=(".cif", ".mcif"), split=_split, parse=cif.parse_cif, write=_lines)
