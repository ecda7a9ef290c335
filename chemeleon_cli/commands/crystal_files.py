"""What `score` and `write-hull` share: reading the crystals, and refusing outputs that cannot be written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chemeleon_cli.core.paths import check_writable
from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from chemeleon_cli.sources.files import Row


def check_outputs(outputs: Sequence[Path], file: str, overwrite: bool) -> None:
    """Refuse outputs before any work is done.

    Args:
        outputs: every file that the command will write.
        file: the crystals that it will read.
        overwrite: whether files that are there may be replaced.

    Raises:
        UserError: two outputs are one file, one is the input, or one cannot be written.
    """
    if len({output.resolve() for output in outputs}) < len(outputs):
        names = ", ".join(str(output) for output in outputs)
        raise UserError(f"{names}: one file for two outputs", "give each output a name of its own")
    for output in outputs:
        if output.resolve() == Path(file).resolve():
            raise UserError(f"{output}: holds the crystals that are read; it is left alone", "write to another file")
        check_writable(output, overwrite)


def read_rows(file: str) -> list[Row]:
    """All crystals of a file or folder, readable or not.

    Raises:
        UserError: it holds no crystal, or none that can be read.
    """
    from chemeleon_cli.sources.files import read_crystals

    rows = list(read_crystals(file))
    if not rows:
        raise UserError(f"{file}: holds no crystal", "give CIF, extxyz, CSV, json.gz, POSCAR, a folder or a zip")
    if all(row.structure is None for row in rows):
        first = f"{rows[0].id}: {rows[0].reason}"
        raise UserError(f"{file}: none of its {len(rows)} crystals can be read; the first, {first}")
    return rows
