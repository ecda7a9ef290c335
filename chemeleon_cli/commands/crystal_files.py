"""What `score` and `write-hull` share: reading the crystals, and checking that the outputs can be written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chemeleon_cli.core.paths import check_writable
from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from chemeleon_cli.sources.files import Row


def check_outputs(outputs: Sequence[Path], file: str, overwrite: bool) -> None:
    """Check the outputs before any work is done.

    Args:
        outputs: every file that the command will write.
        file: the crystals that it will read.
        overwrite: whether existing files may be replaced.

    Raises:
        UserError: two outputs are the same file, one is the input, or one cannot be written.
    """
    if len({output.resolve() for output in outputs}) < len(outputs):
        names = ", ".join(str(output) for output in outputs)
        raise UserError(f"{names}: two outputs are the same file", "give each output its own name")
    for output in outputs:
        if output.resolve() == Path(file).resolve():
            raise UserError(f"{output}: is the input; it is left unchanged", "write to another file")
        check_writable(output, overwrite)


def read_rows(file: str) -> list[Row]:
    """All crystals of a file or folder, readable or not.

    Raises:
        UserError: it contains no crystal, or none that can be read.
    """
    from chemeleon_cli.sources.files import read_crystals

    rows = list(read_crystals(file))
    if not rows:
        raise UserError(f"{file}: contains no crystal", "give CIF, extxyz, CSV, json.gz, POSCAR, a folder or a zip")
    if all(row.structure is None for row in rows):
        first = f"{rows[0].id}: {rows[0].reason}"
        raise UserError(f"{file}: none of its {len(rows)} crystals can be read; the first, {first}")
    return rows
