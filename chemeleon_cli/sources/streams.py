"""Bytes from a file, a folder or a zip archive, never more of them at once than is sane."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from chemeleon_cli.core.paths import SPLITS, split_path
from chemeleon_cli.errors import UserError

MAX_LINE = 8_000_000
"""Characters of one line of text; a structure as JSON in one cell of a table stays well below."""
MAX_WHOLE = 1_000_000_000
"""Bytes of a file that has to be read whole (JSON)."""
BOMB_RATIO, BOMB_SIZE = 200, 20_000_000
"""An archive is refused if a member shrank so often and has so many bytes; crystals shrink 4 to 30 times."""

_KINDS = {
    ".cif": "cif", ".mcif": "cif", ".csv": "csv", ".parquet": "parquet", ".pq": "parquet", ".json": "json",
    ".extxyz": "extxyz", ".xyz": "extxyz", ".vasp": "poscar", ".poscar": "poscar", ".zip": "zip",
}  # fmt: skip
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


def _in_folder(folder: Path) -> Iterator[Source]:
    splits = SPLITS if split_path(folder, "train") else ()
    tables = list(dict.fromkeys(path for split in splits if (path := split_path(folder, split))))
    found = (p for p in folder.rglob("*") if p.is_file() and not _hidden(p.relative_to(folder).as_posix()))
    paths = tables or sorted(found)
    known = [(p, kind) for p in paths if (kind := kind_of(p.name)) and kind != "zip"]
    if not known:
        raise _nothing(folder, [p.name for p in paths])
    for path, kind in known:
        yield _file(path, path.relative_to(folder).as_posix(), kind)


def _in_zip(path: Path) -> Iterator[Source]:
    with readable(str(path)), zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if not m.is_dir() and not _hidden(m.filename)]
        known = [(m, kind) for m in members if (kind := kind_of(m.filename)) and kind != "zip"]
        if not known:
            raise _nothing(path, [m.filename for m in members])
        for member, kind in known:
            if member.flag_bits & 1:
                raise UserError(f"{path}: {member.filename} is encrypted", "unpack it and name the folder")
            if member.file_size > max(BOMB_SIZE, BOMB_RATIO * member.compress_size):
                raise UserError(
                    f"{path}: {member.filename} would unpack to {member.file_size:,} bytes from "
                    f"{member.compress_size:,}: refused as a zip bomb",
                    "if it is what you want, unpack it yourself and name the folder",
                )
            name = member.filename

            def opened(member: zipfile.ZipInfo = member) -> BinaryIO:
                return _decompressed(cast(BinaryIO, archive.open(member)), member.filename)

            yield Source(f"{path}: {name}", _stem(name), kind, opened)


def _nothing(path: Path, names: list[str]) -> UserError:
    found = ", ".join(names[:5]) or "nothing"
    return UserError(f"{path}: no file of a known format in it; found {found}", f"known are {FORMATS}")


def _file(path: Path, name: str, kind: str) -> Source:
    return Source(str(path), _stem(name), kind, lambda: _decompressed(path.open("rb"), path.name))


def _decompressed(file: BinaryIO, name: str) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if name.lower().endswith(".gz") else file


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
    except (gzip.BadGzipFile, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"{name}: not a sound archive: {error}", WHOLE) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not text in UTF-8 ({error.reason})", "is it really of this format?") from error
    except csv.Error as error:
        raise UserError(f"{name}: not a readable CSV table: {error}", "are its quotes closed?") from error
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
    while line := text.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise UserError(f"{name}: a line of more than {MAX_LINE:,} characters", "is it of this format?")
        yield line


def read_whole(file: BinaryIO, name: str, limit: int = MAX_WHOLE) -> bytes:
    """All bytes of a file that may have at most `limit`; UserError above."""
    content = file.read(limit + 1)
    if len(content) > limit:
        raise UserError(f"{name}: more than {limit:,} bytes", "tables (CSV, Parquet) are read in pieces")
    return content


def near(path: Path) -> str:
    """A hint about what stands where something was looked for."""
    if not path.parent.is_dir():
        return f"{path.parent} does not exist either"
    names = sorted(p.name for p in path.parent.iterdir() if not p.name.startswith("."))
    close = difflib.get_close_matches(path.name, names, n=3)
    if close:
        return f"did you mean {' or '.join(str(path.parent / c) for c in close)}?"
    return f"{path.parent} holds {', '.join(names[:6]) or 'nothing'}"
