"""Extended XYZ: one crystal after the other, each a count, a line with its cell and labels, and a line per atom."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from chemeleon_cli.core.data import cif
from chemeleon_cli.core.data.limits import Unfit
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.formats.base import Crystals, Format, named, no_ids
from chemeleon_cli.sources.records import ID_COLUMNS, Record, name_of, number
from chemeleon_cli.sources.streams import Source, lines_of

if TYPE_CHECKING:
    from pymatgen.core import Structure

_TAKEN = ("lattice", "properties", "pbc", "cell")


def _split(source: Source, file: BinaryIO, id_column: str | None) -> Iterator[Record]:
    return named(source, _frames(source, file, id_column))


def _frames(source: Source, file: BinaryIO, id_column: str | None) -> Iterator[Record]:
    lines = lines_of(file, source.name)
    columns = ID_COLUMNS if id_column is None else (id_column,)
    pattern = re.compile(rf"(?<!\S)(?:{'|'.join(map(re.escape, columns))})=(?:\"([^\"]*)\"|(\S+))")
    n, has_ids, comment = 0, False, ""
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
        has_ids = has_ids or found is not None
        name = name_of(found and (found.group(1) or found.group(2)), "")
        if size > cif.MAX_BLOCK:
            large = f"{source.name}: {name or f'crystal {n}'} has more than {cif.MAX_BLOCK:,} characters"
            raise UserError(large, "is its count right?")
        if not frame[-1]:
            yield Record(name, "broken", f"ends before its {count} atoms", {})
        else:
            yield Record(name, "extxyz", "".join(frame), _labels(comment, (*columns, *ID_COLUMNS)))
    if n and id_column is not None and not has_ids:
        raise no_ids(source, id_column, list(_info(comment)))


def _labels(comment: str, ids: tuple[str, ...]) -> dict[str, Any]:
    taken = (*_TAKEN, *(column.lower() for column in ids))
    return {k: v for k, v in _info(comment).items() if k.lower() not in taken and number(v) is not None}


def _info(comment: str) -> dict[str, Any]:
    from ase.io.extxyz import key_val_str_to_dict

    try:
        return key_val_str_to_dict(comment)
    except Exception:  # it raises whatever it stumbles over; the parser of the frame will say what is wrong
        return {}


def _parse(content: str) -> Structure:
    from ase.io.extxyz import read_extxyz
    from pymatgen.core import Structure

    _check_columns(content)
    atoms = next(read_extxyz(io.StringIO(content)))
    if not atoms.pbc.all() or atoms.cell.rank < 3:
        raise Unfit("no_cell: not periodic in three directions")
    if atoms.numbers.min(initial=1) < 1:
        raise Unfit("element: X")
    numbers = atoms.numbers.tolist()
    return cif.plain(Structure(atoms.cell.array, numbers, atoms.positions, coords_are_cartesian=True))


def _check_columns(content: str) -> None:
    """Raise where `Properties` names more columns than the atoms have; the reader would make room for all of them."""
    _, comment, atom, *_ = [*content.split("\n", 3), ""]
    properties = str(_info(comment).get("Properties", ""))
    columns = sum(int(count) for count in properties.split(":")[2::3])
    if atom and columns > len(atom.split()):
        raise ValueError(f"Properties names {columns:,} columns, the first atom has {len(atom.split())}")


def _lines(crystals: Crystals) -> Iterator[str]:
    for name, structure, values in crystals:
        cell = " ".join(repr(x) for x in structure.lattice.matrix.ravel().tolist())
        identifier = re.sub(r'["\\\s]+', "_", name)  # the format cannot hold these
        info = [f'Lattice="{cell}"', "Properties=species:S:1:pos:R:3", f'material_id="{identifier}"']
        info += [f"{re.sub(r'[^A-Za-z0-9_]', '_', k)}={v!r}" for k, v in values.items() if isinstance(v, float)]
        yield f'{len(structure)}\n{" ".join(info)} pbc="T T T"\n'
        for site in structure:
            x, y, z = site.coords.tolist()
            yield f"{site.specie.symbol} {x:.10f} {y:.10f} {z:.10f}\n"


EXTXYZ = Format(suffixes=(".extxyz", ".xyz"), split=_split, parse=_parse, write=_lines)
