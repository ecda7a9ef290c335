"""`chemeleon recipes`: the shipped recipes and the reference of their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chemeleon_cli.errors import UserError, did_you_mean
from chemeleon_cli.recipe.load import find, shipped, shipped_folder, shipped_name
from chemeleon_cli.recipe.models import RECIPES
from chemeleon_cli.recipe.schema import schema

if TYPE_CHECKING:
    from rich.console import Console


def run(action: str | None, name: str | None, console: Console) -> None:
    """List the shipped recipes, print one, or explain the keys of a command's recipe.

    Raises:
        UserError: there is no such action, recipe or command.
    """
    match action, name:
        case None, None:
            for path in shipped():
                title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
                console.out(f"{shipped_name(path):<20} {title}", highlight=False)
            console.out("\nTo copy a recipe: chemeleon recipes show NAME > mine.yaml", highlight=False)
        case "show", str():
            beside = {path.name: path for path in shipped_folder().glob("*.py")}  # classes of rewards
            path = beside[name] if name in beside else find(name)
            console.out(path.read_text(encoding="utf-8"), end="", highlight=False)
        case "schema", str():
            if name not in RECIPES:
                known = list(RECIPES)
                raise UserError(f"{name}: no such command{did_you_mean(name, known)}", f"one of: {', '.join(known)}")
            console.out(f"# chemeleon {name}: {RECIPES[name].__doc__}", highlight=False)
            for line in schema(RECIPES[name]):
                console.out(line, highlight=False)
        case _:
            raise UserError(
                " ".join(["recipes", *filter(None, (action, name))]) + ": unknown arguments",
                "chemeleon recipes, chemeleon recipes show NAME, or chemeleon recipes schema COMMAND",
            )
