"""`chemeleon fetch-data`: crystals from anywhere to a data folder that every other command reads."""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemeleon_cli import __version__
from chemeleon_cli.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from chemeleon_cli.recipe.models import FetchData
    from chemeleon_cli.sources.crystals import Gathered
    from chemeleon_cli.sources.records import Record

TABLES = ("train.csv.gz", "val.csv.gz", "test.csv.gz")
LICENCE = "CC BY 4.0"
"""Of the Materials Project (https://next-gen.materialsproject.org/about/terms)."""


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
    from chemeleon_cli.sources import crystals, picture
    from chemeleon_cli.sources.files import write_lines
    from chemeleon_cli.sources.labels import LabelTable

    folder = _target(recipe, overwrite)
    by = _split_by(recipe)
    table = LabelTable(recipe.labels_file, recipe.id_column) if recipe.labels_file else None
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = folder.with_name(f".{folder.name}.{os.getpid()}")
    download = folder.with_name(f".{folder.name}.download")
    making.mkdir()
    waiting = making / "waiting.jsonl"
    try:
        items = _items(recipe, by, download, api_key, console)
        gathered = _gather(table.join(items) if table else items, recipe, waiting, console)
        labels, left_out = crystals.choose_labels(gathered, _wanted(recipe, gathered))
        if by == "source":
            splits = [row[3] for row in gathered.rows]
        else:
            groups = [row[1] if by == "formula" else row[0] for row in gathered.rows]
            splits = crystals.assign(groups, recipe.split.fractions, recipe.split.seed)
        manifest = {
            "name": folder.name,
            **_origin(recipe),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "chemeleon": __version__,
            "max_atoms": recipe.max_atoms,
            "split": {"by": by, "fractions": list(recipe.split.fractions), "seed": recipe.split.seed},
            **crystals.facts(gathered, labels, splits),
            "labels_file": table.summary() if table else None,
            "left_out_columns": left_out,
            "files": crystals.write_tables(making, gathered, labels, splits, waiting),
        }
        waiting.unlink()
        if recipe.entries:
            elements = sorted(gathered.elements)
            manifest["files"] |= _write_hull(recipe.entries, elements, making, download, api_key, console)
        picture.draw(making / "picture.png", manifest, labels)
        write_lines(making / "manifest.json", [json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"])
        _put_in_place(making, folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    shutil.rmtree(download, ignore_errors=True)
    _show(manifest, folder, console)
    return folder


def _is_remote(recipe: FetchData) -> bool:
    from chemeleon_cli.recipe.models import MATERIALS_PROJECT

    return recipe.source == MATERIALS_PROJECT


def _wanted(recipe: FetchData, gathered: Gathered) -> dict[str, str]:
    """Column: name of the label. Of the Materials Project there are no columns but those that were asked for."""
    if not _is_remote(recipe):
        return recipe.labels
    numbers = (column for column in gathered.labels if column not in gathered.words)
    return {column: column for column in (*recipe.fields.values(), *numbers)}


def _items(
    recipe: FetchData, by: str, download: Path, api_key: str | None, console: Console
) -> Iterator[tuple[str, Record]]:
    """Every crystal of the source with the split it is in there, or ""."""
    from chemeleon_cli.sources import materials_project, published, records

    path = Path(recipe.source).expanduser()
    if _is_remote(recipe):
        found = materials_project.fetch(recipe.query, recipe.fields, download, api_key, console.print)
        return (("", record) for record in found)
    if recipe.source in published.NAMES:
        return published.read_set(recipe.source, console.print)
    if not path.exists() and (hint := did_you_mean(recipe.source, published.NAMES, "")):
        raise UserError(f"{recipe.source}: no such file or folder, and no set of that name", hint)
    if by == "source":
        return records.read_splits(path, recipe.id_column)
    return (("", record) for record in records.read_records(path, recipe.id_column))


def _gather(items: Iterator[tuple[str, Record]], recipe: FetchData, waiting: Path, console: Console) -> Gathered:
    """Examine everything, with progress.

    Raises:
        UserError: no crystal of the source can be used.
    """
    from chemeleon_cli.sources import crystals

    gathered = crystals.Gathered()
    start = time.monotonic()
    with console.status("reading") as status:
        for gathered in crystals.gather(items, recipe.max_atoms, waiting):
            if gathered.read % 100 == 0:
                status.update(f"{gathered.read:,} crystals read, {len(gathered.rejected):,} rejected")
    if not gathered.rows:
        reasons = ", ".join(sorted({code for _, code, _ in gathered.rejected})) or "it is empty"
        raise UserError(f"{recipe.source}: no usable crystal in {gathered.read:,} ({reasons})", _first(gathered))
    seconds = time.monotonic() - start
    rate = f"{gathered.read / seconds:,.0f} per second" if seconds > 0 else ""
    console.print(f"{gathered.read:,} crystals in {seconds:,.0f} s, {rate}", highlight=False)
    return gathered


def _origin(recipe: FetchData) -> dict[str, Any]:
    """Where the crystals are from, for the manifest."""
    from chemeleon_cli.core.paths import file_sha256
    from chemeleon_cli.sources import published

    origin = {"source": recipe.source, "query": recipe.query, "licence": None, "credit": None, "source_files": {}}
    path = Path(recipe.source).expanduser()
    if _is_remote(recipe):
        return origin | {"licence": LICENCE, "credit": "Jain et al., APL Materials 1, 011002 (2013)"}
    if recipe.source in published.NAMES:
        origin |= published.terms(recipe.source) | {"source_files": published.provenance(recipe.source)}
    elif path.is_file():
        origin["source_files"] = {path.name: {"sha256": file_sha256(path)}}
    return origin


def _write_hull(
    kind: str, elements: list[str], folder: Path, download: Path, api_key: str | None, console: Console
) -> dict[str, dict[str, Any]]:
    """Write the table that energies above the hull are measured by; returns rows and sha256 by file name."""
    from chemeleon_cli.core.hull import Hull, manifest_path
    from chemeleon_cli.core.paths import file_sha256
    from chemeleon_cli.recipe.models import MATERIALS_PROJECT
    from chemeleon_cli.sources import materials_project

    entries = materials_project.hull_entries(elements, kind, download / "hull", api_key, console.print)
    ids, formulas, energies = zip(*entries, strict=True)
    scale = materials_project.ENERGIES[kind][1]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    path = folder / "hull.csv.gz"
    about = Hull.from_entries(formulas, energies, ids, MATERIALS_PROJECT, scale, today).write(path)
    beside = manifest_path(path)
    return {path.name: {"rows": about.count, "sha256": about.sha256}, beside.name: {"sha256": file_sha256(beside)}}


def _split_by(recipe: FetchData) -> str:
    """How to split: what is split already stays so unless the recipe says otherwise."""
    from chemeleon_cli.core.paths import split_path
    from chemeleon_cli.sources.published import NAMES

    if _is_remote(recipe) and recipe.split.by == "source":
        raise UserError("split.by: materials-project has no splits of its own", "take `by: formula` or `by: random`")
    is_split = recipe.source in NAMES or split_path(recipe.source, "train") is not None
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
    if joined := manifest["labels_file"]:
        console.print(
            f"{joined['name']}: {joined['rows']:,} rows; {joined['crystals_without_row']:,} crystals have none, "
            f"{joined['rows_without_crystal']:,} rows have no crystal",
            highlight=False,
            markup=False,
        )
    if shared := manifest["formulas_in_several_splits"]:
        console.print(f"{shared:,} of {manifest['formulas']:,} formulas are in more than one split", highlight=False)
    if renamed := manifest["renamed_ids"]:
        console.print(f"{renamed:,} ids stood for several crystals and got a number", highlight=False)
    others = ["manifest.json", "picture.png", *(name for name in manifest["files"] if name not in TABLES)]
    console.print(f"{folder}: tables, {', '.join(others)}", highlight=False, soft_wrap=True)
