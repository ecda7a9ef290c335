"""The recipe of `fetch-data`: which crystals, under what names, and how they are split."""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict, ValidationInfo, field_validator

from chemeleon_cli.errors import did_you_mean
from chemeleon_cli.recipe.base import Count, Recipe, Section, Share, mistake
from chemeleon_cli.recipe.document import shown
from chemeleon_cli.recipe.errors import API_KEY, names_a_key

MATERIALS_PROJECT = "materials-project"
PUBLISHED = ("starter", "mp-20", "perov-5", "carbon-24", "alex-mp-20")
"""Sets that `source` can name: those that `sources.published` knows."""


class SplitSection(Section):
    """Which crystals are kept away from training."""

    by: Literal["formula", "random", "source"] = "formula"
    """`formula` keeps crystals of one reduced formula together; `source` takes the splits of the source."""
    fractions: Annotated[tuple[Share, Share, Share], Strict(False)] = (0.8, 0.1, 0.1)
    """Shares of train, val and test; they add up to 1."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Where the random choice starts."""

    @field_validator("fractions")
    @classmethod
    def _are_all(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if abs(sum(value) - 1) > 1e-6 or value[0] == 0:
            raise mistake(f"found {list(value)}; expected three shares that add up to 1, the first above 0")
        return value


class FetchData(Recipe):
    """Make a data folder: train, val and test tables from a source."""

    command: ClassVar[str] = "fetch-data"
    source: str
    """Your own table, folder or zip of crystals; or `materials-project`; or a set by its name: `mp-20`, `perov-5`,
    `carbon-24`, `alex-mp-20`, `starter`."""
    name: str | None = None
    """The name of the folder that is made; null: after the source."""
    out: str = "data"
    """The folder of data folders: this one is written to `<out>/<name>`."""
    max_atoms: Count | None = 20
    """Crystals whose primitive cell has more atoms are left out; null keeps all."""
    labels: dict[str, str] = {}
    """Column of the source: name of the label; empty takes every column of numbers under its own name."""
    units: dict[str, str] = {}
    """Column of the source: the unit that is written behind its numbers and is taken off them, such as `{gap: eV}`."""
    labels_file: str | None = None
    """A second table (CSV, Parquet or JSON) with more columns for the same crystals, a row for each, joined by id;
    null: the one that is in the folder or zip of the crystals, if there is one."""
    id_column: str | None = None
    """The column of the source (and of `labels_file`) that names a crystal; null: found by its usual names."""
    split: SplitSection = SplitSection()
    """Which crystals are kept away from training."""
    query: dict[str, Any] = {}
    """Materials Project only: what to ask for, as its API names it, such as `num_sites: [1, 20]`."""
    fields: dict[str, str] = {}
    """Materials Project only: its field: name of the label."""
    entries: Literal["uncorrected", "mp2020"] | None = None
    """Materials Project only: also bring the energies of all that is made of these elements, for energies above the
    hull: `uncorrected` to go with MACE, `mp2020` (with the corrections of that name) to go with CHGNet."""

    @field_validator("source")
    @classmethod
    def _is_there(cls, source: str, info: ValidationInfo) -> str:
        names = (MATERIALS_PROJECT, *PUBLISHED)
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
            chosen = f"labels of {MATERIALS_PROJECT} are chosen by `fields` and have no units written behind them"
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
            scales = "`uncorrected` to go with MACE, `mp2020` to go with CHGNet (the two do not mix)"
            raise mistake(f"found {shown(value)}; expected {scales}, or null for none")
        return value
