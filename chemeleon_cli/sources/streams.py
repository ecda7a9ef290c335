"""Bytes and lines of one file, packed or not, never more of them at once than is sane; and files written whole."""

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
"""Characters of one line of text and of one cell of a table; a structure as JSON in a cell stays well below."""
MAX_WHOLE = 1_000_000_000
"""Bytes of a file that has to be read whole (JSON)."""
PIECE = 1 << 20
BOMB_RATIO, BOMB_SIZE = 200, 20_000_000
"""Compressed bytes are refused if they shrank so often and were so many; crystals shrink 4 to 30 times."""
WHOLE = "is it whole? download or copy it again"


@dataclass(frozen=True)
class Source:
    """One file to read, on disk or in an archive.

    Attributes:
        name: what to call it in messages.
        stem: its name without suffixes, and with its folders inside the folder or archive that was named.
        format: the name of its format, a key of `formats.FORMATS`.
        open: its bytes, already decompressed.
    """

    name: str
    stem: str
    format: str
    open: Callable[[], BinaryIO]


class _InProportion:
    """What a compressed file holds, as long as it is not out of all proportion to the file."""

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
"""Suffixes of compressed files, which stand behind that of the format."""


def packing_of(name: str) -> str:
    """The suffix of the compression that a file name ends in, or ""."""
    return next((suffix for suffix in _PACKINGS if name.lower().endswith(suffix)), "")


def unpacked(file: BinaryIO, name: str) -> BinaryIO:
    """The bytes of a file, decompressed where its name says that it is compressed."""
    packing = packing_of(name)
    if not packing:
        return file
    opened = _PACKINGS[packing](file)
    opened.packed, opened.called = file, name
    return cast(BinaryIO, opened)


def refuse_bomb(name: str, size: int, packed: int) -> None:
    """UserError where so many bytes come out of so few that no crystals can be in them."""
    if size > max(BOMB_SIZE, BOMB_RATIO * packed):
        raise UserError(
            f"{name} unpacks to {size:,} bytes or more from {packed:,}: refused as a bomb",
            "if it is what you want, unpack it yourself and name what comes out",
        )


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


def read_whole(file: BinaryIO, name: str, limit: int = MAX_WHOLE) -> bytes:
    """All bytes of a file that may have at most `limit`; UserError above."""
    content = bytearray()
    while piece := file.read(PIECE):
        content += piece
        if len(content) > limit:
            raise UserError(f"{name}: more than {limit:,} bytes", "tables (CSV, Parquet) are read in pieces")
    return bytes(content)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write text (compressed where the name ends in .gz), under a temporary name until all is written."""
    with writable(str(path)), replacing(path) as temporary, temporary.open("wb") as file:
        zipped = path.name.lower().endswith(".gz")
        # without name and date, so that equal content has equal hashes
        out = gzip.GzipFile("", "wb", 6, file, mtime=0) if zipped else file
        for line in lines:
            out.write(line.encode(errors="surrogateescape"))  # a path as an ASCII locale hands it over
        if zipped:
            out.close()
