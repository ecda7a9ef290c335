"""What a model may be asked for, as its config says it; checked where the config is read from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from chemeleon_cli.core.conditions.conditions import Settings

PositiveInt = Annotated[int, Field(gt=0, le=2**53)]


class _Setting(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")


class _Value(_Setting):
    kind: Literal["value"]
    mean: Annotated[float, Field(ge=-1e12, le=1e12)]
    std: Annotated[float, Field(gt=0, le=1e12)]


class _Numbers(_Setting):
    kind: Literal["composition", "chemical_system", "space_group"]
    known: list[PositiveInt]


class _Classes(_Setting):
    kind: Literal["category"]
    known: Annotated[list[str], Field(min_length=1)]


class _States(_Setting):
    kind: Literal["oxidation_states"]
    known: Annotated[dict[str, PositiveInt], Field(min_length=1)]


_SETTINGS = TypeAdapter(
    dict[str, Annotated[_Value | _Numbers | _Classes | _States, Field(discriminator="kind")]] | None
)


def _checked(value: Any) -> Any:
    _SETTINGS.validate_python(value)
    return value


CheckedSettings = Annotated[Settings | None, BeforeValidator(_checked)]
"""`conditions.Settings`, or none."""
Sizes = Annotated[Mapping[Annotated[str, Field(pattern=r"^[1-9]\d{0,3}$")], PositiveInt], Field(min_length=1)]
"""How many training crystals had so many atoms, by the count as text."""
