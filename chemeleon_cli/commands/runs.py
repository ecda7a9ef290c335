"""What every training command does before and after its training loop: devices, ranks, run folder and records."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import re
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemeleon_cli import __version__
from chemeleon_cli.core.machine import processors
from chemeleon_cli.core.paths import check_writable, texts_in, writable
from chemeleon_cli.core.training.ranks import on_first_rank
from chemeleon_cli.errors import UserError

VALIDATION_LIMIT = 5000
"""Largest number of crystals used in a validation."""
RECORD = "run.json"
"""The file that marks a folder as a run."""
NAMED = 10
"""Number of skipped rows that are named for each reason."""
RANKS_WAIT = datetime.timedelta(days=1)
"""How long ranks wait for the one that scores, which may take an hour per step if crystals are relaxed."""

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric
    from rich.console import Console

    from chemeleon_cli.core.data.dataset import Table
    from chemeleon_cli.core.training.metrics_file import Logger
    from chemeleon_cli.core.training.trainer import Run
    from chemeleon_cli.recipe.base import RunOptions, RunRecipe


def launch(recipe: RunRecipe, console: Console) -> Fabric:
    """Start the ranks; from here on, only the first one prints.

    Raises:
        UserError: there is no such device, or no such logger.
    """
    if recipe.logger is not None and importlib.util.find_spec("wandb") is None:
        hint = "pip install 'chemeleon-cli[wandb]', or --set logger=null"
        raise UserError("logger: wandb is not installed", hint)
    fabric = make_fabric(recipe.device, recipe.devices)
    console.quiet = not fabric.is_global_zero
    for warning in recipe.warnings():
        console.print(f"[yellow]warning[/]: {warning}", highlight=False)
    return fabric


def open_folder(
    recipe: RunRecipe, options: RunOptions, fabric: Fabric, meta: Mapping[str, Any]
) -> tuple[Path, Logger | None]:
    """Make the run folder with its records, and the logger if the recipe asks for one.

    To be called when everything that the run needs is loaded, so that a mistake leaves no folder behind.

    Args:
        recipe: the recipe of the run.
        options: whether the run resumes or replaces an existing one.
        fabric: the launched Fabric.
        meta: the meta of the run's checkpoints, see `describe`.

    Raises:
        UserError: on every rank, if the folder already contains a run, if it contains none to resume, or if it contains
            something that the run uses.
    """
    folder = Path(recipe.output) / recipe.name

    def prepare() -> None:
        with writable(str(folder)):
            _prepare(folder, recipe, options, str(fabric.device), meta)

    on_first_rank(fabric, prepare)
    return folder, _logger(recipe, folder) if fabric.is_global_zero else None


def check_folder(recipe: RunRecipe, options: RunOptions, fabric: Fabric, meta: Mapping[str, Any]) -> None:
    """Raise the errors of `open_folder` without changing anything, for a run that opens its folder only later.

    Raises:
        UserError: as `open_folder`.
    """
    folder = Path(recipe.output) / recipe.name

    def check() -> None:
        check_writable(folder / RECORD, overwrite=True)
        _check(folder, options, meta)

    on_first_rank(fabric, check)


def find_device(device: str, devices: int = 1) -> torch.device:
    """The device of this name, the first of several. Imports only torch, for commands that do not train.

    Raises:
        UserError: there is no such device.
    """
    import torch

    kind, _, index = device.partition(":")
    if index and devices > 1:
        raise UserError(f"device {device} is one device, but devices is {devices}", "use --device cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: this machine has no usable GPU", "use --device cpu or auto")
    available = torch.cuda.device_count()
    if kind == "cuda" and max(devices, int(index or 0) + 1) > available:
        raise UserError(f"device {device}, devices {devices}: this machine has {available} GPUs", "ask for fewer")
    if kind == "cuda" or (kind == "auto" and torch.cuda.is_available()):
        return torch.device("cuda", int(index or 0))
    return torch.device("cpu")


def make_fabric(device: str = "auto", devices: int = 1) -> Fabric:
    """A launched Fabric with one process per device; several devices use torch.distributed.

    Raises:
        UserError: there is no such device.
    """
    import torch

    found = find_device(device, devices)
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    if found.type == "cpu" and devices > 1:
        torch.set_num_threads(max(1, processors() // devices))
    # on a GPU, Fabric would advise at every start to call a function of torch, which a user cannot do
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=found.type,
        devices=[found.index] if ":" in device else devices,
        strategy=DDPStrategy(timeout=RANKS_WAIT) if devices > 1 else "auto",
    )
    fabric.launch()
    return fabric


def load_data(
    path: str, max_atoms: int | None, console: Console, thirds: Sequence[int] | None = None
) -> tuple[Table, Table]:
    """The train and val tables of a data folder; prints what was rejected.

    Only the chosen `thirds` of the formulas of train are kept. A large val split is reduced to a fixed sample, so that
    validation is cheap compared with training.

    Raises:
        UserError: one of the tables is missing or empty.
    """
    from chemeleon_cli.core.data.dataset import load_split, of_thirds

    tables = []
    for split in ("train", "val"):
        table = load_split(path, split, max_atoms)
        if table is None:
            raise UserError(f"{path}: no {split}.csv(.gz)", "make the data folder with chemeleon fetch-data")
        tables.append(table)
        console.print(f"{split}: {len(table)} crystals from {table.path}", highlight=False)
        print_skipped(table.rejected, console)
    train, val = tables
    if thirds is not None:
        train = of_thirds(train, thirds)
        console.print(f"train, thirds {list(thirds)} of the formulas: {len(train)} crystals", highlight=False)
    if len(val) > VALIDATION_LIMIT:
        console.print(f"validation uses {VALIDATION_LIMIT} of them", highlight=False)
        val = at_most(val, VALIDATION_LIMIT)
    return train, val


def print_skipped(rejected: Sequence[tuple[str, str]], console: Console) -> None:
    """Print how many rows of a table are not used, and by reason the first of them."""
    names = defaultdict(list)
    for name, reason in rejected:
        names[reason].append(name)
    if rejected:
        console.print(f"  [yellow]{len(rejected)} rows skipped[/]:", highlight=False)
    for reason, skipped in names.items():
        more = f" and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
        text = f"    {reason}: {', '.join(skipped[:NAMED])}{more}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def at_most(table: Table, count: int) -> Table:
    """The table, or `count` random rows of a larger one, always the same."""
    import torch

    if len(table) <= count:
        return table
    return table.select(torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:count])


def resume(training: Run, recipe: RunRecipe) -> None:
    """Resume a run from its last checkpoint, and save the recipe that it continues with.

    Raises:
        UserError: as `Run.resume`; the record of the run is then unchanged.
    """
    training.resume()
    if training.fabric.is_global_zero:
        _write_recipe(training.folder, recipe)


def describe(recipe: RunRecipe, data: Mapping[str, Any], parents: list[dict[str, Any]]) -> dict[str, Any]:
    """The meta of a run's checkpoints: data, parents, recipe and version."""
    return {
        "data": dict(data),
        "parents": parents,
        "recipe": {"command": recipe.command, **recipe.model_dump(mode="json", by_alias=True)},
        "chemeleon": __version__,
    }


def print_validation(step: int, run: Run, metrics: Mapping[str, float], improved: bool, console: Console) -> None:
    """Print one line with the metrics of a validation."""
    text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    mark = " [green]best[/]" if improved else ""
    console.print(f"step {step:>6}  {run.minutes():6.1f} min  {text}{mark}", highlight=False, soft_wrap=True)


def finish(folder: Path, results: Mapping[str, Any], console: Console) -> None:
    """Write the final results to the run folder, and print where everything is."""
    from chemeleon_cli.core.training.checkpoint import json_text

    (folder / "results.json").write_text(json_text(results), encoding="utf-8")
    console.print(f"checkpoints, metrics.csv and results.json are in {folder}", highlight=False)


def _check(folder: Path, options: RunOptions, meta: Mapping[str, Any]) -> None:
    """Check that the folder can be used for the run.

    Raises:
        UserError: it cannot.
    """
    if options.resume and options.overwrite:
        raise UserError("--resume continues a run and --overwrite replaces it: give only one of them")
    if options.resume:
        if not (folder / RECORD).is_file():
            raise UserError(f"{folder}: no run to resume", "leave out --resume to start it")
        return
    if folder.exists() and any(folder.iterdir()):
        if not options.overwrite:
            hint = "--resume continues it, --overwrite replaces it, --set name=NAME keeps both"
            raise UserError(f"{folder}: already contains a run", hint)
        if not (folder / RECORD).is_file():
            raise UserError(f"{folder}: neither empty nor a run; it is left unchanged", "use another --set name=NAME")
        _check_unused(folder, meta)


def _prepare(folder: Path, recipe: RunRecipe, options: RunOptions, device: str, meta: Mapping[str, Any]) -> None:
    _check(folder, options, meta)
    if options.resume:
        return
    if folder.exists() and any(folder.iterdir()):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_recipe(folder, recipe)
    packages = ("torch", "pymatgen", "lightning-fabric", "safetensors")
    record = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": recipe.command,
        "seed": recipe.seed,
        "device": device,
        "devices": recipe.devices,
        "python": platform.python_version(),
        "chemeleon": __version__,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "data": {key: meta["data"].get(key) for key in ("path", "count", "sha256")},
        "parents": meta["parents"],
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _check_unused(folder: Path, meta: Mapping[str, Any]) -> None:
    """Refuse to replace a folder that contains a model, data or another file that the new run uses."""
    own = {"name", "output", "command"}
    values = [value for key, value in meta["recipe"].items() if key not in own]
    for used in texts_in([values, meta["parents"], meta["data"].get("path")]):
        path = os.path.expanduser(used)
        if os.path.exists(path) and Path(path).resolve().is_relative_to(folder.resolve()):
            hint = "use another --set name=NAME"
            raise UserError(f"{folder}: contains {used}, which this run uses; it is left unchanged", hint)


def _write_recipe(folder: Path, recipe: RunRecipe) -> None:
    from chemeleon_cli.recipe.load import dump

    (folder / "recipe.yaml").write_text(dump(recipe), encoding="utf-8")


def _logger(recipe: RunRecipe, folder: Path) -> Logger | None:
    if recipe.logger is None:
        return None
    import wandb  # type: ignore[import-not-found]

    section = recipe.logger
    started = json.loads((folder / RECORD).read_text(encoding="utf-8"))["started"]
    return wandb.init(  # type: ignore[return-value]
        project=section.project,
        name=section.name or recipe.name,
        mode=section.mode,
        dir=folder,
        config=recipe.model_dump(mode="json"),
        id=re.sub(r"\W", "-", f"{recipe.name}-{started}"),  # continued by a resumed run, not by a new one
        resume="allow",
    )
