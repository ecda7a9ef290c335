"""Paths of data and caches, and atomic writing of files. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chemeleon_cli.errors import UserError

SPLITS = ("train", "val", "test")
META = "meta.json"
"""The file that makes a folder a checkpoint."""
STARTER = Path(__file__).parent.parent / "starter"
"""The data and models that come with the program."""
ONE_TABLE = "crystals.csv.gz"
"""The table of the set that comes with the program. It has all splits, named in its column `split`."""


def data_folder(name: str | Path) -> Path:
    """The folder of this name. `starter` is the folder in the package, unless there is a folder `starter` here."""
    folder = Path(name).expanduser()
    return STARTER if folder == Path(STARTER.name) and not folder.exists() else folder


def split_path(folder: str | Path, split: str) -> Path | None:
    """The table that holds a split of a data folder: `train.csv.gz` or `train.csv` (and so on); or `crystals.csv.gz`
    with a `card.json` beside it, which holds all splits; or None."""
    folder = data_folder(folder)
    paths = [folder / f"{split}{suffix}" for suffix in (".csv.gz", ".csv")]
    if (folder / "card.json").is_file():
        paths.append(folder / ONE_TABLE)
    return next((path for path in paths if path.is_file()), None)


def cache_folder() -> Path:
    """The folder for parsed data: $CHEMELEON_CACHE, else chemeleon in the XDG cache folder."""
    if "CHEMELEON_CACHE" in os.environ:
        return Path(os.environ["CHEMELEON_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chemeleon"


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def texts_in(value: Any) -> Iterator[str]:
    """Yield all texts in a nested value such as a recipe; the paths that it names are among them."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from texts_in(item)
    elif isinstance(value, str):
        yield value


def check_writable(path: Path, overwrite: bool) -> None:
    """Check that a file can be written, before its content is computed; nothing is left behind.

    Args:
        path: of the file.
        overwrite: whether an existing file may be replaced.

    Raises:
        UserError: the file cannot be written, or it exists and may not be replaced.
    """
    if path.is_file() and not overwrite:
        raise UserError(f"{path}: is there already", "--overwrite replaces it, another name keeps it")
    with writable(str(path)):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass


@contextlib.contextmanager
def writable(name: str) -> Iterator[None]:
    """Turn an OSError (disk full, no permission, a file in place of a folder) into a UserError that names the file."""
    try:
        yield
    except OSError as error:
        hint = "is there room, and may you write there?"
        raise UserError(f"{name}: cannot be written: {error.strerror or error}", hint) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which replaces it if the block succeeds and is removed if it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.touch()
        readable = temporary.stat().st_mode
        yield temporary
        temporary.chmod(readable)  # safetensors creates files that only their owner can read
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
