"""The command line: one function of a few lines per command, and the only place that exits.

Nothing heavy is imported before a command runs, so `--help` is quick.
"""

import inspect
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chemeleon_cli import __version__
from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from chemeleon_cli.recipe.base import Recipe

app = typer.Typer(
    name="chemeleon",
    help="Generate crystals, and steer the generator towards what you want by reinforcement learning.",
    epilog="Where to begin: chemeleon recipes",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RECIPE = typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a shipped recipe.")
IN_RECIPE = "the recipe's"


def _recipe_command(
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, print the whole recipe, stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of every error.")] = False,
) -> None:
    """The options of every command that takes a recipe."""


def _random_command(
    seed: Annotated[int | None, typer.Option(help="Where random numbers start.", show_default=IN_RECIPE)] = None,
) -> None:
    """The option of a command that draws random numbers."""


def _model_command(
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1.", show_default=IN_RECIPE)] = None,
) -> None:
    """The option of a command that runs a model."""


def _writing_command(
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """The option of a command that writes files."""


def _training_command(
    devices: Annotated[int | None, typer.Option(help="Processes to share the work.", show_default=IN_RECIPE)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run of this name stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run of this name.")] = False,
) -> None:
    """The options of a training command."""


def _command(*shared: Callable[..., None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose `**options` are the parameters of the `shared` functions."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        parameters = [p for source in (function, *shared) for p in inspect.signature(source).parameters.values()]
        own = [p for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
        setattr(function, "__signature__", inspect.Signature(own))  # noqa: B010 (functions declare no such attribute)
        return app.command()(function)

    return register


@_command(_recipe_command, _random_command)
def fetch_data(
    recipe: Annotated[str | None, RECIPE] = None,
    source: Annotated[
        str | None,
        typer.Option(help="Your table or folder, or a set by name: materials-project, starter, mp-20, perov-5, ..."),
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="Of the Materials Project.", envvar="MP_API_KEY")] = None,
    out: Annotated[str | None, typer.Option(help="The folder of data folders.", show_default=IN_RECIPE)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the data folder of this name.")] = False,
    **options: Any,
) -> None:
    """Make a data folder: train, val and test tables. Without a source, those of the recipe fetch_mp."""
    named = source or any(setting.partition("=")[0].strip() == "source" for setting in options["settings"] or ())
    if not named:
        recipe = recipe or "fetch_mp"
    values = {"source": source, "out": out, "split.seed": options.pop("seed")}
    _run("fetch-data", recipe, options, values, api_key=api_key, overwrite=overwrite)


@_command(_recipe_command, _random_command, _model_command, _training_command)
def train_vae(recipe: Annotated[str, RECIPE], **options: Any) -> None:
    """Train the autoencoder: crystals to latents and back."""
    _run("train-vae", recipe, options)


@_command(_recipe_command, _random_command, _model_command, _training_command)
def train_ldm(recipe: Annotated[str, RECIPE], **options: Any) -> None:
    """Train the generator: diffusion in the latents of an autoencoder."""
    _run("train-ldm", recipe, options)


@_command(_recipe_command, _random_command, _model_command, _training_command)
def train_predictor(recipe: Annotated[str, RECIPE], **options: Any) -> None:
    """Train a predictor of properties on an autoencoder's encoder."""
    _run("train-predictor", recipe, options)


@_command(_recipe_command, _random_command, _model_command, _training_command)
def train_rl(recipe: Annotated[str, RECIPE], **options: Any) -> None:
    """Steer a generator towards a reward by reinforcement learning."""
    _run("train-rl", recipe, options)


@_command(_recipe_command, _random_command, _model_command, _writing_command)
def sample(
    recipe: Annotated[str, RECIPE] = "sample",
    model: Annotated[str | None, typer.Option(help="The generator.", show_default=IN_RECIPE)] = None,
    num_samples: Annotated[int | None, typer.Option("--num-samples", "-n", help="Crystals to draw.")] = None,
    out: Annotated[str | None, typer.Option(help=".cif, .extxyz, .csv, .json.gz.", show_default=IN_RECIPE)] = None,
    composition: Annotated[str | None, typer.Option(help="What every crystal is made of: SrTiO3.")] = None,
    chemical_system: Annotated[str | None, typer.Option(help="Elements to ask for: Li-Fe-P-O.")] = None,
    space_group: Annotated[int | None, typer.Option(help="Number of a space group to ask for.")] = None,
    condition: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Ask for this: band_gap=3.0; again for more.")
    ] = None,
    **options: Any,
) -> None:
    """Draw crystals from a generator."""
    asked = {"composition": composition, "chemical_system": chemical_system, "space_group": space_group}
    values = {"model": model, "num_samples": num_samples, "out": out}
    values |= {f"conditions.{name}": value for name, value in asked.items()}
    _run("sample", recipe, {**options, "conditions": condition}, values)


@_command(_recipe_command, _model_command, _writing_command)
def score(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Crystals: CIF, extxyz, CSV, json.gz, folder, zip.")],
    reward: Annotated[str | None, typer.Option(help="The recipe whose reward: section is computed.")] = None,
    reference: Annotated[str | None, typer.Option(help="A data folder, all splits, for novelty.")] = None,
    against: Annotated[str | None, typer.Option(help="Known crystals to find: a file or a data folder.")] = None,
    out: Annotated[str | None, typer.Option(help="The .csv or .parquet to write, a row per crystal.")] = None,
    **options: Any,
) -> None:
    """Judge crystals: a row for each, and a summary."""
    values = {"file": file, "reference": reference, "against": against, "out": out}
    _run("score", "score", options, values, reward)


@_command(_recipe_command, _model_command, _writing_command)
def write_hull(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Crystals: CIF, extxyz, CSV, json.gz, folder, zip.")],
    out: Annotated[str | None, typer.Option(help="The .csv.gz or .csv to write.", show_default=IN_RECIPE)] = None,
    **options: Any,
) -> None:
    """Write the energies of a set of crystals as a hull, for others to be measured by."""
    _run("write-hull", "write_hull", options, {"file": file, "out": out})


@app.command()
def import_checkpoint(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A Chemeleon2 checkpoint (.ckpt).")],
    out: Annotated[str, typer.Option(help="The folder to write.")],
    vae: Annotated[
        str | None,
        typer.Option(help="A generator's autoencoder: a .ckpt or a model's name.", show_default="if published"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the checkpoint of this name.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of every error.")] = False,
) -> None:
    """Read a checkpoint of Chemeleon2, without executing it."""
    with _exits(debug):
        import_module("chemeleon_cli.commands.import_checkpoint").run(file, out, vae, overwrite, _console())


@app.command()
def recipes(
    action: Annotated[str | None, typer.Argument(metavar="[show|schema]", help="None: list the recipes.")] = None,
    name: Annotated[str | None, typer.Argument(metavar="[NAME|COMMAND]", help="Of a recipe or a command.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of every error.")] = False,
) -> None:
    """List the shipped recipes; `show NAME` prints one, `schema COMMAND` explains every key."""
    with _exits(debug):
        import_module("chemeleon_cli.commands.recipes").run(action, name, _console())


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    _print_everything()
    if version:
        typer.echo(__version__)
        raise typer.Exit


def _print_everything() -> None:
    """Let no program stop at a character that its locale lacks, as ASCII lacks Å. Pipes and files get UTF-8, as every
    file that the program writes; a terminal gets its own encoding, with escapes for the rest."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            piped = not stream.isatty() and "PYTHONIOENCODING" not in os.environ
            stream.reconfigure(encoding="utf-8" if piped else None, errors="backslashreplace")


def _run(
    command: str,
    recipe: str | None,
    options: Mapping[str, Any],
    values: Mapping[str, Any] | None = None,
    reward: str | None = None,
    **arguments: Any,
) -> None:
    """Check the recipe of a command and run it.

    Args:
        command: as it is typed.
        recipe: name or path; None starts from an empty one.
        options: those of the `shared` functions.
        values: settings that the command's own options change, by their dotted key.
        reward: the recipe whose reward section is used.
        arguments: what the command's `run` takes besides.
    """
    with _exits(options["debug"]):
        from chemeleon_cli.recipe.base import RunOptions
        from chemeleon_cli.recipe.load import load
        from chemeleon_cli.recipe.models import RECIPES
        from chemeleon_cli.sources.checkpoints import check_model

        common = {key: options.get(key) for key in ("seed", "device", "devices")}
        checked = load(
            recipe,
            RECIPES[command],
            settings=options["settings"] or (),
            conditions=options.get("conditions") or (),
            options={**(values or {}), **common},
            reward=reward,
            find_model=check_model,
        )
        if options["dry_run"]:
            return _print_recipe(checked)
        if "resume" in options:
            arguments["options"] = RunOptions(options["resume"], options["overwrite"])
        elif "overwrite" in options:
            arguments["overwrite"] = options["overwrite"]
        run = import_module(f"chemeleon_cli.commands.{command.replace('-', '_')}").run
        run(checked, console=_console(), **arguments)


def _print_recipe(recipe: "Recipe") -> None:
    from chemeleon_cli.recipe.load import dump

    for line in recipe.warnings():
        typer.secho(f"warning: {line}", fg="yellow", err=True)
    typer.echo(dump(recipe), nl=False)


def _console() -> "Console":
    from rich.console import Console

    return Console()


@contextmanager
def _exits(debug: bool) -> Iterator[None]:
    """Turn what a person can mend into lines on stderr and exit code 2; a bug keeps its traceback, code 1."""
    try:
        yield
    except UserError as error:
        if debug:
            traceback.print_exc(file=sys.stderr)
        typer.secho(error.message, fg="red", err=True)
        if error.hint:
            typer.echo(f"hint: {error.hint}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None


if __name__ == "__main__":
    app()
