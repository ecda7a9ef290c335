"""`chemeleon import-checkpoint FILE`: convert a published Chemeleon2 checkpoint into one of this program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console


def run(file: str, out: str, vae: str | None, overwrite: bool, console: Console) -> Path:
    """Read a file without executing code from it, and write a checkpoint.

    Args:
        file: the `.ckpt` file.
        out: the folder of the new checkpoint.
        vae: the generator's autoencoder, a `.ckpt` file or the name of a model; that of a published generator is known.
        overwrite: replace the checkpoint of that name.
        console: where the summary goes.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: the file cannot be read or is refused, or `out` already exists.
    """
    from chemeleon_cli.core.paths import META
    from chemeleon_cli.sources.checkpoints import find_model
    from chemeleon_cli.sources.hub import published_pair

    source, folder = Path(file).expanduser(), Path(out).expanduser()
    if not source.is_file():
        raise UserError(f"{file}: no such file", "published models need no import: --model hub:mp_20_ldm_rl")
    if folder.exists():
        if not (folder / META).is_file():
            raise UserError(f"{out}: already exists and is not a checkpoint", "choose another --out")
        if not overwrite:
            raise UserError(f"{out}: already exists", "--overwrite replaces it")
    vae = vae or published_pair(source)
    pair = None
    if vae is not None:
        pair = Path(vae) if Path(vae).is_file() else find_model(vae, "vae")

    from chemeleon_cli.core.chemeleon2.convert import convert

    found = convert(source, folder, pair)
    numbers = sum(tensor.numel() for tensor in found.weights.values())
    console.print(f"{found.kind} with {numbers:,} parameters written to {folder}", highlight=False, soft_wrap=True)
    return folder
