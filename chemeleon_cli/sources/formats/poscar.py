"""POSCAR and CONTCAR of VASP, one or several behind each other in a file, and the frames of an XDATCAR.

The grammar is that of https://www.vasp.at/wiki/index.php/POSCAR, read here because the end of one crystal and the
start of the next are found by it.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from chemeleon_cli.core.data import cif
from chemeleon_cli.core.data.limits import Unfit
from chemeleon_cli.sources.formats.base import Format, named, refuse_isotopes
from chemeleon_cli.sources.records import Record
from chemeleon_cli.sources.streams import Source, lines_of

if TYPE_CHECKING:
    from pymatgen.core import Structure

_FRAME = re.compile(r"\s*direct\s+configuration", re.IGNORECASE)
_BEHIND = re.compile(r"\s*(lattice velocities|direct|cartesian|kartesian|[cdk]\s*$|$)", re.IGNORECASE)
"""Lines other than of numbers that may follow the atoms of a crystal: titles of velocities, and blank ones."""
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][-+]?\d+)?")
_COUNT = re.compile(r"[0-9]{1,9}")
_MOST_ATOMS = cif.MAX_BLOCK // len("0 0 0\n")
_MOST_LINES = 100
"""Lines of symbols; VASP writes 20 in each."""


@dataclass(frozen=True)
class _Head:
    """What stands before the places of the atoms.

    Attributes:
        scale: one or three factors of all lengths, or minus the volume in Å^3.
        vectors: of the lattice, before scaling.
        symbols: of the elements; empty where they are not named (VASP 4).
        counts: of the atoms of each.
        length: in lines.
    """

    scale: list[float]
    vectors: list[list[float]]
    symbols: list[str]
    counts: list[int]
    length: int


def _head(line: Callable[[int], str]) -> _Head:
    """The head that starts with line 0.

    Args:
        line: a line by its number; "" behind the last.

    Raises:
        ValueError: there is none, and what is wrong with it.
    """
    scale = _numbers(line(1))
    if len(scale) not in (1, 3):
        raise ValueError(f"{_shown(line(1))} in the second line, where a POSCAR has its scale")
    vectors = [_numbers(line(n)) for n in (2, 3, 4)]
    if any(len(vector) != 3 for vector in vectors):
        wrong = next(n for n, vector in zip((2, 3, 4), vectors, strict=True) if len(vector) != 3)
        raise ValueError(f"{_shown(line(wrong))} where a POSCAR has a vector of its lattice")
    named = next((n for n in range(_MOST_LINES) if not line(5 + n).lstrip()[:1].isalpha()), 0)
    words = [word for n in range(named) for word in _words(line(5 + n))]
    rows = [_words(line(5 + named + n)) for n in range(max(named, 1))]
    if not all(row and all(_COUNT.fullmatch(word) for word in row) for row in rows):
        raise ValueError(f"{_shown(line(5 + named))} where a POSCAR has its numbers of atoms")
    length = 5 + named + len(rows)
    if not line(length).lstrip()[:1].isalpha():
        raise ValueError(f"{_shown(line(length))} where a POSCAR says Direct or Cartesian")
    symbols = [re.split("[/_]", word)[0] for word in words]  # Mg_pv/f474ac0d: the potential and its hash
    return _Head(scale, vectors, symbols, [int(word) for row in rows for word in row], length)


def _words(line: str) -> list[str]:
    return re.split("[#!]", line)[0].split()


def _numbers(line: str) -> list[float]:
    """The numbers of a line, or nothing where anything else is in it."""
    words = _words(line)
    return [_float(word) for word in words] if all(_NUMBER.fullmatch(word) for word in words) else []


def _float(word: str) -> float:
    if not _NUMBER.fullmatch(word):
        raise ValueError(f"{_shown(word)} is no number")
    return float(word.lower().replace("d", "e"))


def _shown(line: str) -> str:
    return repr(line.strip()[:40]) if line else "the end of the file"


class _Lines:
    """The lines of a file, of which the next ones can be seen before they are taken."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._ahead: deque[str] = deque()

    def see(self, n: int = 0) -> str:
        """The line behind the next n, or ""."""
        self._ahead.extend(itertools.islice(self._lines, max(0, n + 1 - len(self._ahead))))
        return self._ahead[n] if n < len(self._ahead) else ""

    def take(self, n: int = 1) -> list[str]:
        """The next n lines, or all that are left."""
        self.see(n - 1)
        return [self._ahead.popleft() for _ in range(min(n, len(self._ahead)))]

    def skip_blank(self) -> bool:
        """Take blank lines, but for one that is the comment of a crystal; whether anything is left."""
        while self.see() and not self.see().strip() and not self.has_head():
            self.take()
        return bool(self.see())

    def has_head(self) -> bool:
        """Whether a crystal starts here."""
        try:
            return bool(_head(self.see))
        except ValueError:
            return False


def _split(source: Source, file: BinaryIO, id_column: str | None) -> Iterator[Record]:
    return named(source, _crystals(_Lines(lines_of(file, source.name, strict=False))))


def _crystals(lines: _Lines) -> Iterator[Record]:
    found = False
    while lines.skip_blank():
        if lines.has_head():
            yield from _with_one_head(lines)
        else:
            yield Record("", "broken", _skipped(lines, "behind the atoms before it, " if found else ""), {})
        found = True
    if not found:
        yield Record("", "poscar", "", {})


def _with_one_head(lines: _Lines) -> Iterator[Record]:
    """The crystal that starts here; several of an XDATCAR. What VASP writes behind atoms is skipped."""
    head = _head(lines.see)
    top, atoms = lines.take(head.length), sum(head.counts)
    if atoms > _MOST_ATOMS:
        yield Record("", "broken", f"{atoms:,} atoms in one crystal", {})
    elif not _FRAME.match(lines.see()):
        selective = lines.see().lstrip()[:1] in "sS"
        yield _with_atoms(lines, [*top, *lines.take(1 + selective)], atoms)
    while _FRAME.match(lines.see()):
        lines.take()
        yield _with_atoms(lines, [*top, "Direct\n"], atoms)
        lines.skip_blank()
    while lines.see() and not lines.has_head() and (_BEHIND.match(lines.see()) or _numbers(lines.see())):
        lines.take()


def _with_atoms(lines: _Lines, top: list[str], atoms: int) -> Record:
    text = "".join([*top, *lines.take(atoms)])
    if _numbers(lines.see()) and not lines.has_head():  # velocities have a blank line or a title before them
        return Record("", "broken", f"more lines of coordinates than its {atoms} atoms", {})
    return Record("", "poscar", text, {})


def _skipped(lines: _Lines, where: str) -> str:
    """Skip what is no crystal; returns what was wrong with it."""
    try:
        _head(lines.see)
        return ""
    except ValueError as error:
        lines.take()
        while lines.see() and not lines.has_head():
            lines.take()
        return f"{where}{error}"


def _parse(content: str) -> Structure:
    import numpy as np
    from pymatgen.core import Element, Structure

    lines = re.split("\r\n|\r|\n", content)
    head = _head(lambda n: lines[n] if n < len(lines) else "")
    if head.symbols and len(head.symbols) != len(head.counts):
        raise ValueError(f"{len(head.symbols)} symbols, but {len(head.counts)} numbers of atoms")
    selective = lines[head.length].lstrip()[:1] in "sS"
    cartesian = lines[head.length + selective].lstrip()[:1] in "cCkK"
    first = head.length + selective + 1
    rows = [_words(line) for line in lines[first : first + sum(head.counts)]]
    symbols = [symbol for symbol, n in zip(head.symbols, head.counts, strict=False) for _ in range(n)]
    if not head.symbols:  # VASP 4; some programs write the symbol behind each place
        symbols = [row[3 + 3 * selective] if len(row) > 3 + 3 * selective else "" for row in rows]
        if not all(map(Element.is_valid_symbol, symbols)):
            raise Unfit("element: this POSCAR does not name its elements")
    refuse_isotopes(symbols)
    if len(rows) != len(symbols) or not all(len(row) >= 3 for row in rows):
        raise ValueError(f"not a place for each of its {len(symbols)} atoms")
    vectors, scale = np.array(head.vectors), np.array(head.scale)
    if scale[0] < 0 and len(scale) == 1:
        scale = np.cbrt(-scale / abs(np.linalg.det(vectors)))
    places = np.array([[_float(word) for word in row[:3]] for row in rows]).reshape(-1, 3)
    places = places * scale if cartesian else places
    return cif.plain(Structure(vectors * scale, symbols, places, coords_are_cartesian=cartesian))


POSCAR = Format(suffixes=(".vasp", ".poscar"), split=_split, parse=_parse, prefixes=("poscar", "contcar", "xdatcar"))
