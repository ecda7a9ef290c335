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
    "training.max_steps",
    "training.max_minutes",
    "training.val_every",
    "training.patience",
    "training.unscored_patience",
)
"""Settings that may change when a run is resumed. For train-rl, `devices` may change too, because its groups do not
depend on the number of devices; the other commands use one batch per device."""


def check_recipe(folder: Path, began: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a run may be resumed with a recipe.

    Args:
        folder: of the run.
        began: the recipe in its checkpoint.
        now: the recipe to resume with.

    Raises:
        UserError: a setting that is not in `MAY_CHANGE` differs, or the run began before its recipe had sections.
    """
    if began.get("command") == "train-rl" and not {"rl", "sampling", "training"} <= began.keys():
        raise UserError(
            f"{folder}: began when the recipe of train-rl had no sections rl, sampling and training",
            f"it cannot be resumed; start a run of another name from what it has learned: --set model={folder} "
            "--set name=NAME",
        )
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
    kept = dict(recipe)
    for setting in _may_change(recipe):
        section, _, key = setting.rpartition(".")
        if not section:
            kept.pop(key, None)
        elif isinstance(kept.get(section), dict):
            kept[section] = {name: value for name, value in kept[section].items() if name != key}
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
