"""Check that a run is resumed with the recipe that it began with, on which its weights and its `best` depend."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chemeleon_cli.core.training.checkpoint import json_text
from chemeleon_cli.errors import UserError

MAY_CHANGE = (
    "name",
    "output",
    "device",
    "logger",
    "max_steps",
    "max_minutes",
    "patience",
    "unscored_patience",
    "val_every",
)
"""Settings of a recipe or of its `training:` section that may change when a run is resumed. For train-rl, `devices` may
change too, because its groups do not depend on the number of devices; the other commands use one batch per device."""


def check_recipe(folder: Path, began: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a run may be resumed with a recipe.

    Args:
        folder: of the run.
        began: the recipe in its checkpoint.
        now: the recipe to resume with.

    Raises:
        UserError: a setting that is not in `MAY_CHANGE` differs.
    """
    found = _difference(_lasting(began), _lasting(json.loads(json_text(now))))
    if found is not None:
        key, before, after = found
        was, is_now = ("absent" if value == _ABSENT else json.dumps(value) for value in (before, after))
        raise UserError(
            f"{folder}: {key} was {was} when the run began and is {is_now} now",
            f"leave it as it was (what may change: {', '.join(_may_change(began))}), or start a run of another name: "
            "--set name=NAME",
        )


_ABSENT: dict[str, Any] = {}
"""Stands for an item that only the other list has."""


def _lasting(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe without the settings that may change."""
    kept = {key: value for key, value in recipe.items() if key not in _may_change(recipe)}
    if "training" in kept:
        kept["training"] = {key: value for key, value in kept["training"].items() if key not in MAY_CHANGE}
    return kept


def _may_change(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    return (*MAY_CHANGE, "devices") if recipe.get("command") == "train-rl" else MAY_CHANGE


def _difference(before: Any, after: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """The first dotted key at which two recipes differ, with both values; a missing key counts as null."""
    if isinstance(before, dict) and isinstance(after, dict):
        parts = [(name, before.get(name), after.get(name)) for name in {**after, **before}]
    elif isinstance(before, list) and isinstance(after, list):
        parts = [(str(i), *pair) for i, pair in enumerate(itertools.zip_longest(before, after, fillvalue=_ABSENT))]
    else:
        return None if before == after else (key, before, after)
    found = (_difference(old, new, f"{key}.{name}" if key else name) for name, old, new in parts)
    return next((difference for difference in found if difference is not None), None)
