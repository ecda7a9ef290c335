"""`chemeleon fetch-data`: crystals from anywhere to a data folder that every other command reads."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from chemeleon_cli import __version__
from chemeleon_cli.core.paths import SPLITS, writable
from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from chemeleon_cli.recipe.data import FetchData
    from chemeleon_cli.sources.crystals import Gathered
    from chemeleon_cli.sources.records import Record

TABLES = tuple(f"{split}.csv.gz" for split in SPLITS)
LICENCE = "CC BY 4.0"
"""Of the Materials Project (https://next-gen.materialsproject.org/about/terms)."""
MANY_FILES = 100
"""More files of a folder are not listed one by one in the manifest."""


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
    from chemeleon_cli.sources.streams import path_of

    source = path_of(recipe.source)
    folder = _target(recipe, source, overwrite)
    by = _split_by(recipe, source)
    say = functools.partial(console.print, highlight=False, markup=False)
    table = LabelTable(recipe.labels_file, recipe.id_column) if recipe.labels_file else None
    download = folder.with_name(f".{folder.name}.download")
    with writable(str(folder)), _beside(folder) as scratch:
        making, waiting = scratch / folder.name, scratch / "waiting.jsonl"
        making.mkdir()
        items = _items(recipe, source, by, download, api_key, say)
        items = table.join(items) if table else items
        gathered = _gather(items, recipe, waiting, making / "rejected.csv", console)
        wanted = _wanted(recipe, gathered)
        labels, left_out = crystals.choose_labels(gathered, wanted)
        left_out |= {column: "holds no number" for column in recipe.fields.values() if column not in labels}
        if by == "source":
            splits = [row[3] for row in gathered.rows]
        else:
            groups = [row[1] if by == "formula" else row[0] for row in gathered.rows]
            splits = crystals.assign(groups, recipe.split.fractions, recipe.split.seed)
        drawn = {"fractions": list(recipe.split.fractions), "seed": recipe.split.seed}
        manifest = {
            "name": folder.name,
            **_origin(recipe, source),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "chemeleon": __version__,
            "max_atoms": recipe.max_atoms,
            "split": {"by": by} if by == "source" else {"by": by, **drawn},
            **crystals.facts(gathered, labels, splits),
            "labels_file": table.summary() if table else None,
            "left_out_columns": left_out,
            "not_numbers": {column: why for column in wanted if (why := gathered.not_numbers(column))},
            "energy_scale": None,
            "files": crystals.write_tables(making, gathered, labels, splits, waiting),
        }
        if recipe.entries:
            elements = sorted(gathered.elements)
            scale, made = _write_hull(recipe.entries, elements, making, download, api_key, say)
            manifest["energy_scale"] = scale
            manifest["files"] |= made
        write_lines(making / "manifest.json", [json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"])
        _put_in_place(making, folder, scratch.with_name(f"{scratch.name}.old"))
    shutil.rmtree(download, ignore_errors=True)
    _show(manifest, folder, console)
    with writable(str(folder)):
        picture.draw(folder / "picture.png", manifest, labels)  # last: if it fails, nothing else is lost
    return folder


def _is_remote(recipe: FetchData) -> bool:
    from chemeleon_cli.recipe.data import MATERIALS_PROJECT

    return recipe.source == MATERIALS_PROJECT


def _wanted(recipe: FetchData, gathered: Gathered) -> dict[str, str]:
    """Column: name of the label. Of the Materials Project there are no columns but those that were asked for."""
    if not _is_remote(recipe):
        return recipe.labels
    numbers = (column for column in gathered.labels if column not in gathered.words)
    found = (column for column in (*recipe.fields.values(), *numbers) if gathered.has_number(column))
    return {column: column for column in found}


def _items(
    recipe: FetchData, path: Path, by: str, download: Path, api_key: str | None, say: Callable[[str], object]
) -> Iterator[tuple[str, Record]]:
    """Every crystal of the source with the split it is in there, or ""."""
    from chemeleon_cli.sources import materials_project, published, records

    if _is_remote(recipe):
        found = materials_project.fetch(recipe.query, recipe.fields, download, api_key, say)
        return (("", record) for record in found)
    if recipe.source in published.NAMES:
        return published.read_set(recipe.source, say)
    if by == "source":
        return records.read_splits(path, recipe.id_column)
    return (("", record) for record in records.read_records(path, recipe.id_column))


def _gather(
    items: Iterator[tuple[str, Record]], recipe: FetchData, waiting: Path, rejected: Path, console: Console
) -> Gathered:
    """Examine everything, with progress.

    Raises:
        UserError: no crystal of the source can be used.
    """
    from chemeleon_cli.sources import crystals

    gathered = crystals.Gathered()
    start = time.monotonic()
    with console.status("reading") as status:
        for gathered in crystals.gather(items, recipe.max_atoms, waiting, rejected):
            if gathered.read % 100 == 0:
                status.update(f"{gathered.read:,} crystals read, {gathered.rejected.total():,} rejected")
    if not gathered.rows:
        reasons = ", ".join(sorted(gathered.rejected)) or "it is empty"
        first = f"the first, {gathered.first_rejected}" if gathered.read else ""
        raise UserError(f"{recipe.source}: no usable crystal in {gathered.read:,} ({reasons})", first)
    seconds = time.monotonic() - start
    rate = f"{gathered.read / seconds:,.0f} per second" if seconds > 0 else ""
    console.print(f"{gathered.read:,} crystals in {seconds:,.0f} s, {rate}", highlight=False)
    return gathered


def _origin(recipe: FetchData, path: Path) -> dict[str, Any]:
    """Where the crystals are from and what their columns were called there, for the manifest."""
    from chemeleon_cli.sources import published, streams

    origin = {
        "source": recipe.source,
        "query": recipe.query,
        "columns": {**recipe.fields, **recipe.labels},
        "licence": None,
        "credit": None,
        "source_files": {},
        "left_out_files": {},
    }
    if _is_remote(recipe):
        return origin | {"licence": LICENCE, "credit": "Jain et al., APL Materials 1, 011002 (2013)"}
    if recipe.source in published.NAMES:
        origin["columns"] = {**published.columns_of(recipe.source), **recipe.labels}
        return origin | published.terms(recipe.source) | {"source_files": published.provenance(recipe.source)}
    return origin | {"source_files": _hashes(path), "left_out_files": dict(sorted(streams.left_out(path).items()))}


def _hashes(path: Path) -> dict[str, dict[str, Any]]:
    """sha256 of every file that was read; of many files, that of the lines that `sha256sum` prints of them."""
    from chemeleon_cli.core.paths import file_sha256
    from chemeleon_cli.sources.streams import readable, sources_of

    with readable(str(path)):
        if not path.is_dir():
            return {path.name: {"sha256": file_sha256(path)}}
        files = sorted(Path(source.name) for source in sources_of(path))
        found = {file.relative_to(path).as_posix(): file_sha256(file) for file in files}
    if len(found) <= MANY_FILES:
        return {name: {"sha256": digest} for name, digest in found.items()}
    lines = "".join(f"{digest}  {name}\n" for name, digest in found.items())
    return {f"{path.resolve().name}/": {"files": len(found), "sha256": hashlib.sha256(lines.encode()).hexdigest()}}


def _write_hull(
    kind: str,
    elements: list[str],
    folder: Path,
    download: Path,
    api_key: str | None,
    say: Callable[[str], object],
) -> tuple[str, dict[str, dict[str, Any]]]:
    """Write the table that energies above the hull are measured by; returns their scale, rows and sha256 by file."""
    from chemeleon_cli.core.paths import file_sha256
    from chemeleon_cli.core.scoring.hull import Hull, manifest_path
    from chemeleon_cli.recipe.data import MATERIALS_PROJECT
    from chemeleon_cli.sources import materials_project

    entries = materials_project.hull_entries(elements, kind, download / "hull", api_key, say)
    ids, formulas, energies = zip(*entries, strict=True)
    scale = materials_project.ENERGIES[kind][1]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    path = folder / "hull.csv.gz"
    about = Hull.from_entries(formulas, energies, ids, MATERIALS_PROJECT, scale, today).write(path)
    beside = manifest_path(path)
    made = {path.name: {"rows": about.count, "sha256": about.sha256}, beside.name: {"sha256": file_sha256(beside)}}
    return scale, made


def _split_by(recipe: FetchData, path: Path) -> str:
    """How to split: what is split already stays so unless the recipe says otherwise."""
    if _is_remote(recipe) and recipe.split.by == "source":
        raise UserError("split.by: materials-project has no splits of its own", "take `by: formula` or `by: random`")
    return "source" if "by" not in recipe.split.model_fields_set and _is_split(recipe, path) else recipe.split.by


def _is_split(recipe: FetchData, path: Path) -> bool:
    """Whether the source is a set with splits, or all that is read of it are tables called train, val and test."""
    from chemeleon_cli.core.paths import split_path
    from chemeleon_cli.sources.published import NAMES
    from chemeleon_cli.sources.streams import kind_of, sources_of

    if recipe.source in NAMES or split_path(path, "train") is not None:
        return True
    if not path.is_dir() and not (path.is_file() and kind_of(path.name) == "zip"):
        return False
    names = {PurePosixPath(source.stem).name for source in sources_of(path)}
    return "train" in names and names <= set(SPLITS)


def _target(recipe: FetchData, source: Path, overwrite: bool) -> Path:
    """The folder to make, once it is certain that nothing is lost there."""
    from chemeleon_cli.core.paths import split_path
    from chemeleon_cli.sources.streams import path_of

    stem = re.sub(r"(\.[A-Za-z]+)+$", "", source.resolve().name)
    name = recipe.name or re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "data"
    if "/" in name or "\\" in name or name.startswith("."):
        raise UserError(f"name: '{name}' is not the name of a folder", "take one without slashes and dots in front")
    folder = path_of(path_of(recipe.out) / name)
    if folder.is_symlink():
        folder = folder.resolve()  # what the link leads to is replaced, the link stays
    if blocked := [str(parent) for parent in folder.parents if parent.exists() and not parent.is_dir()]:
        raise UserError(f"out: {blocked[0]} is no folder", "name a folder, or one to be made")
    labels = path_of(recipe.labels_file) if recipe.labels_file else None
    for what, path in (("source", source), ("labels_file", labels)):
        if path and path.exists() and folder.resolve() in (path.resolve(), *path.resolve().parents):
            raise UserError(f"{folder}: is where the {what} is", "take another `name` or `out`")
    if folder.is_dir() and not any(folder.iterdir()):
        return folder
    if folder.exists() and not overwrite:
        raise UserError(f"{folder}: is there already", "take another `name`, or --overwrite to replace it")
    if folder.exists() and not (folder / "manifest.json").is_file() and not split_path(folder, "train"):
        raise UserError(f"{folder}: is not a data folder; it is left alone", "take another `name`")
    return folder


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A temporary folder next to one that is to be made, by a name that no other process takes or has left behind.
    Folders that had to be made for it go again if nothing stays in them."""
    made = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name:
            yield Path(name)
    finally:
        for parent in made:
            with contextlib.suppress(OSError):  # something is in it
                parent.rmdir()


def _put_in_place(making: Path, folder: Path, old: Path) -> None:
    """Rename the finished folder to its name; what was there waits as `old` and goes once the new one stands."""
    if folder.exists():
        folder.rename(old)
    try:
        making.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _show(manifest: dict[str, Any], folder: Path, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    say = functools.partial(console.print, highlight=False, markup=False)
    counts = manifest["counts"]
    table = Table(title=Text(str(folder)), title_justify="left")
    for name in ("", "crystals", "mean", "std", "min", "max"):
        table.add_column(name, justify="left" if not name else "right")
    for split in SPLITS:
        if counts[split]:
            table.add_row(split, f"{counts[split]:,}")
    for label, known in manifest["labels"].items():
        figures = [f"{known[k]:.4g}" if known[k] is not None else "" for k in ("mean", "std", "min", "max")]
        table.add_row(Text(label), f"{known['count']:,} ({known['share_present']:.0%})", *figures)
    for code, count in manifest["rejected"].items():
        table.add_row(f"rejected: {code}", f"{count:,}")
    console.print(table)
    by, empty = manifest["split"]["by"], [split for split in SPLITS if not counts[split]]
    how = "splits are the source's own" if by == "source" else f"split by {by}"
    say(f"{how}{'; there is no ' if empty else ''}{' and no '.join(empty)}")
    if files := manifest["left_out_files"]:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in files.items())
        say(f"{sum(files.values()):,} files of the source are of no known format or beside its tables: {kinds}")
    for column, why in manifest["left_out_columns"].items():
        say(f"column '{column}' is no label: {why}")
    for column, why in manifest["not_numbers"].items():
        say(f"column '{column}': {why}; no label there")
    if joined := manifest["labels_file"]:
        say(
            f"{joined['name']}: {joined['rows']:,} rows; {joined['crystals_without_row']:,} crystals have none, "
            f"{joined['rows_without_crystal']:,} rows have no crystal"
        )
    if shared := manifest["formulas_in_several_splits"]:
        say(f"{shared:,} of {manifest['formulas']:,} formulas are in more than one split")
    if renamed := manifest["renamed_ids"]:
        say(f"{renamed:,} ids stood for several crystals and got a number")
    others = ["manifest.json", "picture.png", *(name for name in manifest["files"] if name not in TABLES)]
    say(f"{folder}: tables, {', '.join(others)}", soft_wrap=True)
