"""`chemeleon fetch-data`: crystals from anywhere to a data folder that every other command reads."""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemeleon_cli import __version__
from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from chemeleon_cli.recipe.models import FetchData
    from chemeleon_cli.sources.records import Record

MATERIALS_PROJECT = "materials-project"


def run(recipe: FetchData, console: Console, api_key: str | None = None, overwrite: bool = False) -> Path:
    """Read, check, split and write; the folder appears whole or not at all.

    Args:
        recipe: what to read and how to split it.
        console: where the summary goes.
        api_key: of the Materials Project; from MP_API_KEY or pymatgen's settings where it is not given.
        overwrite: replace the data folder of this name.

    Returns:
        The data folder.

    Raises:
        UserError: nothing usable in the source, or the folder is there already.
    """
    from chemeleon_cli.sources import crystals
    from chemeleon_cli.sources.files import write_lines

    folder = _target(recipe, overwrite)
    by = _split_by(recipe)
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = folder.with_name(f".{folder.name}.{os.getpid()}")
    download = folder.with_name(f".{folder.name}.download")
    making.mkdir()
    waiting = making / "waiting.jsonl"
    try:
        gathered = crystals.Gathered()
        with console.status("reading") as status:
            items = _items(recipe, by, download, api_key, console)
            for gathered in crystals.gather(items, recipe.max_atoms, waiting):
                if gathered.read % 100 == 0:
                    status.update(f"{gathered.read:,} crystals read, {len(gathered.rejected):,} rejected")
        if not gathered.rows:
            reasons = ", ".join(sorted({code for _, code, _ in gathered.rejected})) or "it is empty"
            raise UserError(f"{recipe.source}: no usable crystal in {gathered.read:,} ({reasons})", _first(gathered))
        wanted = {label: label for label in recipe.fields.values()} if _is_remote(recipe) else recipe.labels
        labels, left_out = crystals.choose_labels(gathered, wanted)
        if by == "source":
            splits = [row[3] for row in gathered.rows]
        else:
            groups = [row[1] if by == "formula" else row[0] for row in gathered.rows]
            splits = crystals.assign(groups, recipe.split.fractions, recipe.split.seed)
        manifest = {
            "name": folder.name,
            "source": recipe.source,
            "query": recipe.query,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "chemeleon": __version__,
            "licence": "CC BY 4.0" if _is_remote(recipe) else None,
            "max_atoms": recipe.max_atoms,
            "split": {"by": by, "fractions": list(recipe.split.fractions), "seed": recipe.split.seed},
            **crystals.facts(gathered, labels, splits),
            "left_out_columns": left_out,
            "files": crystals.write_tables(making, gathered, labels, splits, waiting),
        }
        waiting.unlink()
        write_lines(making / "manifest.json", [json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"])
        _put_in_place(making, folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    shutil.rmtree(download, ignore_errors=True)
    _show(manifest, folder, console)
    return folder


def _is_remote(recipe: FetchData) -> bool:
    return recipe.source == MATERIALS_PROJECT


def _items(
    recipe: FetchData, by: str, download: Path, api_key: str | None, console: Console
) -> Iterator[tuple[str, Record]]:
    """Every crystal of the source with the split it is in there, or ""."""
    from chemeleon_cli.core.paths import SPLITS, split_path
    from chemeleon_cli.sources.records import read_records

    path = Path(recipe.source).expanduser()
    if _is_remote(recipe):
        from chemeleon_cli.sources import materials_project

        records = materials_project.fetch(recipe.query, recipe.fields, download, api_key, console.print)
        yield from (("", record) for record in records)
    elif by == "source":
        for split in SPLITS:
            if table := split_path(path, split):
                yield from ((split, record) for record in read_records(table, recipe.id_column))
    else:
        yield from (("", record) for record in read_records(path, recipe.id_column))


def _split_by(recipe: FetchData) -> str:
    """How to split: a folder that is split already stays so unless the recipe says otherwise."""
    from chemeleon_cli.core.paths import split_path

    path = Path(recipe.source).expanduser()
    is_split = not _is_remote(recipe) and path.is_dir() and split_path(path, "train") is not None
    if recipe.split.by == "source" and not is_split:
        raise UserError(
            f"split.by: {recipe.source} has no splits of its own (no train.csv or train.csv.gz in it)",
            "take `by: formula` or `by: random`",
        )
    return "source" if is_split and "by" not in recipe.split.model_fields_set else recipe.split.by


def _target(recipe: FetchData, overwrite: bool) -> Path:
    """The folder to make, once it is certain that nothing is lost there."""
    from chemeleon_cli.core.paths import split_path

    source = Path(recipe.source).expanduser()
    stem = re.sub(r"(\.[A-Za-z]+)+$", "", source.resolve().name)
    name = recipe.name or re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "data"
    if "/" in name or "\\" in name or name.startswith("."):
        raise UserError(f"name: '{name}' is not the name of a folder", "take one without slashes and dots in front")
    folder = Path(recipe.out).expanduser() / name
    if source.exists() and folder.resolve() in (source.resolve(), *source.resolve().parents):
        raise UserError(f"{folder}: is where the source is", "take another `name` or `out`")
    if folder.is_dir() and not any(folder.iterdir()):
        return folder
    if folder.exists() and not overwrite:
        raise UserError(f"{folder}: is there already", "take another `name`, or --overwrite to replace it")
    if folder.exists() and not (folder / "manifest.json").is_file() and not split_path(folder, "train"):
        raise UserError(f"{folder}: is not a data folder; it is left alone", "take another `name`")
    return folder


def _put_in_place(making: Path, folder: Path) -> None:
    """Rename the finished folder to its name; what was there goes once the new one stands."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    try:
        making.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _first(gathered: Any) -> str:
    if not gathered.rejected:
        return ""
    name, code, detail = gathered.rejected[0]
    return f"the first, {name}: {code}: {detail}"


def _show(manifest: dict[str, Any], folder: Path, console: Console) -> None:
    from rich.table import Table

    counts = manifest["counts"]
    table = Table(title=f"{folder}", title_justify="left")
    for name in ("", "crystals", "mean", "std", "min", "max"):
        table.add_column(name, justify="left" if not name else "right")
    for split in ("train", "val", "test"):
        if counts[split]:
            table.add_row(split, f"{counts[split]:,}")
    for label, known in manifest["labels"].items():
        figures = [f"{known[k]:.4g}" if known[k] is not None else "" for k in ("mean", "std", "min", "max")]
        table.add_row(label, f"{known['count']:,} ({known['share_present']:.0%})", *figures)
    for code, count in manifest["rejected"].items():
        table.add_row(f"rejected: {code}", f"{count:,}")
    console.print(table)
    for column, why in manifest["left_out_columns"].items():
        console.print(f"column '{column}' is no label: {why}", highlight=False, markup=False)
    if shared := manifest["formulas_in_several_splits"]:
        console.print(f"{shared:,} of {manifest['formulas']:,} formulas are in more than one split", highlight=False)
    if renamed := manifest["renamed_ids"]:
        console.print(f"{renamed:,} ids stood for several crystals and got a number", highlight=False)
    console.print(f"{folder}: tables, manifest.json and rejected.csv", highlight=False, soft_wrap=True)
