"""What a file format is to this program."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from chemeleon_cli.core.data.limits import ISOTOPES, Unfit
from chemeleon_cli.errors import UserError, did_you_mean
from chemeleon_cli.sources.records import Record
from chemeleon_cli.sources.streams import Source

if TYPE_CHECKING:
    from pymatgen.core import Structure

Crystals = Iterable[tuple[str, "Structure", dict[str, Any]]]
"""What is written: id, structure, and values beside it (float, text or None) by column."""
IsId = Callable[[Any], bool]
"""Whether a cell is the id of a crystal that the labels are for."""


@dataclass(frozen=True)
class Format:
    """One file format.

    Attributes:
        suffixes: in lower case; a suffix of a compression may follow.
        split: a file to its records, one for each crystal, as they are needed; the last argument is `id_column`.
        parse: the content of a record to a structure without oxidation states, labels and site properties (`cif.plain`
            takes them off); whatever it raises is the reason why there is none. None for tables, whose cells are of
            other formats.
        write: crystals to pieces of text, for files of the first suffix; None where the format is not written.
        labels: a file without crystals to the rows of a table of labels, by column; None where the format holds
            crystals only.
        prefixes: how a file's name may start, in lower case, where it has no suffix of any format.
    """

    suffixes: tuple[str, ...]
    split: Callable[[Source, BinaryIO, str | None], Iterator[Record]]
    parse: Callable[[Any], Structure] | None = None
    write: Callable[[Crystals], Iterable[str]] | None = None
    labels: Callable[[Source, BinaryIO, IsId | None], Iterator[dict[str, Any]]] | None = None
    prefixes: tuple[str, ...] = ()


class NoCrystals(UserError):
    """A file that can be read, but has no crystals in it."""


class NoLabels(UserError):
    """A file that can be read, but has neither crystals nor labels for them in it."""


def shown(names: list[str]) -> str:
    """The first of some names, for a message."""
    few = [repr(name if len(name) <= 40 else f"{name[:37]}...") for name in names[:12]]
    return ", ".join([*few, *(["..."] if len(names) > 12 else [])]) or "nothing"


def no_ids(source: Source, id_column: str, columns: list[str]) -> UserError:
    """The error of a file in which no crystal is named by `id_column`."""
    hint = did_you_mean(id_column, columns, "") or f"found {shown(columns)}"
    return UserError(f"{source.name}: no column '{id_column}' (id_column)", hint)


def named(source: Source, records: Iterable[Record]) -> Iterator[Record]:
    """Records with a name for each whose id is "": the file's, or `name-1`, `name-2` where it holds several."""
    records = iter(records)
    first = list(itertools.islice(records, 2))
    for n, record in enumerate(itertools.chain(first, records), 1):
        name = source.stem if len(first) == 1 else f"{source.stem}-{n}"
        yield record if record.id else dataclasses.replace(record, id=name)


def refuse_isotopes(symbols: Iterable[str]) -> None:
    """Raise `Unfit` for a symbol that pymatgen would take for hydrogen."""
    for symbol in symbols:
        if symbol in ISOTOPES:
            raise Unfit(f"element: {symbol}")
