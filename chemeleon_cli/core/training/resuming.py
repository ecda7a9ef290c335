"""Whether a run can go on with a recipe: what it has learned, and what it calls best, are of the one it began with."""

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
"""Settings that a resumed run may have otherwise than it began. With train-rl `devices` too: its groups are the same on
any number of them, where other commands take a batch on each."""


def check_recipe(folder: Path, began: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with another recipe.

    Args:
        folder: of the run.
        began: the recipe in its checkpoint.
        now: that it is to be resumed with.

    Raises:
        UserError: another setting than those of `MAY_CHANGE` differs, or the run is older than the sections of its
            command's recipe.
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
"""In the place of an item that the other list has."""


def _lasting(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe says besides the settings that may change."""
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
    """The first dotted key at which two recipes differ, with both values; a key that is not there counts as null."""
    if isinstance(before, dict) and isinstance(after, dict):
        parts = [(name, before.get(name), after.get(name)) for name in {**after, **before}]
    elif isinstance(before, list) and isinstance(after, list):
        parts = [(str(i), *pair) for i, pair in enumerate(itertools.zip_longest(before, after, fillvalue=_ABSENT))]
    else:
        return None if before == after else (key, before, after)
    found = (_difference(old, new, f"{key}.{name}" if key else name) for name, old, new in parts)
    return next((difference for difference in found if difference is not None), None)
