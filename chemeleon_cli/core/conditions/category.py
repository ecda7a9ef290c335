"""A class, such as a phase, a prototype or a number of layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

import pandas as pd
import torch
from pydantic import Field
from torch import Tensor

from chemeleon_cli.core.conditions.base import nothing_to_learn
from chemeleon_cli.core.conditions.one_of import OneOf
from chemeleon_cli.core.data.dataset import ID_COLUMN, Table
from chemeleon_cli.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Category(OneOf):
    """A column of texts or integers.

    Attributes:
        known: the classes of the train split, as texts in alphabetical order.
    """

    known: Annotated[list[str], Field(min_length=1)]

    kind = "category"
    is_column = True

    @classmethod
    def fit(cls, name: str, table: Table) -> Self:
        """The classes that occur in the column."""
        known = sorted(set(_column_as_texts(table, name)) - {""})
        if not known:
            raise nothing_to_learn(name, table)
        return cls(name, known)

    @property
    def width(self) -> int:
        """A feature for each class, and the first for "not given"."""
        return len(self.known) + 1

    def labels(self, table: Table) -> Tensor:
        """(M,) int64: 1 + the index of the class, 0 for crystals without a label."""
        place = {text: number for number, text in enumerate(self.known, start=1)}
        return torch.tensor([place.get(text, 0) for text in _column_as_texts(table, self.name)])

    def parse(self, value: Any) -> int:
        """1 + the index of the class."""
        if str(value) not in self.known:
            known = ", ".join(self.known)
            meant = did_you_mean(str(value), self.known)
            raise UserError(f"{self.name}: found {value!r}; the model knows {known}{meant}")
        return self.known.index(str(value)) + 1


def _column_as_texts(table: Table, name: str) -> list[str]:
    """A column as M texts, empty for missing labels; integers have no decimal point."""
    if name in table.properties:
        return ["" if v != v else str(int(v) if v.is_integer() else v) for v in table.properties[name].tolist()]
    try:
        frame = pd.read_csv(table.path, dtype=str, keep_default_na=False, usecols=[ID_COLUMN, name])
    except ValueError as error:
        raise UserError(f"{table.path}: needs the columns {ID_COLUMN} and '{name}' to condition on ({error})") from None
    texts = dict(zip(frame[ID_COLUMN], frame[name], strict=True))
    if len(texts) < len(frame):
        raise UserError(f"{table.path}: {ID_COLUMN} is not unique, so the rows of '{name}' cannot be assigned")
    return [texts[i] for i in table.ids]
