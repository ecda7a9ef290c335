"""`chemeleon fetch-data`: turn crystals from any source into a data folder, which the other commands read."""

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
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from chemeleon_cli import __version__
from chemeleon_cli.core.paths import SPLITS, writable
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.published_sets import NAMES

if TYPE_CHECKING:
    from rich.console import Console

    from chemeleon_cli.recipe.data import FetchData
    from chemeleon_cli.sources.data_folder import Gathered
    from chemeleon_cli.sources.labels import LabelTable
    from chemeleon_cli.sources.records import Record

TABLES = tuple(f"{split}.csv.gz" for split in SPLITS)
LICENCE = "CC BY 4.0"
"""The licence of the Materials Project (https://next-gen.materialsproject.org/about/terms)."""
MANY_FILES = 100
"""If a folder has more files than this, the manifest does not list them one by one."""


def run(recipe: FetchData, console: Console, api_key: str | None = None, overwrite: bool = False) -> Path:
    """Read, check, split and write the crystals; the folder is written completely or not at all.

    Args:
        recipe: the source and how to split it.
        console: where the summary is printed.
        api_key: the key of the Materials Project; None: that in MP_API_KEY or pymatgen's settings.
        overwrite: replace the data folder of this name.

    Returns:
        The data folder.

    Raises:
        UserError: the source has no usable crystal, or the folder already exists.
    """
    from chemeleon_cli.sources import data_folder, picture
    from chemeleon_cli.sources.folders import path_of
    from chemeleon_cli.sources.labels import without_units
    from chemeleon_cli.sources.streams import write_lines

    source = path_of(recipe.source)
    folder = _target(recipe, source, overwrite)
    by = _split_by(recipe, source)
    report = functools.partial(console.print, highlight=False, markup=False)
    table, skipped, unread = _labels(recipe, source)
    download = folder.with_name(f".{folder.name}.download")
    with writable(str(folder)), _beside(folder) as scratch:
        making, waiting = scratch / folder.name, scratch / "waiting.jsonl"
        making.mkdir()
        items = _items(recipe, source, by, skipped, download, api_key, report)
        items = table.join(items) if table else items
        items = without_units(items, recipe.units) if recipe.units else items
        gathered = _gather(items, recipe, waiting, making / "rejected.csv", console)
        wanted = _wanted(recipe, gathered)
        labels, left_out = data_folder.choose_labels(gathered, wanted, recipe.units)
        left_out |= {column: "contains no number" for column in recipe.fields.values() if column not in labels}
        if by == "source":
            splits = [row[3] for row in gathered.rows]
        else:
            groups = [row[1] if by == "formula" else row[0] for row in gathered.rows]
            splits = data_folder.assign(groups, recipe.split.fractions, recipe.split.seed)
        drawn = {"fractions": list(recipe.split.fractions), "seed": recipe.split.seed}
        manifest = {
            "name": folder.name,
            **_origin(recipe, source, unread),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "chemeleon": __version__,
            "max_atoms": recipe.max_atoms,
            "split": {"by": by} if by == "source" else {"by": by, **drawn},
            **data_folder.facts(gathered, labels, splits),
            "labels_file": _about(table, recipe) if table else None,
            "left_out_columns": left_out,
            "not_numbers": {column: why for column in wanted if (why := gathered.not_numbers(column))},
            "energy_scale": None,
            "files": data_folder.write_tables(making, gathered, labels, splits, waiting),
        }
        if recipe.entries:
            elements = sorted(gathered.elements)
            scale, made = _write_hull(recipe.entries, elements, making, download, api_key, report)
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
    """The name of the label of each column; for the Materials Project, of the columns that were asked for."""
    if not _is_remote(recipe):
        return recipe.labels
    numbers = (column for column in gathered.labels if column not in gathered.words)
    found = (column for column in (*recipe.fields.values(), *numbers) if gathered.has_number(column))
    return {column: column for column in found}


def _labels(recipe: FetchData, path: Path) -> tuple[LabelTable | None, Collection[str], dict[str, str]]:
    """The table of labels, the files of the source without crystals, and the tables that are not used, with reasons."""
    from chemeleon_cli.sources import labels

    named = recipe.labels_file
    if _is_remote(recipe) or recipe.source in NAMES:
        return (labels.labels_in(named, recipe.id_column, None) if named else None), (), {}
    beside = labels.look_beside(path, recipe.id_column, search=not named)
    table = labels.labels_in(named, recipe.id_column, beside.is_id) if named else beside.table
    return table, beside.skipped, beside.unread


def _about(table: LabelTable, recipe: FetchData) -> dict[str, Any]:
    """The entry of the table of labels in the manifest; in the source, the hash of those files covers it."""
    from chemeleon_cli.core.paths import file_sha256
    from chemeleon_cli.sources.folders import path_of

    hashed = {"sha256": file_sha256(path_of(recipe.labels_file))} if recipe.labels_file else {}
    return table.summary() | hashed


def _items(
    recipe: FetchData,
    path: Path,
    by: str,
    skipped: Collection[str],
    download: Path,
    api_key: str | None,
    report: Callable[[str], object],
) -> Iterator[tuple[str, Record]]:
    """Every crystal of the source, with its split in the source or ""."""
    from chemeleon_cli.sources import files, materials_project, published

    if _is_remote(recipe):
        found = materials_project.fetch(recipe.query, recipe.fields, download, api_key, report)
        return (("", record) for record in found)
    if recipe.source in NAMES:
        return published.read_set(recipe.source, report)
    if by == "source":
        return files.read_splits(path, recipe.id_column, skipped)
    return (("", record) for record in files.read_records(path, recipe.id_column, skipped))


def _gather(
    items: Iterator[tuple[str, Record]], recipe: FetchData, waiting: Path, rejected: Path, console: Console
) -> Gathered:
    """Check every crystal and show the progress.

    Raises:
        UserError: no crystal of the source can be used.
    """
    from chemeleon_cli.sources import data_folder

    gathered = data_folder.Gathered()
    start = time.monotonic()
    with console.status("reading") as status:
        for gathered in data_folder.gather(items, recipe.max_atoms, waiting, rejected):
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


def _origin(recipe: FetchData, path: Path, unread: dict[str, str]) -> dict[str, Any]:
    """The source of the crystals and the names of their columns there, for the manifest."""
    from chemeleon_cli.sources import folders, published

    origin = {
        "source": recipe.source,
        "query": recipe.query,
        "columns": {**recipe.fields, **recipe.labels},
        "units": recipe.units,
        "licence": None,
        "credit": None,
        "source_files": {},
        "left_out_files": {},
        "unread_tables": unread,
    }
    if _is_remote(recipe):
        return origin | {"licence": LICENCE, "credit": "Jain et al., APL Materials 1, 011002 (2013)"}
    if recipe.source in NAMES:
        origin["columns"] = {**published.columns_of(recipe.source), **recipe.labels}
        return origin | published.terms(recipe.source) | {"source_files": published.provenance(recipe.source)}
    return origin | {"source_files": _hashes(path), "left_out_files": dict(sorted(folders.left_out(path).items()))}


def _hashes(path: Path) -> dict[str, dict[str, Any]]:
    """The sha256 of every file that was read; for many files, the sha256 of the output of `sha256sum` for them."""
    from chemeleon_cli.core.paths import file_sha256
    from chemeleon_cli.sources.folders import sources_of
    from chemeleon_cli.sources.streams import readable

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
    report: Callable[[str], object],
) -> tuple[str, dict[str, dict[str, Any]]]:
    """Write the reference energies of the hull; returns their scale, and the rows and sha256 of each file."""
    from chemeleon_cli.core.paths import file_sha256
    from chemeleon_cli.core.scoring.hull import Hull, manifest_path
    from chemeleon_cli.recipe.data import MATERIALS_PROJECT
    from chemeleon_cli.sources import materials_project

    entries = materials_project.hull_entries(elements, kind, download / "hull", api_key, report)
    ids, formulas, energies = zip(*entries, strict=True)
    scale = materials_project.ENERGIES[kind][1]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    path = folder / "hull.csv.gz"
    about = Hull.from_entries(formulas, energies, ids, MATERIALS_PROJECT, scale, today).write(path)
    beside = manifest_path(path)
    made = {path.name: {"rows": about.count, "sha256": about.sha256}, beside.name: {"sha256": file_sha256(beside)}}
    return scale, made


def _split_by(recipe: FetchData, path: Path) -> str:
    """How to split the crystals: existing splits are kept unless the recipe sets `split.by`."""
    if _is_remote(recipe) and recipe.split.by == "source":
        raise UserError("split.by: materials-project has no splits of its own", "use `by: formula` or `by: random`")
    return "source" if "by" not in recipe.split.model_fields_set and _is_split(recipe, path) else recipe.split.by


def _is_split(recipe: FetchData, path: Path) -> bool:
    """Whether the source is a data set with splits, or consists of tables called train, val and test."""
    from chemeleon_cli.core.paths import split_path
    from chemeleon_cli.sources.folders import is_zip, sources_of

    if recipe.source in NAMES or split_path(path, "train") is not None:
        return True
    if not path.is_dir() and not (path.is_file() and is_zip(path)):
        return False
    names = {PurePosixPath(source.stem).name for source in sources_of(path)}
    return "train" in names and names <= set(SPLITS)


def _target(recipe: FetchData, source: Path, overwrite: bool) -> Path:
    """The data folder to write, after checking that nothing would be lost there."""
    from chemeleon_cli.core.paths import split_path
    from chemeleon_cli.sources.folders import path_of

    stem = re.sub(r"(\.[A-Za-z]+)+$", "", source.resolve().name)
    name = recipe.name or re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "data"
    if "/" in name or "\\" in name or name.startswith("."):
        raise UserError(f"name: '{name}' is not a name for a folder", "use no slash and no leading dot")
    folder = path_of(path_of(recipe.out) / name)
    if folder.is_symlink():
        folder = folder.resolve()  # the target of the link is replaced, the link is kept
    if blocked := [str(parent) for parent in folder.parents if parent.exists() and not parent.is_dir()]:
        raise UserError(f"out: {blocked[0]} is not a folder", "give a folder, or a new name")
    labels = path_of(recipe.labels_file) if recipe.labels_file else None
    for what, path in (("source", source), ("labels_file", labels)):
        if path and path.exists() and folder.resolve() in (path.resolve(), *path.resolve().parents):
            raise UserError(f"{folder}: contains the {what}", "use another `name` or `out`")
    if folder.is_dir() and not any(folder.iterdir()):
        return folder
    if folder.exists() and not overwrite:
        raise UserError(f"{folder}: already exists", "use another `name`, or --overwrite to replace it")
    if folder.exists() and not (folder / "manifest.json").is_file() and not split_path(folder, "train"):
        raise UserError(f"{folder}: is not a data folder; it is left unchanged", "use another `name`")
    return folder


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A temporary folder next to the one that will be written, with a name that no other process uses. Parent folders
    that were made for it are removed again if they stay empty."""
    made = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name:
            yield Path(name)
    finally:
        for parent in made:
            with contextlib.suppress(OSError):  # it is not empty
                parent.rmdir()


def _put_in_place(making: Path, folder: Path, old: Path) -> None:
    """Rename the finished folder to its final name; a previous one is kept as `old` until that has succeeded."""
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

    from chemeleon_cli.sources import data_folder

    report = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
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
    how = "the splits of the source are kept" if by == "source" else f"split by {by}"
    report(f"{how}{'; there is no ' if empty else ''}{' and no '.join(empty)}")
    if files := manifest["left_out_files"]:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in files.items())
        report(f"files of the source that were not read, by suffix: {kinds}")
    for name, why in manifest["unread_tables"].items():
        report(f"{name}: {why}; not read")
    texts = {c: why for c, why in manifest["left_out_columns"].items() if why.startswith(data_folder.TEXT)}
    if texts:
        shown = ", ".join(f"{column} ({why.removeprefix(data_folder.TEXT)})" for column, why in texts.items())
        report(f"columns of text cannot be labels: {shown}")
    for column, why in manifest["left_out_columns"].items():
        if column not in texts:
            report(f"column '{column}' is not a label: {why}")
    for column, why in manifest["not_numbers"].items():
        report(f"column '{column}': {why}; these have no label")
    for label, known in manifest["labels"].items():
        if data_folder.constant(known):
            report(f"label '{label}' is {known['mean']:.4g} for every crystal that has it: nothing to learn")
    if joined := manifest["labels_file"]:
        report(
            f"{joined['name']}: {joined['rows']:,} rows; {joined['crystals_without_row']:,} crystals have none, "
            f"{joined['rows_without_crystal']:,} rows have no crystal"
        )
    if shared := manifest["formulas_in_several_splits"]:
        report(f"{shared:,} of {manifest['formulas']:,} formulas occur in more than one split")
    if renamed := manifest["renamed_ids"]:
        report(f"{renamed:,} ids belonged to several crystals and got a number")
    others = ["manifest.json", "picture.png", *(name for name in manifest["files"] if name not in TABLES)]
    report(f"{folder}: tables, {', '.join(others)}")
