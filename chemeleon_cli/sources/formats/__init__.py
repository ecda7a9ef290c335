"""File formats, one module for each: what its files are called, how they are cut into crystals, parsed and written.

For another format, write a module like these that ends in a `Format`, and add it to FORMATS: `fetch-data`, `score` and
`sample` then know it. May import `core.data.cif`, and `records` and `streams` beside this folder.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from chemeleon_cli.sources.formats.base import Format
from chemeleon_cli.sources.formats.cif import CIF
from chemeleon_cli.sources.formats.csv import CSV
from chemeleon_cli.sources.formats.extxyz import EXTXYZ
from chemeleon_cli.sources.formats.json import JSON
from chemeleon_cli.sources.formats.parquet import PARQUET
from chemeleon_cli.sources.formats.poscar import POSCAR
from chemeleon_cli.sources.streams import packing_of

FORMATS: dict[str, Format] = {
    "cif": CIF, "csv": CSV, "parquet": PARQUET, "json": JSON, "extxyz": EXTXYZ, "poscar": POSCAR
}  # fmt: skip
_SUFFIXES = ", ".join(suffix for known in FORMATS.values() for suffix in known.suffixes)
_PREFIXES = ", ".join(prefix.upper() for known in FORMATS.values() for prefix in known.prefixes)
KNOWN = f"files {_SUFFIXES} or named {_PREFIXES}; a folder or a zip of these; .gz, .bz2, .xz too"

_BY_SUFFIX = {suffix: name for name, known in FORMATS.items() for suffix in known.suffixes}


def format_of(name: str) -> str | None:
    """The format that a file's name promises, a key of FORMATS, or None."""
    base = _base(name).lower()
    suffix = PurePosixPath(base).suffix
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    return next((kind for kind, known in FORMATS.items() if known.prefixes and base.startswith(known.prefixes)), None)


def stem_of(name: str) -> str:
    """A file's name, with its folders, without the suffixes of a format and a compression."""
    # where the locale is ASCII, Python hides the bytes of other letters in surrogates, which no file can be given
    name = name.encode(errors="surrogateescape").decode(errors="replace")
    base = _base(name)
    suffix = PurePosixPath(base).suffix
    base = base.removesuffix(suffix) if suffix.lower() in _BY_SUFFIX else base
    return (PurePosixPath(name).parent / base).as_posix()


def _base(name: str) -> str:
    base = PurePosixPath(name).name
    packing = packing_of(base)
    return base[: -len(packing)] if packing else base
