"""Conditions in recipes: those that a generator is trained with, and requests for crystals that have them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from chemeleon_cli.recipe.base import Count, NotNegative, Section, UserPath, mistake

OF_CRYSTALS = ("composition", "chemical_system", "space_group", "oxidation_states")
"""Kinds that follow from the crystal itself, without a column of the data. Such a condition is named as its kind."""


class ConditionSection(Section):
    """One condition that a generator is trained with."""

    kind: Literal["value", "composition", "chemical_system", "space_group", "category", "oxidation_states"]
    """`value` is a column of numbers, `category` a column of classes (texts or whole numbers). The other kinds follow
    from the crystal itself, and the condition has the name of its kind. Without a request, a model with
    `oxidation_states` takes those of a random training crystal, and its number of atoms. Charges then balance more
    often, and sizes and charges are distributed as in the training set until `train-rl` changes that."""
    dropout: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Probability of dropping the condition in training, independently of the others. The model thereby also learns to
    generate without it, which guidance needs."""

    @property
    def is_column(self) -> bool:
        """Whether the condition is a column of the data."""
        return self.kind not in OF_CRYSTALS


def fill_in_kinds(conditions: Any) -> Any:
    """Read `composition:` as `composition: {kind: composition}` and `gap:` as a value; refuse kinds of other names."""
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
        raise mistake("found neither a number nor a text; expected a value such as 3.0, SrTiO3 or Li-Fe-P-O")
    return value


RequestedValue = Annotated[Any, AfterValidator(_is_plain)]
"""The requested value of one condition; null: the condition is left open."""


def _is_crystals(file: str | None, info: ValidationInfo) -> str | None:
    if file is not None and info.context and not Path(file).is_file():
        raise mistake(f"found '{file}'; expected a file of crystals")
    return file


class RequestSection(Section):
    """What is asked of the crystals."""

    conditions: dict[str, RequestedValue] = {}
    """The values that are asked for, by the names of the conditions that the model was trained with: `band_gap: 3.0`,
    `composition: SrTiO3`, `chemical_system: Li-Fe-P-O`, `space_group: 225`. A composition is always met exactly; any
    other condition only makes the requested value more likely."""
    like: Annotated[UserPath | None, AfterValidator(_is_crystals)] = None
    """A file of crystals: for each of them, ask for its composition and its number of atoms. Null: none."""
    z: Count | None = None
    """Number of formula units of the composition in the cell; null: random, among the cell sizes of the training set
    that fit."""
    guidance: NotNegative = 1.0
    """Scale of classifier-free guidance: 1 uses the conditions as they were learned; with 2 or 3, crystals follow them
    more closely but are less varied."""

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
            raise mistake(f"found {z}; expected null where like is given: its crystals have their own sizes")
        return z

    @field_validator("guidance")
    @classmethod
    def _leads_somewhere(cls, guidance: float, info: ValidationInfo) -> float:
        asked = any(value is not None for value in info.data.get("conditions", {}).values())
        if guidance != 1 and not asked and info.data.get("like") is None:
            raise mistake(f"found {guidance:g}; expected 1 where nothing is asked for: guidance needs a condition")
        return guidance
