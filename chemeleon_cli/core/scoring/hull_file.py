"""The files of a hull and its manifest, read without numpy, because recipes are checked with them."""

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
    """Metadata of a table, from the JSON file beside it.

    Attributes:
        source: where the crystals and energies come from.
        energy_scale: see `Potential.energy_scale`.
        count: number of rows.
        sha256: of the table file.
        date: of the source, ISO 8601.
    """

    source: str
    energy_scale: str
    count: int
    sha256: str
    date: str | None = None


def find_hull(name: str) -> Path:
    """The path of the table that a recipe names.

    Args:
        name: a table file, a data folder that holds `hull.csv.gz`, or "starter" for the one in the package.

    Raises:
        UserError: there is no such table.
    """
    path = data_folder(name)
    table = path / TABLE if path.is_dir() else path
    if table.is_file():
        return table
    hint = "name a hull.csv.gz, or compute one: chemeleon write-hull SET"
    if path.is_dir():
        raise UserError(f"{name} has no {TABLE}; fetch-data writes one if its recipe asks for `entries`", hint)
    raise UserError(f"no hull '{name}': no such file or folder", hint)


def manifest_path(path: Path) -> Path:
    """`hull.csv.gz` -> `hull.json`."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".csv") + ".json")


def read_manifest(path: Path) -> Manifest:
    """The manifest of a table.

    Raises:
        UserError: the table or its manifest is missing, or the manifest is malformed.
    """
    beside = manifest_path(path)
    for file in (path, beside):
        if not file.is_file():
            raise UserError(f"{file}: no such file", f"a hull is two files, {path.name} and {beside.name}")
    try:
        manifest = Manifest(**json.loads(beside.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{beside}: not the manifest of a hull: {error}", "fetch or write the hull again") from error
    if not (isinstance(manifest.energy_scale, str) and isinstance(manifest.count, int)):
        raise UserError(
            f"{beside}: expected a text as energy_scale and an integer as count", "fetch or write the hull again"
        )
    return manifest


def check_scales(model_scale: str, hull_scale: str) -> None:
    """Check that the energies of a potential and of a hull can be compared.

    Raises:
        UserError: the two scales differ or one is unknown; two unknown scales are not assumed to be the same.
    """
    if UNKNOWN_SCALE in (model_scale, hull_scale):
        raise UserError(
            f"the potential's energy scale is {model_scale}, the hull's {hull_scale}: they may not be comparable",
            "set energy_scale to what the model file was fitted to, and write the hull with the same energy_scale",
        )
    if model_scale != hull_scale:
        raise UserError(
            f"the potential's energy scale is {model_scale}, the hull's {hull_scale}: the energies cannot be compared",
            "name a hull of the potential's energy scale, or compute one: chemeleon write-hull SET",
        )
