"""What a checkpoint's `meta.json` may hold, checked as it is read: people look into it, and some edit it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chemeleon_cli.errors import UserError

HINT = "put back the meta.json that was written with the weights, or take another checkpoint"

Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    """Keys that are not described may hold anything."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Data(_Part):
    path: str | None = None
    count: Count | None = None
    sha256: str | None = None


class _Parent(_Part):
    kind: str
    sha256: str
    path: str | None = None


class _Meta(_Part):
    kind: str
    version: int
    config: dict[str, Any]
    data: _Data = _Data()
    parents: list[_Parent] = []
    recipe: dict[str, Any] = {}
    metrics: dict[str, float | None] | None = None
    step: Count = 0
    minutes: Annotated[float, Field(ge=0)] = 0.0
    ema: bool = False


class Record(dict[str, Any]):
    """A JSON object that says where a key is missing.

    Args:
        values: its content.
        file: that it is from.
        keys: that lead to it.
    """

    def __init__(self, values: dict[str, Any], file: Path, keys: tuple[str, ...] = ()) -> None:
        super().__init__({k: Record(v, file, (*keys, k)) if isinstance(v, dict) else v for k, v in values.items()})
        self._file, self._keys = file, keys

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self._file}: {'.'.join((*self._keys, key))}: missing", HINT)


def check(record: Record, file: Path) -> None:
    """Whether a checkpoint's record has what every checkpoint has, and each key is of its type.

    Raises:
        UserError: naming the first key that is missing or holds something else.
    """
    try:
        _Meta.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        found = "" if first["type"] == "missing" else f"found {first['input']!r:.60}; "
        raise UserError(f"{file}: {key}: {found}{first['msg'][0].lower()}{first['msg'][1:]}", HINT) from error


def read_object(file: Path) -> Record:
    """A JSON object from a file of a checkpoint.

    Raises:
        UserError: the file cannot be read or is no JSON object.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        hint = f"it needs a readable {file.name}"
        raise UserError(f"{file.parent}: not a chemeleon checkpoint ({error})", hint) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON: {error}", HINT) from error
    if not isinstance(values, dict):
        raise UserError(f"{file}: found a {type(values).__name__}; expected a JSON object, {{...}}", HINT)
    return Record(values, file)
