"""The command line: one short function per command, and the only place where the program exits.

Heavy packages are imported only when a command runs, so `--help` is quick.
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print the whole recipe, then stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of every error.")] = False,
) -> None:
    """The options of every command that takes a recipe."""


def _random_command(
    seed: Annotated[int | None, typer.Option(help="Seed of the random numbers.", show_default=IN_RECIPE)] = None,
) -> None:
    """The option of a command that uses random numbers."""


def _model_command(
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1.", show_default=IN_RECIPE)] = None,
) -> None:
    """The option of a command that runs a model."""


def _writing_command(
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """The option of a command that writes files."""


def _training_command(
    devices: Annotated[int | None, typer.Option(help="Number of processes.", show_default=IN_RECIPE)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run of this name.")] = False,
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
        typer.Option(help="Your table or folder, or a data set: materials-project, starter, mp-20, perov-5, ..."),
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="For the Materials Project.", envvar="MP_API_KEY")] = None,
    out: Annotated[str | None, typer.Option(help="Where to put the data folder.", show_default=IN_RECIPE)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the data folder of this name.")] = False,
    **options: Any,
) -> None:
    """Make a data folder with train, val and test tables. Without a source, use the recipe fetch_mp."""
    named = source or any(setting.partition("=")[0].strip() == "source" for setting in options["settings"] or ())
    if not named:
        recipe = recipe or "fetch_mp"
    values = {"source": source, "out": out, "split.seed": options.pop("seed")}
    _run("fetch-data", recipe, options, values, api_key=api_key, overwrite=overwrite)


@_command(_recipe_command, _random_command, _model_command, _training_command)
def train_vae(recipe: Annotated[str, RECIPE], **options: Any) -> None:
    """Train the autoencoder, which turns crystals into latents and back."""
    _run("train-vae", recipe, options)


@_command(_recipe_command, _random_command, _model_command, _training_command)
def train_ldm(recipe: Annotated[str, RECIPE], **options: Any) -> None:
    """Train the generator, a diffusion model in the latents of an autoencoder."""
    _run("train-ldm", recipe, options)


@_command(_recipe_command, _random_command, _model_command, _training_command)
def train_predictor(recipe: Annotated[str, RECIPE], **options: Any) -> None:
    """Train a property predictor on the encoder of an autoencoder."""
    _run("train-predictor", recipe, options)


@_command(_recipe_command, _random_command, _model_command, _training_command)
def train_rl(recipe: Annotated[str, RECIPE], **options: Any) -> None:
    """Steer a generator towards a reward by reinforcement learning."""
    _run("train-rl", recipe, options)


@_command(_recipe_command, _random_command, _model_command, _writing_command)
def sample(
    recipe: Annotated[str, RECIPE] = "sample",
    model: Annotated[str | None, typer.Option(help="The generator.", show_default=IN_RECIPE)] = None,
    num_samples: Annotated[int | None, typer.Option("--num-samples", "-n", help="Number of crystals.")] = None,
    out: Annotated[str | None, typer.Option(help=".cif, .extxyz, .csv or .json.gz.", show_default=IN_RECIPE)] = None,
    composition: Annotated[str | None, typer.Option(help="Composition of every crystal: SrTiO3.")] = None,
    chemical_system: Annotated[str | None, typer.Option(help="Elements to ask for: Li-Fe-P-O.")] = None,
    space_group: Annotated[int | None, typer.Option(help="Number of a space group to ask for.")] = None,
    condition: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Condition to ask for: band_gap=3.0; repeatable.")
    ] = None,
    **options: Any,
) -> None:
    """Sample crystals from a generator."""
    requested = {"composition": composition, "chemical_system": chemical_system, "space_group": space_group}
    values = {"model": model, "num_samples": num_samples, "out": out}
    values |= {f"conditions.{name}": value for name, value in requested.items()}
    _run("sample", recipe, {**options, "conditions": condition}, values)


@_command(_recipe_command, _model_command, _writing_command)
def score(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Crystals: CIF, extxyz, CSV, json.gz, folder, zip.")],
    reward: Annotated[str | None, typer.Option(help="A recipe, whose rewards are computed.")] = None,
    reference: Annotated[str | None, typer.Option(help="Data folder that novelty is measured against.")] = None,
    against: Annotated[str | None, typer.Option(help="Known crystals to look for: file or data folder.")] = None,
    out: Annotated[str | None, typer.Option(help="Table to write, a row per crystal: .csv, .parquet.")] = None,
    **options: Any,
) -> None:
    """Score crystals: write a table with a row for each, and a summary."""
    values = {"file": file, "reference": reference, "against": against, "out": out}
    _run("score", "score", options, values, reward)


@_command(_recipe_command, _model_command, _writing_command)
def write_hull(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Crystals: CIF, extxyz, CSV, json.gz, folder, zip.")],
    out: Annotated[str | None, typer.Option(help="Table to write: .csv.gz, .csv.", show_default=IN_RECIPE)] = None,
    **options: Any,
) -> None:
    """Write the energies of a set of crystals as the reference of a convex hull."""
    _run("write-hull", "write_hull", options, {"file": file, "out": out})


@app.command()
def import_checkpoint(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A Chemeleon2 checkpoint (.ckpt).")],
    out: Annotated[str, typer.Option(help="The folder to write.")],
    vae: Annotated[
        str | None,
        typer.Option(help="The generator's autoencoder: .ckpt or model name.", show_default="if published"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing checkpoint.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of every error.")] = False,
) -> None:
    """Convert a Chemeleon2 checkpoint, without executing code from it."""
    with _exits(debug):
        import_module("chemeleon_cli.commands.import_checkpoint").run(file, out, vae, overwrite, _console())


@app.command()
def recipes(
    action: Annotated[str | None, typer.Argument(metavar="[show|schema]", help="Omit it to list the recipes.")] = None,
    name: Annotated[str | None, typer.Argument(metavar="[NAME|COMMAND]", help="A recipe or a command.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of every error.")] = False,
) -> None:
    """List the shipped recipes; `show NAME` prints one, `schema COMMAND` explains all keys of a command's recipe."""
    with _exits(debug):
        import_module("chemeleon_cli.commands.recipes").run(action, name, _console())


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    _print_everything()
    if version:
        typer.echo(__version__)
        raise typer.Exit


def _print_everything() -> None:
    """Prevent errors from characters that the locale cannot encode, such as Å in ASCII: pipes and files get UTF-8, and
    a terminal gets escapes for the characters that its encoding lacks."""
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
        command: its name on the command line.
        recipe: name or path; None starts from an empty one.
        options: the values of the options that the `shared` functions declare.
        values: settings that the command's own options change, by their dotted key.
        reward: the recipe whose reward section is used.
        arguments: further arguments of the command's `run`.
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
    """Turn a `UserError` into lines on stderr and exit code 2; a bug keeps its traceback and exits with 1."""
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
