"""README.md and docs/: the tree is the real one, and what is named (functions, commands, settings, pages) exists."""

import importlib
import re
import shlex
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel

from chemeleon_cli.app import app
from chemeleon_cli.recipe.models import RECIPES

ROOT = Path(__file__).parent.parent
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md")}
PAGES["README.md"] = (ROOT / "README.md").read_text("utf-8")
A_NAME = re.compile(r"`([\w/]+\.py:[\w.]+)`")
NAMED = sorted({name for text in PAGES.values() for name in A_NAME.findall(text)})
COMMANDS = [
    (page, command.replace("\\\n", " "))
    for page, text in sorted(PAGES.items())
    for command in re.findall(r"^    chemeleon ((?:.*\\\n)*.*)$", text, re.MULTILINE)
]


def tree() -> list[str]:
    """The files and folders in the tree of the README, as paths."""
    _, _, text = PAGES["README.md"].partition("\n    chemeleon_cli/\n")
    found, folders = [], ["chemeleon_cli/"]
    for line in text.partition("\n    recipes/")[0].splitlines():
        match = re.fullmatch(r"    ((?:  )+)([\w.]+/?) +\S.*", line)
        assert match, f"not a file with a comment: {line!r}"
        depth = len(match[1]) // 2
        path = "".join(folders[:depth]) + match[2]
        folders = [*folders[:depth], match[2]]
        found.append(path)
    return found


def test_the_tree_is_the_real_one() -> None:
    real = {path.relative_to(ROOT).as_posix() for path in (ROOT / "chemeleon_cli").rglob("*.py")}
    real = {path for path in real if not path.endswith("__init__.py")}
    shown = tree()
    assert len(shown) == len(set(shown))
    assert {path for path in shown if path.endswith(".py")} == real
    assert all((ROOT / path).is_dir() for path in shown if path.endswith("/"))


@pytest.mark.parametrize("name", NAMED)
def test_what_is_named_exists(name: str) -> None:
    file, _, attribute = name.partition(":")
    module = "chemeleon_cli." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_and_their_settings_exist(page: str, command: str) -> None:
    words = shlex.split(command, comments=True)
    group: Any = typer.main.get_command(app)
    context = group.commands[words[0]].make_context(words[0], words[1:])
    for setting in context.params.get("settings") or ():
        key = setting.partition("=")[0]
        section: Any = RECIPES[words[0]]
        for part in key.split("."):
            assert part in section.model_fields, f"{words[0]} has no setting {key}"
            section = section.model_fields[part].annotation
            section = next((a for a in (section, *get_args(section)) if is_section(a)), None)
            if section is None:  # a list, or a plain value
                break


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def test_links_lead_somewhere() -> None:
    for page, text in PAGES.items():
        for link in re.findall(r"\[[^]\n]+\]\((?!https?:)([^)\s]+)\)", text):
            path, _, anchor = link.partition("#")
            target = (ROOT / page).parent / path if path else ROOT / page
            assert target.is_file(), f"{page}: {link}"
            headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
            assert not anchor or anchor in anchors, f"{page}: {link}"
