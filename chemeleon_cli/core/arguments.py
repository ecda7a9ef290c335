"""Calls of functions with arguments from a file, which are checked against the types that the function declares."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

T = TypeVar("T")
LARGEST = 10_000
"""Largest integer argument of a model (layers, channels, diffusion steps); a larger one is a mistake that would exhaust
the memory."""
Whole = Annotated[int, Field(ge=0, le=LARGEST)]
PositiveInt = Annotated[int, Field(gt=0, le=2**53)]


def call(function: Callable[..., T], arguments: Mapping[str, Any], name: str) -> T:
    """Call a function with arguments from a file.

    Args:
        function: a function or class with annotated parameters.
        arguments: by parameter.
        name: of the section that they come from, for errors.

    Raises:
        ValueError: an argument is missing, unknown or of the wrong type, or a parameter of type
            int is below 0 or above LARGEST.
    """
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None
    has_init = inspect.isclass(function) and not dataclasses.is_dataclass(function)  # written by hand
    types = get_type_hints(function.__init__ if has_init else function, include_extras=True)
    for key, value in arguments.items():
        try:
            TypeAdapter(Whole if types.get(key) is int else types.get(key, Any), config=_STRICT).validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, (name, key, *first["loc"])))
            text = f"{first['msg'][0].lower()}{first['msg'][1:]}"
            raise ValueError(f"{where}: found {first['input']!r:.60}; {text}") from None
    return function(**arguments)


_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
