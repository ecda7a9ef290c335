"""A recipe file as plain data, with the line of each value.

YAML is read with the scalars of YAML 1.2: `1e-4` is a number, `no` and `2024-01-01` are strings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import yaml

from chemeleon_cli.errors import UserError

Loc = tuple[str | int, ...]

_SCALARS = {
    "null": (re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    "bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    "int": (re.compile(r"[-+]?[0-9]+"), list("-+0123456789")),
    "float": (
        re.compile(
            r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
        ),
        list("-+.0123456789"),
    ),
}
LONGEST = 80
"""The number of characters of a value that a message shows."""
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict] = {}


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: ClassVar[dict] = {}

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


for _name, (_pattern, _first) in _SCALARS.items():
    _anchored = re.compile(rf"(?:{_pattern.pattern})\Z")
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, _anchored, _first)


class Mark(NamedTuple):
    """The place of a value: a file and its line, or an option of the command line (line 0)."""

    name: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.name}:{self.line}" if self.line else self.name


class Problem(NamedTuple):
    """One mistake in a recipe."""

    mark: Mark
    loc: Loc
    text: str

    def __str__(self) -> str:
        key = ".".join(map(str, self.loc))
        return f"{self.mark}: {key}: {self.text}" if key else f"{self.mark}: {self.text}"


@dataclass
class Document:
    """The values of a recipe and the places they come from.

    Attributes:
        data: the plain values: dicts with string keys, lists, and scalars.
        marks: the place of each value, by its path of keys.
        problems: mistakes that were found while reading.
    """

    data: dict[str, Any] = field(default_factory=dict)
    marks: dict[Loc, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def mark(self, loc: Loc) -> Mark:
        """The place of the value at `loc`, or of its section if the value is not in the recipe."""
        for end in range(len(loc), -1, -1):
            if loc[:end] in self.marks:
                return self.marks[loc[:end]]
        return Mark("command line")

    def set(self, key: str | tuple[str, ...], value: Any, mark: Mark) -> None:
        """Set the value of a dotted key such as `reward.components.0.weight`; a list can grow by one item.

        Args:
            key: the dotted key, or its parts if one of them may contain a dot.
            value: the new value.
            mark: the place that the value comes from.

        Raises:
            UserError: a part of the key is not in a section or list, or is past the end of a list.
        """
        *parents, last = key.split(".") if isinstance(key, str) else key
        node: Any = self.data
        path: list[str | int] = []
        for part in parents:
            step = _step(node, part, path, mark)
            if isinstance(node, list) and step == len(node):
                node.append({})
            elif isinstance(node, dict) and node.get(step) is None:
                node[step] = {}
            node = node[step]
            path.append(step)
        step = _step(node, last, path, mark)
        if isinstance(node, list) and step == len(node):
            node.append(value)
        else:
            node[step] = value
        self._remark((*path, step), mark)

    def graft(self, key: str, other: Document) -> None:
        """Replace the top-level section `key` by that of another document."""
        self.data[key] = other.data[key]
        self._remark((key,), other.mark((key,)))
        self.marks.update({loc: mark for loc, mark in other.marks.items() if loc[:1] == (key,)})
        self.problems = [problem for problem in self.problems if problem.loc[:1] != (key,)]
        self.problems += [problem for problem in other.problems if problem.loc[:1] == (key,)]

    def _remark(self, loc: Loc, mark: Mark) -> None:
        self.marks = {old: place for old, place in self.marks.items() if old[: len(loc)] != loc}
        self.marks[loc] = mark


def _step(node: Any, part: str, path: list[str | int], mark: Mark) -> Any:
    """The key or index in `node` that `part` of a dotted key names."""
    where = ".".join(map(str, path)) or "recipe"
    if isinstance(node, list):
        if not part.isdecimal() or int(part) > len(node):
            raise UserError(f"{mark}: {where}: found index '{part}'; expected 0 to {len(node)}")
        return int(part)
    if not isinstance(node, dict):
        raise UserError(f"{mark}: {where}: found {shown(node)}; expected a section that can hold '{part}'")
    if not part:
        raise UserError(f"{mark}: found an empty key; expected one such as training.max_steps")
    return part


def shown(value: Any) -> str:
    """A value as an error message shows it: strings in quotes, containers as "a section" or "a list"."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def read(path: Path) -> Document:
    """Read a recipe file.

    Raises:
        UserError: the file cannot be read or is not YAML; the message starts with `file:line`.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        text = ", ".join(part for part in (error.context, error.problem) if part)
        raise UserError(f"{path}{line}: not YAML: {text}", "each line is `key: value`, indented with spaces") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: found text that is not UTF-8", "save the file as UTF-8") from None
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    document = Document(marks={(): Mark(str(path), 1)})
    if node is None:
        return document
    data = _build(node, (), str(path), document)
    if not isinstance(data, dict):
        raise UserError(f"{path}:1: found {shown(data)}; expected lines of `key: value`")
    document.data = data
    return document


def parse_value(text: str, mark: Mark) -> Any:
    """The value of `--set key=text`, read as YAML: `1e-4`, `null`, `[1, 2]`, `{type: wandb}` or a string.

    Raises:
        UserError: it is not YAML.
    """
    document = Document()
    try:
        node = yaml.compose(text, Loader=_Loader)
        value = None if node is None else _build(node, (), str(mark), document)
    except yaml.YAMLError:
        raise UserError(f"{mark}: found {text!r}; expected a YAML value", "put it in quotes") from None
    if document.problems:
        raise UserError(f"{mark}: {document.problems[0].text}")
    return value


def write(data: dict[str, Any]) -> str:
    """The data as YAML text, which `read` turns into the same data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _build(node: yaml.Node, loc: Loc, name: str, document: Document, above: tuple[yaml.Node, ...] = ()) -> Any:
    """The plain value of a YAML node; records the line of every value inside it, and all problems.

    Args:
        node: the node to read.
        loc: its path of keys.
        name: the name of the file.
        document: where lines and problems are recorded.
        above: the nodes that contain this one, to detect an alias of one of them.
    """

    def child(key: str | int, start: yaml.Node, value: yaml.Node) -> Any:
        document.marks[(*loc, key)] = Mark(name, start.start_mark.line + 1)
        return _build(value, (*loc, key), name, document, (*above, node))

    if node in above:
        text = "found an alias of a section that contains it; expected a plain value"
        document.problems.append(Problem(document.mark(loc), loc, text))
        return None
    if isinstance(node, yaml.SequenceNode):
        return [child(index, item, item) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in data:
                first = document.marks[(*loc, key)].line
                text = f"found a second time; expected once (it is first in line {first})"
                document.problems.append(Problem(Mark(name, key_node.start_mark.line + 1), (*loc, key), text))
            else:
                data[key] = child(key, key_node, value_node)
        return data
    match node.tag.removeprefix(_TAG):
        case "null":
            return None
        case "bool":
            return node.value.lower() == "true"
        case "int":
            return int(node.value)
        case "float":
            return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))
        case "str":
            return node.value
    document.problems.append(Problem(document.mark(loc), loc, f"found the tag {node.tag}; expected a plain value"))
    return node.value
