"""The recipe of `fetch-data`: the source of the crystals, their labels and how they are split."""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict, ValidationInfo, field_validator

from chemeleon_cli.errors import did_you_mean
from chemeleon_cli.recipe.base import Count, Recipe, Section, Share, mistake
from chemeleon_cli.recipe.document import shown
from chemeleon_cli.recipe.errors import API_KEY, names_a_key
from chemeleon_cli.sources.published_sets import NAMES as PUBLISHED_SETS

MATERIALS_PROJECT = "materials-project"


class SplitSection(Section):
    """How the crystals are divided into train, val and test."""

    by: Literal["formula", "random", "source"] = "formula"
    """`formula` puts all crystals with the same reduced formula into the same split, `random` splits them at random,
    and `source` keeps the splits of the source."""
    fractions: Annotated[tuple[Share, Share, Share], Strict(False)] = (0.8, 0.1, 0.1)
    """Fractions of train, val and test; they must add up to 1."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """The seed of the random split."""

    @field_validator("fractions")
    @classmethod
    def _are_all(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if abs(sum(value) - 1) > 1e-6 or value[0] == 0:
            raise mistake(f"found {list(value)}; expected three fractions that add up to 1, the first above 0")
        return value


class FetchData(Recipe):
    """Make a data folder, with the tables train, val and test, from a source of crystals."""

    command: ClassVar[str] = "fetch-data"
    source: str
    """Your own table, folder or zip of crystals, `materials-project`, or the name of a published data set.
    The published data sets are `mp-20`, `perov-5`, `carbon-24`, `alex-mp-20` and `starter`."""
    name: str | None = None
    """The name of the data folder; null: the name of the source."""
    out: str = "data"
    """The folder that holds the data folders; this one is written to `<out>/<name>`."""
    max_atoms: Count | None = 20
    """Leave out crystals with more atoms in the primitive cell; null: keep all crystals."""
    labels: dict[str, str] = {}
    """The columns of the source to keep as labels, each with the name of its label, such as `{Eg: band_gap}`; empty:
    every column of numbers, under its own name."""
    units: dict[str, str] = {}
    """Columns of the source whose numbers are followed by a unit, each with this unit, such as `{gap: eV}`; the unit is
    removed."""
    labels_file: str | None = None
    """A second table (CSV, Parquet or JSON) with more columns for the same crystals, one row for each, joined by their
    ids; null: the table in the folder or zip of the crystals, if there is one."""
    id_column: str | None = None
    """The column of the source (and of `labels_file`) that holds the ids of the crystals; null: a column with one of
    the usual names, if there is one."""
    split: SplitSection = SplitSection()
    """How the crystals are divided into train, val and test."""
    query: dict[str, Any] = {}
    """Materials Project only: the search criteria, with the names of its API, such as `num_sites: [1, 20]`."""
    fields: dict[str, str] = {}
    """Materials Project only: the fields of its API to keep as labels, each with the name of its label."""
    entries: Literal["uncorrected", "mp2020"] | None = None
    """Materials Project only: also download the energies of all materials made of the same elements, to compute
    energies above the hull: `uncorrected` for MACE, `mp2020` (with the MP2020 corrections) for CHGNet."""

    @field_validator("source")
    @classmethod
    def _is_there(cls, source: str, info: ValidationInfo) -> str:
        names = (MATERIALS_PROJECT, *PUBLISHED_SETS)
        if info.context and source not in names and not os.path.exists(os.path.expanduser(source)):
            meant = did_you_mean(source, names)
            raise mistake(f"found '{source}'; expected a file or folder, or one of {', '.join(names)}{meant}")
        return source

    @field_validator("labels_file")
    @classmethod
    def _is_a_file(cls, file: str | None, info: ValidationInfo) -> str | None:
        if info.context and file is not None and not os.path.isfile(os.path.expanduser(file)):
            raise mistake(f"found '{file}'; expected a CSV, Parquet or JSON file")
        return file

    @field_validator("labels", "units", "query", "fields", "entries")
    @classmethod
    def _fit_the_source(cls, value: Any, info: ValidationInfo) -> Any:
        source = info.data.get("source", "")
        of_files = info.field_name in ("labels", "units")
        if value and source == MATERIALS_PROJECT and of_files:
            chosen = f"the labels of {MATERIALS_PROJECT} are chosen with `fields` and are numbers without units"
            raise mistake(f"found {', '.join(value)}; {chosen}")
        if value and source not in ("", MATERIALS_PROJECT) and not of_files:
            raise mistake(f"is for {MATERIALS_PROJECT} only; found '{source}' as `source`")
        return value

    @field_validator("labels", "units", "query", "fields")
    @classmethod
    def _holds_no_key(cls, value: dict[str, Any]) -> dict[str, Any]:
        if any(names_a_key(name) for name in value):
            raise mistake(API_KEY)
        return value

    @field_validator("entries", mode="before")
    @classmethod
    def _says_which_energies(cls, value: Any) -> Any:
        if isinstance(value, bool):
            scales = "`uncorrected` for MACE or `mp2020` for CHGNet (the two must not be mixed)"
            raise mistake(f"found {shown(value)}; expected {scales}, or null for none")
        return value
