"""Finds the files to read at a path: the file itself, or those in a folder or zip archive."""

from __future__ import annotations

import difflib
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from chemeleon_cli.core.paths import SPLITS, split_path
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.formats import KNOWN, format_of, stem_of
from chemeleon_cli.sources.streams import Source, readable, refuse_bomb, unpacked

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def path_of(text: str | Path) -> Path:
    """A path as the user types it, which may contain `~`.

    Raises:
        UserError: the path is impossible: the home of an unknown user, or a name that is too long.
    """
    try:
        path = Path(text).expanduser()
        path.exists()
    except (RuntimeError, OSError) as error:
        why = getattr(error, "strerror", "") or error
        raise UserError(f"{text}: no such path: {why}", "is it spelt right?") from error
    return path


def is_zip(path: str | Path) -> bool:
    """Whether a file is a zip archive by its name."""
    return str(path).lower().endswith(".zip")


def sources_of(path: Path) -> Iterator[Source]:
    """Every file to read at a path.

    From a folder that contains a data set (train.csv and so on), only these tables are read.

    Raises:
        UserError: there is no such path, it contains nothing readable, or an archive is broken or a zip bomb.
    """
    if path.is_dir():
        yield from _in_folder(path)
    elif not path.exists():
        raise UserError(f"{path}: no such file or folder", near(path))
    elif is_zip(path):
        yield from _in_zip(path)
    elif kind := format_of(path.name):
        yield _file(path, path.name, kind)
    else:
        raise UserError(f"{path}: unknown format", f"known are {KNOWN}")


def is_collection(path: Path) -> bool:
    """Whether a path is a folder or archive of files, and neither a single file nor a folder that is a data set."""
    return is_zip(path) if path.is_file() else path.is_dir() and not _tables_in(path)


def left_out(path: Path) -> Counter[str]:
    """How many files in a folder or archive are not read, by their suffix; hidden ones are not counted."""
    tables = _tables_in(path)
    if path.is_dir():
        names = _names_in(path)
    elif is_zip(path):
        with readable(str(path)), zipfile.ZipFile(path) as archive:
            names = [name for name, _ in _members(archive)]
    else:
        names = []
    names = [name for name in names if (name not in tables if tables else not format_of(name))]
    return Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in names)


def _names_in(folder: Path) -> list[str]:
    names = (p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file())
    return [name for name in names if not _hidden(name)]


def _members(archive: zipfile.ZipFile) -> list[tuple[str, zipfile.ZipInfo]]:
    """The files of an archive with the names that they had in the packed folder, in the order of this folder.

    Some Windows programs write backslashes between folders. If everything is in one folder, names are relative to it.
    """
    members = [(member.filename.replace("\\", "/"), member) for member in archive.infolist()]
    members = [(name, member) for name, member in members if not name.endswith("/") and not _hidden(name)]
    tops = {name.partition("/")[0] if "/" in name else "" for name, _ in members}
    if len(tops) == 1 and tops != {""}:
        members = [(name.partition("/")[2], member) for name, member in members]
    return sorted(members, key=lambda member: PurePosixPath(member[0]))


def _tables_in(folder: Path) -> list[str]:
    """The tables of a folder if it is a data set, otherwise nothing."""
    splits = SPLITS if split_path(folder, "train") else ()
    return list(dict.fromkeys(path.name for split in splits if (path := split_path(folder, split))))


def _in_folder(folder: Path) -> Iterator[Source]:
    names = _tables_in(folder) or _names_in(folder)
    known = [(name, kind) for name in names if (kind := format_of(name))]
    if not known:
        raise _nothing(folder, names)
    for name, kind in known:
        yield _file(folder / name, name, kind)


def _in_zip(path: Path) -> Iterator[Source]:
    with readable(str(path)), zipfile.ZipFile(path) as archive:
        members = _members(archive)
        known = [(name, m, kind) for name, m in members if (kind := format_of(name))]
        if not known:
            raise _nothing(path, [name for name, _ in members])
        for inside, member, kind in known:
            name = f"{path}: {member.filename}"
            if member.flag_bits & 1:
                raise UserError(f"{name} is encrypted", "unpack it and give the folder")
            if member.compress_type not in _METHODS:
                method = f"{name} is compressed by an unsupported method ({member.compress_type})"
                raise UserError(method, "unpack it and give the folder")
            refuse_bomb(name, member.file_size, member.compress_size)

            def opened(member: zipfile.ZipInfo = member, name: str = name) -> BinaryIO:
                return unpacked(cast(BinaryIO, archive.open(member)), name)

            yield Source(name, stem_of(inside), kind, opened)


def _nothing(path: Path, names: list[str]) -> UserError:
    found = ", ".join(names[:5]) or "nothing"
    return UserError(f"{path}: contains no file of a known format; found {found}", f"known are {KNOWN}")


def _file(path: Path, name: str, kind: str) -> Source:
    return Source(str(path), stem_of(name), kind, lambda: unpacked(path.open("rb"), str(path)))


def _hidden(name: str) -> bool:
    parts = (part for part in PurePosixPath(name).parts if part not in (".", ".."))
    return any(part.startswith((".", "__MACOSX")) for part in parts)


def near(path: Path) -> str:
    """A hint with similar names next to a path that does not exist."""
    if not path.parent.is_dir():
        return f"{path.parent} does not exist either"
    names = sorted(p.name for p in path.parent.iterdir() if not p.name.startswith("."))
    close = difflib.get_close_matches(path.name, names, n=3)
    if close:
        return f"did you mean {' or '.join(str(path.parent / c) for c in close)}?"
    return f"{path.parent} contains {', '.join(names[:6]) or 'nothing'}"
