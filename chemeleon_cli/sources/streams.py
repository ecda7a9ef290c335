"""Reads bytes and lines of a file, compressed or not, with limits on their size; writes files completely or not."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from chemeleon_cli.core.paths import replacing, writable
from chemeleon_cli.errors import UserError

MAX_LINE = 8_000_000
"""Largest number of characters of a line or of a cell of a table; structures as JSON in a cell are much shorter."""
MAX_WHOLE = 1_000_000_000
"""Largest size in bytes of a file that must be read at once (JSON)."""
PIECE = 1 << 20
BOMB_RATIO, BOMB_SIZE = 200, 20_000_000
"""A file is refused if it unpacks to more than this ratio and this size in bytes; crystals have ratios of 4 to 30."""
WHOLE = "is it complete? download or copy it again"


@dataclass(frozen=True)
class Source:
    """One file to read, on disk or in an archive.

    Attributes:
        name: its name in messages.
        stem: its name without suffixes, with its folders inside the given folder or archive.
        format: the name of its format, a key of `formats.FORMATS`.
        open: opens it; returns its decompressed bytes.
    """

    name: str
    stem: str
    format: str
    open: Callable[[], BinaryIO]


class _InProportion:
    """The content of a compressed file, unless it is too large in proportion to the file."""

    packed: BinaryIO
    called: str

    def read(self, size: int | None = -1) -> bytes:
        return self._checked(super().read(size))  # type: ignore[misc]

    def read1(self, size: int = -1) -> bytes:
        return self._checked(super().read1(size))  # type: ignore[misc]

    def _checked(self, piece: bytes) -> bytes:
        refuse_bomb(self.called, self.tell(), self.packed.tell())  # type: ignore[attr-defined]
        return piece


class _Gzip(_InProportion, gzip.GzipFile):
    pass


class _Bzip2(_InProportion, bz2.BZ2File):
    pass


class _Xz(_InProportion, lzma.LZMAFile):
    pass


_PACKINGS: dict[str, Callable[[BinaryIO], _InProportion]] = {
    ".gz": lambda file: _Gzip(fileobj=file),
    ".bz2": _Bzip2,
    ".xz": _Xz,
}
"""Suffixes of compressed files, which follow that of the format."""


def packing_of(name: str) -> str:
    """The suffix of the compression that a file name ends in, or ""."""
    return next((suffix for suffix in _PACKINGS if name.lower().endswith(suffix)), "")


def unpacked(file: BinaryIO, name: str) -> BinaryIO:
    """The bytes of a file, decompressed if the suffix of its name is that of a compressed file."""
    packing = packing_of(name)
    if not packing:
        return file
    opened = _PACKINGS[packing](file)
    opened.packed, opened.called = file, name
    return cast(BinaryIO, opened)


def refuse_bomb(name: str, size: int, packed: int) -> None:
    """Raise a UserError if a file unpacks to so much more than its size that it cannot contain crystals."""
    if size > max(BOMB_SIZE, BOMB_RATIO * packed):
        raise UserError(
            f"{name} unpacks to {size:,} bytes or more from {packed:,}: refused as a possible zip bomb",
            "if it is what you want, unpack it yourself and give the unpacked file",
        )


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn errors in reading bytes into a UserError that names the file."""
    try:
        yield
    except EOFError as error:
        raise UserError(f"{name}: is incomplete: {error}", WHOLE) from error
    except (gzip.BadGzipFile, zlib.error, zipfile.BadZipFile, lzma.LZMAError) as error:
        raise UserError(f"{name}: is damaged: {error}", WHOLE) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not text in UTF-8 ({error.reason})", "is it really of this format?") from error
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror or error}") from error


def lines_of(file: BinaryIO, name: str, strict: bool = True) -> Iterator[str]:
    """The lines of a UTF-8 text, including their line ends.

    Args:
        file: the bytes.
        name: the name in messages.
        strict: whether bytes that are not UTF-8 are an error; otherwise they are replaced.

    Raises:
        UserError: a line is too long for a table of crystals.
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
        raise UserError(what, "check its format, or save it as UTF-8") from error


def read_whole(file: BinaryIO, name: str, limit: int = MAX_WHOLE) -> bytes:
    """All bytes of a file; raises a UserError if there are more than `limit`."""
    content = bytearray()
    while piece := file.read(PIECE):
        content += piece
        if len(content) > limit:
            raise UserError(f"{name}: more than {limit:,} bytes", "tables (CSV, Parquet) are read in pieces")
    return bytes(content)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write text (compressed if the name ends in .gz), under a temporary name until everything is written."""
    with writable(str(path)), replacing(path) as temporary, temporary.open("wb") as file:
        zipped = path.name.lower().endswith(".gz")
        # without name and date, so that equal content has equal hashes
        out = gzip.GzipFile("", "wb", 6, file, mtime=0) if zipped else file
        for line in lines:
            out.write(line.encode(errors="surrogateescape"))  # a path as an ASCII locale hands it over
        if zipped:
            out.close()
