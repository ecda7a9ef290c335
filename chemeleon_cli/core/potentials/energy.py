"""Machine-learned potentials behind one protocol: which there are, and where their files come from."""

from __future__ import annotations

import contextlib
import http.client
import io
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from chemeleon_cli.core.potentials.potentials import Chgnet, Dtype, Energy, Mace, quietly
from chemeleon_cli.core.potentials.relaxation import Relaxed, first_line
from chemeleon_cli.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from pymatgen.core import Structure

UNKNOWN_SCALE = "unknown"
"""Of energies that nobody has said the meaning of."""
FOUNDATION_MODELS = {
    **dict.fromkeys(("small", "medium", "large"), "PBE/MP-uncorrected"),
    **dict.fromkeys(("small-0b", "medium-0b", "small-0b2", "medium-0b2", "large-0b2"), "PBE/MP-uncorrected"),
    **dict.fromkeys(("medium-0b3", "medium-mpa-0"), "PBE/MP-uncorrected"),
    **dict.fromkeys(("small-omat-0", "medium-omat-0"), "PBE/OMat24-uncorrected"),
    "mace-matpes-pbe-0": "PBE/MatPES",
    "mace-matpes-r2scan-0": "r2SCAN/MatPES",
}
"""Energy scale of each MACE foundation model that mace-torch knows by name and that has one head. The omat and
matpes ones are under a licence that forbids commercial use."""


class EnergyModel(Protocol):
    """A potential: of any source, judged by its numbers alone.

    Attributes:
        name: as the recipe has it.
        energy_scale: which energies it was fitted to; only those of one scale may be compared. "unknown" if
            nobody said.
    """

    name: str
    energy_scale: str

    def energies(self, structures: Sequence[Structure]) -> list[Energy]:
        """Energy of each crystal as it is, without forces.

        Returns:
            In order; the value is NaN with the reason beside it for a crystal that is impossible, has an element
            that the potential was not trained on, or that it fails for.
        """
        ...

    def relax(
        self,
        structures: Sequence[Structure],
        fmax: float,
        steps: int,
        seconds: float = 300.0,
        processes: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Relaxed]:
        """Relax cell and positions of each crystal; see `relaxation.relax`."""
        ...


def load_energy_model(
    name: str, device: str = "cpu", energy_scale: str | None = None, dtype: Dtype = "float32"
) -> EnergyModel:
    """Load a potential.

    Args:
        name: "chgnet", the name of a MACE foundation model, downloaded into mace-torch's own cache on first use,
            or the path of a MACE model file. Loading a MACE file executes code in it: name only one that you
            trust.
        device: as torch names it.
        energy_scale: of a file; that of a named model is known.
        dtype: that MACE computes in. CHGNet computes in float32 only.

    Raises:
        UserError: there is no such model, its file cannot be read or downloaded, or the scale or dtype is not
            its own.
    """
    scale = "PBE/MP2020" if name == "chgnet" else FOUNDATION_MODELS.get(name)
    if scale is not None and energy_scale not in (None, scale):
        raise UserError(f"the energies of {name} are {scale}, not {energy_scale}", "leave energy_scale out")
    if name == "chgnet":
        if dtype != "float32":
            raise UserError(f"chgnet computes in float32, not in {dtype}", "leave dtype out")
        return Chgnet(device)
    if scale is not None:
        path = _foundation_file(name)
    else:
        path = Path(name).expanduser()
        _check_file(path, name)
    return Mace(path, name, scale or energy_scale or UNKNOWN_SCALE, device, dtype)


def _check_file(path: Path, name: str) -> None:
    if not path.is_file():
        known = ["chgnet", *FOUNDATION_MODELS]
        raise UserError(
            f"there is no energy model {name!r}, nor a file of that name{did_you_mean(name, known)}",
            f"name a MACE model file or one of {', '.join(known)}",
        )
    flaw = _flaw(path)
    if flaw is not None:
        raise UserError(f"{path}: this is {flaw}, not a MACE model", "name a .model file that mace-torch has written")


def _foundation_file(name: str) -> Path:
    """The file of a foundation model in mace-torch's cache, downloaded if it is not there or is broken.

    Raises:
        UserError: it cannot be had; nothing broken is left in the cache.
    """
    with quietly():
        from mace.calculators import foundations_models
        from mace.tools.utils import get_cache_dir
    url = foundations_models.mace_mp_urls[name]
    cached = Path(get_cache_dir()) / "".join(c for c in url.rsplit("/", 1)[-1] if c.isalnum() or c == "_")
    if cached.is_file() and _flaw(cached) is not None:
        cached.unlink()
    path, flaw = cached, None
    try:
        with contextlib.redirect_stdout(io.StringIO() if cached.is_file() else sys.stderr):
            path = Path(foundations_models.download_mace_mp_checkpoint(name))
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        flaw = first_line(error)
    if path.is_file():  # an error of MACE's, too, may leave what it has downloaded
        flaw = _flaw(path)
        if flaw is None:
            return path
        cached.unlink(missing_ok=True)
        flaw = f"what came is {flaw}"
    raise UserError(
        f"the MACE model {name} could not be downloaded from {url}: {flaw}",
        f"download it elsewhere and save it as {cached}, "
        f"or give its path instead of {name}, with energy_scale {FOUNDATION_MODELS[name]}",
    )


def _flaw(path: Path) -> str | None:
    """What a file is if it is not a whole torch file, which is a ZIP archive."""
    if zipfile.is_zipfile(path):
        return None
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if head.startswith(b"<"):
        return "a web page"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer"
    return "a part of a file, or no torch file" if head else "empty"
