"""The reference of the keys of a recipe, made from the docstrings of its fields."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from chemeleon_cli.recipe.document import shown
from chemeleon_cli.recipe.errors import item_of, sections_in

_WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text", NoneType: "null", Any: "anything"}


def schema(model: type[BaseModel], indent: str = "") -> Iterator[str]:
    """The lines of the page: each key with its type, its default and its docstring.

    Args:
        model: the recipe, or a section of one.
        indent: the indentation of each line.
    """
    for name, field in model.model_fields.items():
        sections = sections_in(field.annotation)
        items = sections or sections_in(item_of(field.annotation))
        yield f"{indent}{field.alias or name}: {_kind(field.annotation)}{_default(field)}"
        for line in (field.description or "").splitlines():
            yield f"{indent}    # {line}".rstrip()
        for section in items:
            if not sections:
                yield f"{indent}  {_which(section)}:"
                yield f"{indent}    # {' '.join((section.__doc__ or '').split())}"
            yield from schema(section, indent + ("  " if sections else "    "))


def _which(section: type[BaseModel]) -> str:
    tag = section.model_fields.get("type")
    return f"each with type {tag.default}" if tag else "each"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ", required"
    value = field.get_default(call_default_factory=True, validated_data={})
    return "" if isinstance(value, BaseModel) else f" = {shown(value) if value != {} else 'empty'}"


def _kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin in (Union, UnionType):
        return " | ".join(_kind(part) for part in arguments)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (list, tuple):
        return "list"
    return _WORDS.get(annotation, "section")
