"""Settings that the rewards of a run share with `score`: potential, hull, relaxation and matcher. Recipes use these
classes, so torch, numpy and pymatgen are imported only on use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from chemeleon_cli.core.potentials.base import UNKNOWN_SCALE
from chemeleon_cli.core.potentials.loading import POTENTIALS
from chemeleon_cli.core.scoring.hull_file import check_scales, find_hull, read_manifest
from chemeleon_cli.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher


class Section(BaseModel):
    """A section of a recipe: frozen and strict; unknown keys are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Relaxation(Section):
    """How cell and positions of crystals are relaxed before their energy is computed."""

    steps: Annotated[int, Field(ge=1)] = 200
    """Maximum number of FIRE steps per crystal. A crystal that has not converged by then is marked and keeps its
    energy."""
    fmax: Annotated[float, Field(gt=0)] = 0.05
    """Largest force, eV/Å, at which a relaxation counts as converged."""


class Matching(Section):
    """When two crystals are the same: the tolerances of pymatgen's StructureMatcher, with its defaults."""

    ltol: Annotated[float, Field(gt=0)] = 0.2
    """Relative tolerance of cell lengths."""
    stol: Annotated[float, Field(gt=0)] = 0.3
    """Tolerance of sites, in units of the cube root of the volume per atom."""
    angle_tol: Annotated[float, Field(gt=0)] = 5.0
    """Tolerance of cell angles, degrees."""
    time_limit: Annotated[float, Field(gt=0)] = 10.0
    """Processor time of one comparison, seconds; beyond it, the result is unknown."""

    def matcher(self) -> StructureMatcher:
        """A StructureMatcher with these tolerances, which reduces structures to primitive cells first."""
        from pymatgen.analysis.structure_matcher import StructureMatcher

        return StructureMatcher(ltol=self.ltol, stol=self.stol, angle_tol=self.angle_tol)


DEFAULT_MATCHING = Matching()


class EnergySettings(Section):
    """The potential, the hull, the relaxation, and the tolerances within which two crystals are the same."""

    energy_model: str | None = None
    """The potential: `chgnet` (in the package), a MACE foundation model such as `medium-mpa-0` (downloaded on first
    use), or a MACE model file; null for no energies."""
    energy_scale: str | None = None
    """The energy scale that a potential from a file was fitted to, as in the manifest of the hull; null for named
    potentials."""
    hull: str | None = None
    """The reference energies: a `hull.csv.gz`, a data folder that holds one, or `starter`; null for no energies above
    the hull. It must be on the energy scale of the potential."""
    relax: Relaxation | None = None
    """Relax each crystal before its energy is computed (steps, fmax); null for energies without relaxation."""
    matching: Matching | None = None
    """When two crystals are the same (ltol, stol, angle_tol), for uniqueness and novelty; null for pymatgen's
    defaults."""

    def check_energies(self) -> list[tuple[str, str]]:
        """Check what the fields name, without importing torch and without loading it.

        Returns:
            (field, message) for every mistake.
        """
        mistakes = []
        name, named = self.energy_model, self._scale()
        if name is None and self.relax is not None:
            mistakes.append(("relax", "found a section; expected null where energy_model is null"))
        if name is None and self.energy_scale is not None:
            mistakes.append(("energy_scale", f"found '{self.energy_scale}'; expected null where energy_model is null"))
        if name is not None and named is None and not Path(name).expanduser().is_file():
            text = f"found '{name}'; expected one of {', '.join(POTENTIALS)}, or a MACE model file"
            mistakes.append(("energy_model", text + did_you_mean(name, POTENTIALS)))
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
                mistakes.append(("hull", error.in_one_line))
        return mistakes

    def check_scale(self) -> list[tuple[str, str]]:
        """Check that the energy scale of the potential is known, as a hull needs a known one.

        Returns:
            (field, message) if it is unknown.
        """
        if self._scale() is not None or self.energy_scale not in (None, UNKNOWN_SCALE):
            return []
        found = "null" if self.energy_scale is None else f"'{self.energy_scale}'"
        text = f"expected the energy scale that {self.energy_model} was fitted to, because a hull needs a known one"
        return [("energy_scale", f"found {found}; {text}")]

    def _scale(self) -> str | None:
        """The energy scale of a named potential; None for a model file."""
        return POTENTIALS[self.energy_model].energy_scale if self.energy_model in POTENTIALS else None
