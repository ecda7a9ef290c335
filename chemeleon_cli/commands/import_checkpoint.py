"""`chemeleon import-checkpoint FILE`: a published Chemeleon2 checkpoint to one of ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console


def run(file: str, out: str, vae: str | None, overwrite: bool, console: Console) -> Path:
    """Read a file without executing it and write a checkpoint.

    Args:
        file: the `.ckpt`.
        out: the checkpoint's folder.
        vae: a `.ckpt` or a model's name; of a published generator it is known.
        overwrite: replace the checkpoint of that name.
        console: where the summary goes.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: the file cannot be read or is refused, or there is something at `out` already.
    """
    from chemeleon_cli.core.paths import META
    from chemeleon_cli.sources.checkpoints import find_model
    from chemeleon_cli.sources.hub import published_pair

    source, folder = Path(file).expanduser(), Path(out).expanduser()
    if not source.is_file():
        raise UserError(f"{file}: no such file", "published models need no file: --model hub:mp_20_ldm_rl")
    if folder.exists():
        if not (folder / META).is_file():
            raise UserError(f"{out}: is there already, and is no checkpoint", "choose another --out")
        if not overwrite:
            raise UserError(f"{out}: is there already", "--overwrite replaces it")
    vae = vae or published_pair(source)
    pair = None
    if vae is not None:
        pair = Path(vae) if Path(vae).is_file() else find_model(vae, "vae")

    from chemeleon_cli.core.chemeleon2.convert import convert

    found = convert(source, folder, pair)
    numbers = sum(tensor.numel() for tensor in found.weights.values())
    console.print(f"{found.kind} of {numbers:,} numbers written to {folder}", highlight=False, soft_wrap=True)
    return folder
