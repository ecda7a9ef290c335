"""What crystals are measured with: one choice of potential, hull and matcher for all rewards of a run and `score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from chemeleon_cli.core.potentials.energy import FOUNDATION_MODELS, UNKNOWN_SCALE
from chemeleon_cli.core.rewards.base import RewardSection
from chemeleon_cli.core.scoring.hull_file import check_scales, find_hull, read_manifest
from chemeleon_cli.errors import UserError, did_you_mean

CHGNET = "chgnet"
CHGNET_SCALE = "PBE/MP2020"


class Relaxation(RewardSection):
    """How crystals are relaxed, cell and positions, before their energy is taken."""

    steps: Annotated[int, Field(ge=1)] = 200
    """Steps of FIRE for each crystal, at most; what has not converged by then is marked, and keeps its energy."""
    fmax: Annotated[float, Field(gt=0)] = 0.05
    """The largest force, eV/Å, of a crystal that counts as relaxed."""


class Matching(RewardSection):
    """When two crystals are the same: the tolerances of pymatgen's StructureMatcher, by default its own."""

    ltol: Annotated[float, Field(gt=0)] = 0.2
    """Of cell lengths, relative."""
    stol: Annotated[float, Field(gt=0)] = 0.3
    """Of sites, in units of the cube root of the volume per atom."""
    angle_tol: Annotated[float, Field(gt=0)] = 5.0
    """Of cell angles, degrees."""
    time_limit: Annotated[float, Field(gt=0)] = 10.0
    """Of one comparison, seconds; after it whether the two are the same is unknown."""


class EnergySettings(RewardSection):
    """The potential, the hull, whether crystals are relaxed, and when two are the same."""

    energy_model: str | None = None
    """The potential: `chgnet` (in the package), a MACE foundation model such as `medium-mpa-0` (downloaded on first
    use), or a MACE model file. Null: no energies."""
    energy_scale: str | None = None
    """Which energies a potential from a file was fitted to, as the hull's manifest has it; null for named ones."""
    hull: str | None = None
    """The reference energies: a `hull.csv.gz`, a data folder that holds one, or `starter`. Null: no energies above a
    hull. Its energies must be of the potential's scale."""
    relax: Relaxation | None = None
    """Relax each crystal before its energy is taken (steps, fmax); null: energies of crystals as they are drawn."""
    matching: Matching | None = None
    """When two crystals are the same (ltol, stol, angle_tol), for unique and novel; null: by pymatgen's defaults."""

    def check_energies(self) -> list[tuple[str, str]]:
        """Look at what the fields name, without torch and without loading.

        Returns:
            (field, what is wrong with it) of every mistake.
        """
        mistakes = []
        name, named = self.energy_model, self._scale()
        if name is None and self.relax is not None:
            mistakes.append(("relax", "found a section; expected null where energy_model is null"))
        if name is not None and named is None and not Path(name).expanduser().is_file():
            meant = did_you_mean(name, [CHGNET, *FOUNDATION_MODELS])
            text = f"found '{name}'; expected chgnet, the name of a MACE foundation model, or a model file{meant}"
            mistakes.append(("energy_model", text))
        if named is not None and self.energy_scale not in (None, named):
            text = f"found '{self.energy_scale}'; the energies of {name} are {named}: leave this out"
            mistakes.append(("energy_scale", text))
        if self.hull is not None:
            try:
                manifest = read_manifest(find_hull(self.hull))
                if name is None:
                    return [*mistakes, ("hull", f"found '{self.hull}'; expected null where energy_model is null")]
                check_scales(named or self.energy_scale or UNKNOWN_SCALE, manifest.energy_scale)
            except UserError as error:
                mistakes.append(("hull", f"{error.message}; {error.hint}" if error.hint else error.message))
        return mistakes

    def _scale(self) -> str | None:
        """The energy scale of a potential that is known by name."""
        return CHGNET_SCALE if self.energy_model == CHGNET else FOUNDATION_MODELS.get(self.energy_model or "")
