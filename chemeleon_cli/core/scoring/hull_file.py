"""Where a hull's table lies and what is said of it, read without numpy: recipes are checked by it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from chemeleon_cli.core.paths import data_folder
from chemeleon_cli.core.potentials.base import UNKNOWN_SCALE
from chemeleon_cli.errors import UserError

TABLE = "hull.csv.gz"


@dataclass(frozen=True)
class Manifest:
    """What is said of a table in the JSON file beside it.

    Attributes:
        source: where the crystals and energies come from.
        energy_scale: what the energies mean, as a potential's `energy_scale`.
        count: rows.
        sha256: of the table's file.
        date: of the source, ISO 8601.
    """

    source: str
    energy_scale: str
    count: int
    sha256: str
    date: str | None = None


def find_hull(name: str) -> Path:
    """The table that a recipe names.

    Args:
        name: a table's file, a data folder that holds `hull.csv.gz`, or "starter" for the one of the package.

    Raises:
        UserError: there is none.
    """
    path = data_folder(name)
    table = path / TABLE if path.is_dir() else path
    if table.is_file():
        return table
    hint = "name a hull.csv.gz, or compute one: chemeleon write-hull SET"
    if path.is_dir():
        raise UserError(f"{name} has no {TABLE}; fetch-data writes one where its recipe asks for `entries`", hint)
    raise UserError(f"no hull '{name}': no such file or folder", hint)


def manifest_path(path: Path) -> Path:
    """`hull.csv.gz` -> `hull.json`."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".csv") + ".json")


def read_manifest(path: Path) -> Manifest:
    """What is said of a table.

    Raises:
        UserError: the table or its manifest is missing, or the manifest is none.
    """
    beside = manifest_path(path)
    for file in (path, beside):
        if not file.is_file():
            raise UserError(f"{file}: no such file", f"a hull is two files, {path.name} and {beside.name}")
    try:
        manifest = Manifest(**json.loads(beside.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{beside}: not a hull's manifest: {error}", "fetch or write the hull again") from error
    if not (isinstance(manifest.energy_scale, str) and isinstance(manifest.count, int)):
        raise UserError(f"{beside}: energy_scale or count is not what it should be", "fetch or write the hull again")
    return manifest


def check_scales(model_scale: str, hull_scale: str) -> None:
    """Whether a potential's energies may be measured by a hull's.

    Raises:
        UserError: the two scales differ, or one is not known: two unknown scales need not be one.
    """
    if UNKNOWN_SCALE in (model_scale, hull_scale):
        raise UserError(
            f"the potential's energies are {model_scale}, the hull's {hull_scale}: nobody can say whether they compare",
            "say what the model file was fitted to (energy_scale), and write the hull with that said",
        )
    if model_scale != hull_scale:
        raise UserError(
            f"the potential's energies are {model_scale}, the hull's {hull_scale}: their difference means nothing",
            "name a hull of the potential's scale, or compute one: chemeleon write-hull SET",
        )
