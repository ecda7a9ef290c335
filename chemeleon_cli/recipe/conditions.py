"""What crystals are asked to be: what a generator learns to be asked for, and what it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from chemeleon_cli.recipe.base import Count, NotNegative, Section, UserPath, mistake

OF_CRYSTALS = ("composition", "chemical_system", "space_group", "oxidation_states")
"""Kinds that need no column of the data; such a condition is named as its kind."""


class ConditionSection(Section):
    """One condition that a generator learns."""

    kind: Literal["value", "composition", "chemical_system", "space_group", "category", "oxidation_states"]
    """`value`, a number of a column; `category`, a class (text or whole number) of a column; or what the crystal itself
    says, under the name of the kind: `composition`, `chemical_system`, `space_group` or `oxidation_states`. The last
    are those of a training crystal, drawn with its size, wherever nothing else is asked for: charges then balance more
    often, and the mix of sizes and charges is that of the training set until `train-rl` learns another."""
    dropout: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """How often it is left unsaid in training, each condition on its own: what the model then learns is what it draws
    without the condition, and what guidance leads away from."""

    @property
    def is_column(self) -> bool:
        """Whether its name is that of a column."""
        return self.kind not in OF_CRYSTALS


def fill_in_kinds(conditions: Any) -> Any:
    """`composition:` for `composition: {kind: composition}`, and `gap:` for a value; names that fit their kinds."""
    if not isinstance(conditions, dict):
        return conditions
    filled = {}
    for name, section in conditions.items():
        own = name if name in OF_CRYSTALS else "value"
        section = {"kind": section} if isinstance(section, str) else section
        filled[name] = {"kind": own, **(section or {})} if isinstance(section, dict | None) else section
        kind = filled[name].get("kind") if isinstance(filled[name], dict) else getattr(section, "kind", None)
        if (name in OF_CRYSTALS or kind in OF_CRYSTALS) and kind != name:
            kinds = ", ".join(OF_CRYSTALS)
            raise mistake(f"found '{name}' of kind {kind}; expected conditions of {kinds} to be named as their kinds")
    return filled


def _is_plain(value: Any) -> Any:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float | str)):
        raise mistake("found something else than a number or a text; expected a value such as 3.0, SrTiO3 or Li-Fe-P-O")
    return value


RequestedValue = Annotated[Any, AfterValidator(_is_plain)]
"""A value of one condition; null: it is not said."""


def _is_crystals(file: str | None, info: ValidationInfo) -> str | None:
    if file is not None and info.context and not Path(file).is_file():
        raise mistake(f"found '{file}'; expected a file of crystals")
    return file


class RequestSection(Section):
    """What crystals are asked to be."""

    conditions: dict[str, RequestedValue] = {}
    """What is asked for, by the names of the conditions that the model was trained for: `band_gap: 3.0`,
    `composition: SrTiO3`, `chemical_system: Li-Fe-P-O`, `space_group: 225`. A composition is what the crystals have;
    all else is what they tend to."""
    like: Annotated[UserPath | None, AfterValidator(_is_crystals)] = None
    """A file of crystals whose compositions and numbers of atoms are asked for, one after the other; null: none."""
    z: Count | None = None
    """Formula units of the composition in a cell; null: drawn from the sizes of the training set that fit."""
    guidance: NotNegative = 1.0
    """Scale of classifier-free guidance: 1 takes the condition as it was learned, 2 or 3 exaggerate it."""

    @field_validator("like")
    @classmethod
    def _is_alone(cls, like: str | None, info: ValidationInfo) -> str | None:
        if like is not None and (info.data.get("conditions") or {}).get("composition") is not None:
            raise mistake(f"found '{like}'; expected null where conditions.composition is given")
        return like

    @field_validator("z")
    @classmethod
    def _is_free(cls, z: int | None, info: ValidationInfo) -> int | None:
        if z is not None and info.data.get("like") is not None:
            raise mistake(f"found {z}; expected null where like is given: its crystals say their sizes")
        return z

    @field_validator("guidance")
    @classmethod
    def _leads_somewhere(cls, guidance: float, info: ValidationInfo) -> float:
        asked = any(value is not None for value in info.data.get("conditions", {}).values())
        if guidance != 1 and not asked and info.data.get("like") is None:
            raise mistake(f"found {guidance:g}; expected 1 where nothing is asked for: guidance is towards a condition")
        return guidance
