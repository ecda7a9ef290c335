"""The content of a checkpoint's `meta.json`, which is checked when it is read, because users may edit it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chemeleon_cli.errors import UserError

HINT = "put back the meta.json that was written with the weights, or take another checkpoint"

Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    """Keys that are not declared may hold any value."""

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
    """A JSON object that raises a UserError with file and key if a key is missing.

    Args:
        values: content of the object.
        file: that it was read from.
        keys: path of keys to it in the file.
    """

    def __init__(self, values: dict[str, Any], file: Path, keys: tuple[str, ...] = ()) -> None:
        super().__init__({k: Record(v, file, (*keys, k)) if isinstance(v, dict) else v for k, v in values.items()})
        self._file, self._keys = file, keys

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self._file}: {'.'.join((*self._keys, key))}: missing", HINT)


def check(record: Record, file: Path) -> None:
    """Check that a record has the keys of every checkpoint, with values of the right type.

    Raises:
        UserError: a key is missing or has another type; the message names the first one.
    """
    try:
        _Meta.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        found = "" if first["type"] == "missing" else f"found {first['input']!r:.60}; "
        raise UserError(f"{file}: {key}: {found}{first['msg'][0].lower()}{first['msg'][1:]}", HINT) from error


def read_object(file: Path) -> Record:
    """Read a JSON object from a file of a checkpoint.

    Raises:
        UserError: the file cannot be read or is not a JSON object.
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
