"""Encoding of requests as tensors for a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from chemeleon_cli.core.conditions.base import Condition, ConditionBatch, Request, is_given
from chemeleon_cli.core.conditions.composition import Composition
from chemeleon_cli.errors import UserError, did_you_mean

Conditions = Mapping[str, Condition]
"""The conditions of a model, by name."""


def encode_requests(conditions: Conditions, requests: Sequence[Request], num_atoms: Tensor) -> ConditionBatch:
    """Encode the requests for B crystals as tensors.

    Args:
        conditions: those of the model.
        requests: one for each crystal.
        num_atoms: (B,); must be a whole multiple of a requested formula unit, and equal to the number of requested
            oxidation states.

    Raises:
        UserError: the model does not have a condition or does not know a value, or a value does not fit the number of
            atoms.
    """
    rows = [resolve(conditions, request) for request in requests]
    values = {}
    for name in {name: None for row in rows for name in row}:  # in the order in which requests name them
        condition = conditions[name]
        parsed = [condition.parse(row[name]) if name in row else None for row in rows]
        values[name] = condition.batch(parsed, num_atoms)
    numbers = next((value for name, value in values.items() if isinstance(conditions[name], Composition)), None)
    if numbers is not None and not is_given(numbers).all():
        raise ValueError("a batch has crystals with a composition and crystals without")
    return ConditionBatch(values, numbers)


def resolve(conditions: Conditions, request: Request) -> dict[str, Any]:
    """A request with the condition names of the model, without values of None.

    The name of a kind stands for the only condition of that kind: `composition` also names a condition of the kind
    composition that the model calls `formula`.

    Raises:
        UserError: the model does not have a condition.
    """
    resolved = {}
    for name, value in request.items():
        of_kind = [own for own, condition in conditions.items() if condition.kind == name]
        own = name if name in conditions or len(of_kind) != 1 else of_kind[0]
        if own not in conditions:
            have = ", ".join(f"{n} ({condition.kind})" for n, condition in conditions.items()) or "no conditions"
            raise UserError(
                f"the model was not trained for the condition '{name}'; it has {have}{did_you_mean(name, conditions)}",
                "the section conditions: of a train-ldm recipe defines the conditions of a model",
            )
        if value is not None:
            resolved[own] = value
    return resolved


def requested_formula(conditions: Conditions, request: Request) -> str | None:
    """The requested composition, or None.

    Raises:
        UserError: the model does not have the condition, or does not know the elements.
    """
    for name, value in resolve(conditions, request).items():
        if isinstance(conditions[name], Composition):
            conditions[name].parse(value)
            return str(value)
    return None
