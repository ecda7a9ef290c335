"""The named potentials with their energy scales, and the loading of a potential."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from chemeleon_cli.core.potentials.base import UNKNOWN_SCALE, Potential
from chemeleon_cli.core.potentials.chgnet import Chgnet
from chemeleon_cli.core.potentials.mace import load_file, load_foundation
from chemeleon_cli.errors import UserError, did_you_mean


class Known(NamedTuple):
    """A potential that recipes name.

    Attributes:
        load: (name, energy scale, device) -> the potential; a class or a function.
        energy_scale: which reference energies it was fitted to.
    """

    load: Callable[[str, str, str], Potential]
    energy_scale: str


POTENTIALS: dict[str, Known] = {
    "chgnet": Known(Chgnet, "PBE/MP2020"),
    "small": Known(load_foundation, "PBE/MP-uncorrected"),
    "medium": Known(load_foundation, "PBE/MP-uncorrected"),
    "large": Known(load_foundation, "PBE/MP-uncorrected"),
    "small-0b": Known(load_foundation, "PBE/MP-uncorrected"),
    "medium-0b": Known(load_foundation, "PBE/MP-uncorrected"),
    "small-0b2": Known(load_foundation, "PBE/MP-uncorrected"),
    "medium-0b2": Known(load_foundation, "PBE/MP-uncorrected"),
    "large-0b2": Known(load_foundation, "PBE/MP-uncorrected"),
    "medium-0b3": Known(load_foundation, "PBE/MP-uncorrected"),
    "medium-mpa-0": Known(load_foundation, "PBE/MP-uncorrected"),
    # The licence of these forbids commercial use.
    "small-omat-0": Known(load_foundation, "PBE/OMat24-uncorrected"),
    "medium-omat-0": Known(load_foundation, "PBE/OMat24-uncorrected"),
    "mace-matpes-pbe-0": Known(load_foundation, "PBE/MatPES"),
    "mace-matpes-r2scan-0": Known(load_foundation, "r2SCAN/MatPES"),
}
"""The potentials by name. Of MACE's foundation models, those with one head."""


def load_potential(name: str, device: str = "cpu", energy_scale: str | None = None) -> Potential:
    """Load a potential.

    Args:
        name: one of `POTENTIALS`, or the path of a MACE model file. Loading a MACE file executes code in it: name only
            one that you trust.
        device: as torch names it.
        energy_scale: which reference energies a model file was fitted to; that of a named potential is known.

    Raises:
        UserError: there is no such potential, its file cannot be read or downloaded, or the scale is not its own.
    """
    known = POTENTIALS.get(name)
    if known is not None:
        if energy_scale not in (None, known.energy_scale):
            raise UserError(
                f"the energies of {name} are {known.energy_scale}, not {energy_scale}", "leave energy_scale out"
            )
        return known.load(name, known.energy_scale, device)
    if not Path(name).expanduser().is_file():
        raise UserError(
            f"there is no potential {name!r}, nor a file of that name{did_you_mean(name, POTENTIALS)}",
            f"name one of {', '.join(POTENTIALS)}, or a MACE model file",
        )
    return load_file(name, energy_scale or UNKNOWN_SCALE, device)
