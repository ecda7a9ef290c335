"""Bytes from a file, a folder or a zip archive, never more of them at once than is sane."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import itertools
import lzma
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from chemeleon_cli.core.paths import SPLITS, split_path
from chemeleon_cli.errors import UserError

MAX_LINE = 8_000_000
"""Characters of one line of text and of one cell of a table; a structure as JSON in a cell stays well below."""
MAX_WHOLE = 1_000_000_000
"""Bytes of a file that has to be read whole (JSON)."""
PIECE = 1 << 20
BOMB_RATIO, BOMB_SIZE = 200, 20_000_000
"""Compressed bytes are refused if they shrank so often and were so many; crystals shrink 4 to 30 times."""

_KINDS = {
    ".cif": "cif", ".mcif": "cif", ".csv": "csv", ".parquet": "parquet", ".pq": "parquet", ".json": "json",
    ".extxyz": "extxyz", ".xyz": "extxyz", ".vasp": "poscar", ".poscar": "poscar", ".zip": "zip",
}  # fmt: skip
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
WHOLE = "is it whole? download or copy it again"
FORMATS = "CIF, CSV, Parquet, JSON, extxyz, POSCAR (.vasp), a folder or a zip of these; .gz too"


@dataclass(frozen=True)
class Source:
    """One file to read, on disk or in an archive.

    Attributes:
        name: what to call it in messages.
        stem: its name without suffixes, and with its folders inside the folder or archive that was named.
        kind: its format.
        open: its bytes, already decompressed.
    """

    name: str
    stem: str
    kind: str
    open: Callable[[], BinaryIO]


def path_of(text: str | Path) -> Path:
    """A path as a person types it, `~` and all.

    Raises:
        UserError: no disk has such a path: a home of nobody, or a name that is too long.
    """
    try:
        path = Path(text).expanduser()
        path.exists()
    except (RuntimeError, OSError) as error:
        why = getattr(error, "strerror", "") or error
        raise UserError(f"{text}: no such path: {why}", "is it spelt right?") from error
    return path


def kind_of(name: str) -> str | None:
    """The format that a file name promises, or None."""
    base = PurePosixPath(name).name.lower().removesuffix(".gz")
    if base.startswith(("poscar", "contcar")) and PurePosixPath(base).suffix not in _KINDS:
        return "poscar"
    return _KINDS.get(PurePosixPath(base).suffix)


def sources_of(path: Path) -> Iterator[Source]:
    """Every file to read in what the person named.

    Of a folder that holds a data set (train.csv and so on), these tables and nothing else.

    Raises:
        UserError: there is no such path, nothing readable in it, or an archive is broken or a bomb.
    """
    if path.is_dir():
        yield from _in_folder(path)
    elif not path.exists():
        raise UserError(f"{path}: no such file or folder", near(path))
    elif kind_of(path.name) == "zip":
        yield from _in_zip(path)
    elif kind := kind_of(path.name):
        yield _file(path, path.name, kind)
    else:
        raise UserError(f"{path}: no known format by its name", f"known are {FORMATS}")


def left_out(path: Path) -> Counter[str]:
    """How many files in a folder or archive are not read, by their suffix; hidden ones are not counted."""
    tables = _tables_in(path)
    names = [name for name in _names_in(path) if (name not in tables if tables else not _kind_inside(name))]
    return Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in names)


def _kind_inside(name: str) -> str | None:
    """The format of a file in a folder or archive; an archive in there is not opened."""
    kind = kind_of(name)
    return None if kind == "zip" else kind


def _names_in(path: Path) -> list[str]:
    if path.is_dir():
        names = [p.relative_to(path).as_posix() for p in sorted(path.rglob("*")) if p.is_file()]
    elif kind_of(path.name) == "zip":
        with readable(str(path)), zipfile.ZipFile(path) as archive:
            names = [member.filename for member in archive.infolist() if not member.is_dir()]
    else:
        names = []
    return [name for name in names if not _hidden(name)]


def _tables_in(folder: Path) -> list[str]:
    """The tables of a folder that is a data set."""
    splits = SPLITS if split_path(folder, "train") else ()
    return list(dict.fromkeys(path.name for split in splits if (path := split_path(folder, split))))


def _in_folder(folder: Path) -> Iterator[Source]:
    names = _tables_in(folder) or _names_in(folder)
    known = [(name, kind) for name in names if (kind := _kind_inside(name))]
    if not known:
        raise _nothing(folder, names)
    for name, kind in known:
        yield _file(folder / name, name, kind)


def _in_zip(path: Path) -> Iterator[Source]:
    with readable(str(path)), zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if not m.is_dir() and not _hidden(m.filename)]
        known = [(m, kind) for m in members if (kind := _kind_inside(m.filename))]
        if not known:
            raise _nothing(path, [m.filename for m in members])
        for member, kind in known:
            name = f"{path}: {member.filename}"
            if member.flag_bits & 1:
                raise UserError(f"{name} is encrypted", "unpack it and name the folder")
            if member.compress_type not in _METHODS:
                method = f"{name} is packed by a method that is not known here ({member.compress_type})"
                raise UserError(method, "unpack it and name the folder")
            _refuse_bomb(name, member.file_size, member.compress_size)

            def opened(member: zipfile.ZipInfo = member, name: str = name) -> BinaryIO:
                return _decompressed(cast(BinaryIO, archive.open(member)), name)

            yield Source(name, _stem(member.filename), kind, opened)


def _refuse_bomb(name: str, size: int, packed: int) -> None:
    if size > max(BOMB_SIZE, BOMB_RATIO * packed):
        raise UserError(
            f"{name} unpacks to {size:,} bytes or more from {packed:,}: refused as a bomb",
            "if it is what you want, unpack it yourself and name what comes out",
        )


def _nothing(path: Path, names: list[str]) -> UserError:
    found = ", ".join(names[:5]) or "nothing"
    return UserError(f"{path}: no file of a known format in it; found {found}", f"known are {FORMATS}")


def _file(path: Path, name: str, kind: str) -> Source:
    return Source(str(path), _stem(name), kind, lambda: _decompressed(path.open("rb"), str(path)))


class _Gunzip(gzip.GzipFile):
    """What a .gz file holds, as long as it is not out of all proportion to the file."""

    def __init__(self, packed: BinaryIO, name: str) -> None:
        super().__init__(fileobj=packed)
        self._packed, self._called = packed, name

    def read(self, size: int | None = -1) -> bytes:
        return self._in_proportion(super().read(size))

    def read1(self, size: int = -1) -> bytes:
        return self._in_proportion(super().read1(size))

    def _in_proportion(self, piece: bytes) -> bytes:
        _refuse_bomb(self._called, self.tell(), self._packed.tell())
        return piece


def _decompressed(file: BinaryIO, name: str) -> BinaryIO:
    return cast(BinaryIO, _Gunzip(file, name)) if name.lower().endswith(".gz") else file


def _stem(name: str) -> str:
    path = PurePosixPath(name)
    base = path.name.removesuffix(".gz")
    suffix = PurePosixPath(base).suffix
    base = base.removesuffix(suffix) if suffix.lower() in _KINDS else base
    return (path.parent / base).as_posix()


def _hidden(name: str) -> bool:
    parts = (part for part in PurePosixPath(name).parts if part not in (".", ".."))
    return any(part.startswith((".", "__MACOSX")) for part in parts)


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn what goes wrong while reading bytes into a UserError that names the file."""
    try:
        yield
    except EOFError as error:
        raise UserError(f"{name}: ends before its time: {error}", WHOLE) from error
    except (gzip.BadGzipFile, zlib.error, zipfile.BadZipFile, lzma.LZMAError) as error:
        raise UserError(f"{name}: not a sound archive: {error}", WHOLE) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not text in UTF-8 ({error.reason})", "is it really of this format?") from error
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror or error}") from error


def lines_of(file: BinaryIO, name: str, strict: bool = True) -> Iterator[str]:
    """The lines of a text in UTF-8, their ends kept.

    Args:
        file: bytes.
        name: for messages.
        strict: other bytes are an error; otherwise they are replaced.

    Raises:
        UserError: a line is longer than any table of crystals has.
    """
    text = io.TextIOWrapper(file, "utf-8-sig", errors="strict" if strict else "replace", newline="")
    try:
        for n in itertools.count(1):
            line = text.readline(MAX_LINE)
            if len(line) == MAX_LINE:
                raise UserError(f"{name}:{n}: a line of more than {MAX_LINE:,} characters", "is it of this format?")
            if not line:
                return
            yield line
    except UnicodeDecodeError as error:
        where = file.tell() - len(error.object) + error.start
        what = f"{name}: not text in UTF-8: byte {where:,} is 0x{error.object[error.start]:02x}"
        raise UserError(what, "is it really of this format? else save it again as UTF-8") from error


def csv_rows(file: BinaryIO, name: str) -> Iterator[list[str]]:
    """The rows of a CSV table, its header first.

    Raises:
        UserError: no row can be made of a line, or of what follows a quote that is not closed.
    """
    csv.field_size_limit(MAX_LINE)  # a quoted cell may span lines: without a limit, the rest of the file
    rows = csv.reader(lines_of(file, name), strict=True)
    line = 1
    try:
        for row in rows:
            yield row
            line = rows.line_num + 1
    except csv.Error as error:
        raise UserError(f"{name}:{line}: not a readable CSV row: {error}", "is a quote not closed there?") from error


def read_whole(file: BinaryIO, name: str, limit: int = MAX_WHOLE) -> bytes:
    """All bytes of a file that may have at most `limit`; UserError above."""
    content = bytearray()
    while piece := file.read(PIECE):
        content += piece
        if len(content) > limit:
            raise UserError(f"{name}: more than {limit:,} bytes", "tables (CSV, Parquet) are read in pieces")
    return bytes(content)


def near(path: Path) -> str:
    """A hint about what stands where something was looked for."""
    if not path.parent.is_dir():
        return f"{path.parent} does not exist either"
    names = sorted(p.name for p in path.parent.iterdir() if not p.name.startswith("."))
    close = difflib.get_close_matches(path.name, names, n=3)
    if close:
        return f"did you mean {' or '.join(str(path.parent / c) for c in close)}?"
    return f"{path.parent} holds {', '.join(names[:6]) or 'nothing'}"
