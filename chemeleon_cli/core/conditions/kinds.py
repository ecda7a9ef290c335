"""The kinds of conditions, by their names in recipes and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chemeleon_cli.core.arguments import call
from chemeleon_cli.core.conditions.base import Condition
from chemeleon_cli.core.conditions.category import Category
from chemeleon_cli.core.conditions.chemical_system import ChemicalSystem
from chemeleon_cli.core.conditions.composition import Composition
from chemeleon_cli.core.conditions.oxidation_states import OxidationStates
from chemeleon_cli.core.conditions.space_group import SpaceGroup
from chemeleon_cli.core.conditions.value import Value
from chemeleon_cli.core.data.dataset import Table

KINDS: dict[str, type[Condition]] = {
    "value": Value,
    "composition": Composition,
    "chemical_system": ChemicalSystem,
    "space_group": SpaceGroup,
    "category": Category,
    "oxidation_states": OxidationStates,
}


def fit_conditions(table: Table, kinds: Mapping[str, str]) -> dict[str, Condition]:
    """Determine the conditions of a model from its training set.

    Args:
        table: the train split.
        kinds: the kind of each condition, by name.

    Raises:
        UserError: the table lacks a column, or the column is empty.
    """
    return {name: KINDS[kind].fit(name, table) for name, kind in kinds.items()}


def from_settings(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Condition]:
    """Rebuild conditions from the config of a checkpoint, which holds the `Condition.settings` of each by name.

    Raises:
        ValueError: a kind is unknown, or a field is missing, unknown or of the wrong type.
    """
    conditions = {}
    for name, own in settings.items():
        fields = dict(own)
        kind = fields.pop("kind", None)
        if kind not in KINDS:
            raise ValueError(f"conditions.{name}.kind: found {kind!r}; expected one of {', '.join(KINDS)}")
        conditions[name] = call(KINDS[kind], {"name": name, **fields}, f"conditions.{name}")
    return conditions


def to_settings(conditions: Mapping[str, Condition]) -> dict[str, dict[str, Any]]:
    """The inverse of `from_settings`."""
    return {name: condition.settings for name, condition in conditions.items()}
