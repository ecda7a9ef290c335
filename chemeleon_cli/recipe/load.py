"""From the name of a recipe to the checked recipe, and back to YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

import chemeleon_cli
from chemeleon_cli.errors import UserError, did_you_mean
from chemeleon_cli.recipe import document as documents
from chemeleon_cli.recipe.base import FindModel, Recipe
from chemeleon_cli.recipe.document import Document, Mark
from chemeleon_cli.recipe.errors import API_KEY, names_a_key, problems, renamed
from chemeleon_cli.recipe.models import RECIPES

R = TypeVar("R", bound=Recipe)


def shipped_folder() -> Path:
    """The folder of the shipped recipes: inside an installed package, next to the package in a checkout."""
    package = Path(chemeleon_cli.__file__).parent
    return package / "recipes" if (package / "recipes").is_dir() else package.parent / "recipes"


def shipped() -> list[Path]:
    """The shipped recipe files, sorted by name."""
    return sorted(shipped_folder().rglob("*.yaml"))


def shipped_name(path: Path) -> str:
    """The name of a shipped recipe: `vae`, or `starter/dng` for one in a folder."""
    return path.relative_to(shipped_folder()).with_suffix("").as_posix()


def find(name: str | Path) -> Path:
    """The file of a recipe, given by its path or by its name, which is looked up in ./recipes and then among the
    shipped recipes.

    `vae`, `vae.yaml` and `recipes/vae.yaml` all find the shipped `vae.yaml` unless the working folder has its own;
    `starter/dng` finds a shipped recipe in a folder.

    Raises:
        UserError: there is no such recipe.
    """
    path = Path(name)
    if path.is_file():
        return path
    inside = Path(*path.parts[1:]) if path.parts[:1] == ("recipes",) else path
    if inside.name and not path.is_absolute() and ".." not in path.parts and path.suffix in ("", ".yaml", ".yml"):
        for folder in (Path("recipes"), shipped_folder()):
            if (folder / inside).with_suffix(".yaml").is_file():
                return (folder / inside).with_suffix(".yaml")
    names = [shipped_name(file) for file in shipped()]
    raise UserError(
        f"{name}: no such recipe{did_you_mean(str(name).removeprefix('recipes/').removesuffix('.yaml'), names)}",
        f"give the path of a YAML file, or one of: {', '.join(names)}",
    )


def read(name: str | Path) -> Document:
    """Find and read a recipe file. Paths of custom rewards become absolute, as they are relative to the file.

    Raises:
        UserError: there is no such file, or it is not YAML.
    """
    path = find(name)
    document = documents.read(path)
    reward = document.data.get("reward")
    components = reward.get("components") if isinstance(reward, dict) else None
    for component in components if isinstance(components, list) else []:
        target = component.get("class") if isinstance(component, dict) else None
        if isinstance(target, str) and ".py:" in target:
            component["class"] = str((path.parent / target).resolve())
    return document


def load(
    name: str | Path | None,
    model: type[R],
    *,
    settings: Sequence[str] = (),
    conditions: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    reward: str | None = None,
    find_model: FindModel | None = None,
) -> R:
    """Read and check a recipe.

    Args:
        name: a path or the name of a recipe; None starts from an empty one.
        model: the class of the recipe.
        settings: `a.b=c` of each `--set`, applied in order after the file.
        conditions: `name=value` of each `--condition`, applied next; a name may contain dots, as column names may.
        options: values of options by their dotted key, applied last; None is an option that was not given.
        reward: the recipe whose `reward:` section replaces this one's; its `model` is used if this recipe has none.
        find_model: how to find checkpoints without a connection; without it, no checkpoint or data folder is checked.

    Raises:
        UserError: with every error of the recipe, a line each.
    """
    document = read(name) if name else Document()
    if reward:
        _take_reward(document, reward)
    for setting in settings:
        if names_a_key(setting):  # before anything shows the setting as it was typed
            raise UserError(f"--set: {API_KEY}")
        key, value, mark = _assignment("--set", setting, "key=value, such as training.max_steps=100")
        document.set(key, value, mark)
    for condition in conditions:
        requested, value, mark = _assignment("--condition", condition, "NAME=VALUE, such as band_gap=3.0")
        if not condition.partition("=")[2].strip():
            raise UserError(f"{mark}: found nothing after '='; expected a value, or null to leave it open")
        document.set(("conditions", requested), value, mark)
    for key, value in (options or {}).items():
        if value is not None:
            option = "FILE" if key == "file" else f"--{key.rpartition('.')[2].replace('_', '-')}"
            document.set(key, value, Mark(f"{option} {value}"))
    return check(document, model, find_model)


def check(document: Document, model: type[R], find_model: FindModel | None = None) -> R:
    """Check a document and turn it into a recipe.

    Raises:
        UserError: with every error of the recipe, a line each, in the order of the file.
    """
    found = list(document.problems)
    try:
        recipe = model.model_validate(document.data, context=find_model)
    except ValidationError as error:
        found += problems(error, document, model)
        if (meant := renamed(error, document, model)) is not None:
            try:
                model.model_validate(meant.data, context=find_model)
            except ValidationError as further:
                found += problems(further, meant, model)
    else:
        if not found:
            return recipe
    lines = dict.fromkeys(str(problem) for problem in sorted(found, key=lambda problem: problem.mark))
    raise UserError("\n".join(lines), _other_command(document, model))


def dump(recipe: Recipe) -> str:
    """The whole recipe as YAML, including defaults; `load` reads it back as the same recipe."""
    data = recipe.model_dump(mode="json", by_alias=True, serialize_as_any=True)
    return f"# chemeleon {recipe.command}, every setting\n{documents.write(data)}"


def _assignment(option: str, text: str, expected: str) -> tuple[str, Any, Mark]:
    """Name, value and mark of `--option name=value`."""
    key, equals, value = text.partition("=")
    mark = Mark(f"{option} {text}")
    if not equals:
        raise UserError(f"{mark}: found no '='; expected {expected}")
    return key.strip(), documents.parse_value(value, mark), mark


def _take_reward(document: Document, name: str) -> None:
    source = read(name)
    if "reward" not in source.data:
        raise UserError(
            f"{source.mark(())}: found no reward: section; expected one", "`chemeleon recipes show bandgap` has one"
        )
    document.graft("reward", source)
    if document.data.get("model") is None and "model" in source.data:
        document.graft("model", source)


def _other_command(document: Document, model: type[Recipe]) -> str:
    """A hint if the keys are those of another command's recipe, otherwise nothing."""
    keys = set(document.data)
    if keys <= set(model.model_fields):
        return ""
    fits = [command for command, other in RECIPES.items() if keys <= set(other.model_fields)]
    return f"this looks like a recipe for `chemeleon {fits[0]}`" if len(fits) == 1 else ""
