"""Turns pydantic's errors into messages that use the keys and lines of the recipe.

Every message has the form `file:line: dotted.key: found ...; expected ...; did you mean 'x'?`.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from chemeleon_cli.errors import closest, did_you_mean
from chemeleon_cli.recipe.document import Document, Loc, Problem, shown

_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a section of `key: value` lines",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_type": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "model_attributes_type": "a section of `key: value` lines",
    "model_type": "a section of `key: value` lines",
    "string_type": "text (numbers in quotes are text)",
    "too_short": "at least {min_length} of them",
    "tuple_type": "a list",
}
"""What was expected, by pydantic's error type. Types that are not listed keep pydantic's own message."""

API_KEY = (
    "found a key for an API; expected none, as recipes are kept and shared; "
    "give it as --api-key or in the environment as MP_API_KEY"
)


def problems(error: ValidationError, document: Document, model: type[BaseModel]) -> list[Problem]:
    """All problems that pydantic found, each with the place in the file."""
    return [_problem(details, document, model) for details in error.errors(include_url=False)]


def renamed(error: ValidationError, document: Document, model: type[BaseModel]) -> Document | None:
    """A copy of the document with the probable names for misspelt keys, and without other unknown keys.

    pydantic checks a section as a whole (which settings need each other, whether files exist) only if all of its keys
    are valid. With this copy, such mistakes are reported together with the misspelt keys. None if the document has
    errors other than unknown keys.
    """
    data, marks = copy.deepcopy(document.data), dict(document.marks)
    for details in error.errors(include_url=False, include_context=False, include_input=False):
        if details["type"] != "extra_forbidden":
            return None
        (*path, key), holders, _ = _resolve(details["loc"], model)
        section = functools.reduce(lambda value, step: value[step], path, cast("Any", data))
        value = section.pop(key)
        meant = _meant(str(key), holders, model)
        if meant is not None and "." not in meant and meant not in section:
            section[meant], marks[(*path, meant)] = value, document.mark((*path, key))
    return Document(data, marks)


def names_a_key(text: str) -> bool:
    """Whether a text names a key for an API: api_key, MP_API_KEY, PMG_MAPI_KEY."""
    return re.search("api[-_]?key", text, re.IGNORECASE) is not None


def fields_of(model: type[BaseModel]) -> dict[str, Any]:
    """The keys of a section as written in a recipe, with their types."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections among the possible types of a value: none for a scalar, several for a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return [section for part in get_args(annotation) for section in sections_in(part)]
    return []


def _problem(details: ErrorDetails, document: Document, model: type[BaseModel]) -> Problem:
    loc, holders, members = _resolve(details["loc"], model)
    kind, context, value = details["type"], details.get("ctx", {}), details["input"]
    if kind == "extra_forbidden":
        text = _unknown(str(loc[-1]), holders, model)
    elif kind == "missing":
        text = f"found nothing; expected {_description(str(loc[-1]), holders)}"
    elif kind in ("union_tag_not_found", "union_tag_invalid"):
        loc = (*loc, "type")
        text = _not_one_of(context.get("tag"), [tag for member in members for tag in _tags_of(member)])
    elif kind == "literal_error":
        text = _not_one_of(value, [a or b for a, b in re.findall(r"'([^']*)'|(\d+)", context["expected"])])
    elif kind in ("mistake", "value_error"):
        text = str(context.get("text") or context["error"])
    else:
        text = f"found {shown(value)}; expected {_EXPECTED.get(kind, details['msg']).format(**context)}"
    return Problem(document.mark(loc), loc, text)


def _resolve(loc: Loc, model: type[BaseModel]) -> tuple[Loc, list[type[BaseModel]], list[type[BaseModel]]]:
    """Follow pydantic's path through the types.

    Returns:
        The path as written in the file, without the tags that pydantic adds for members of a union; the section
        classes that can hold its last key; and the section classes that its value can have.
    """
    written: list[str | int] = []
    annotation: Any = model
    holders: list[type[BaseModel]] = []
    members = sections_in(model)
    for key in loc:
        tagged = [member for member in members if len(members) > 1 and key in _tags_of(member)]
        if tagged:
            members = tagged
            continue
        written.append(key)
        holders = members
        types = [fields_of(holder)[str(key)] for holder in holders if str(key) in fields_of(holder)]
        annotation = types[0] if types else None if holders else item_of(annotation)
        members = sections_in(annotation)
    return tuple(written), holders, members


def item_of(annotation: Any) -> Any:
    """The type of the values of a list or dict, also of an optional one."""
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return next((item for part in get_args(annotation) if (item := item_of(part)) is not None), None)
    arguments = [argument for argument in get_args(annotation) if argument is not Ellipsis]
    return arguments[-1] if get_origin(annotation) in (list, dict, tuple) and arguments else None


def _tags_of(section: type[BaseModel]) -> tuple[str, ...]:
    annotation = fields_of(section).get("type")
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _description(key: str, holders: list[type[BaseModel]]) -> str:
    fields = [field for holder in holders for name, field in holder.model_fields.items() if key in (name, field.alias)]
    text = (fields[0].description or "" if fields else "").partition("\n")[0].rstrip(".")
    return f"a value: {text[:1].lower()}{text[1:]}" if text else "a value"


def _not_one_of(value: Any, known: list[str]) -> str:
    found = "nothing" if value is None else shown(value)
    return f"found {found}; expected one of {', '.join(known)}{did_you_mean(str(value), known)}"


def _unknown(key: str, holders: list[type[BaseModel]], model: type[BaseModel]) -> str:
    if names_a_key(key):
        return API_KEY
    meant = _meant(key, holders, model)
    if meant == key:  # unknown only here
        return "found an unknown key; this key belongs at the top level of the recipe"
    if meant is not None:
        return f"found an unknown key; did you mean '{meant}'?"
    known = [name for holder in holders for name in fields_of(holder)]
    if len(known) > 12:
        known = [*known[:12], f"... (`chemeleon recipes schema {getattr(model, 'command', '')}`)"]
    return f"found an unknown key; expected one of {', '.join(known)}"


def _meant(key: str, holders: list[type[BaseModel]], model: type[BaseModel]) -> str | None:
    """The key that was probably meant: the dotted path of the same key elsewhere in the recipe, or a similar key."""
    if names_a_key(key):
        return None
    elsewhere = (path for path in _paths(model) if path.rpartition(".")[2] == key)
    return next(elsewhere, None) or closest(key, [name for holder in holders for name in fields_of(holder)])


def _paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, annotation in fields_of(model).items():
        yield prefix + name
        sections = sections_in(annotation)
        if len(sections) == 1:
            yield from _paths(sections[0], f"{prefix}{name}.")
