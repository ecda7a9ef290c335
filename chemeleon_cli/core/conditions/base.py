"""What a condition is, and a batch of them as tensors.

A generator is trained with classifier-free guidance (Ho & Salimans 2022): in training, each condition is dropped at
random, so the network learns to generate with it and without it. So every tensor of conditions can say "not given",
and it does so in one way: NaN in a tensor of floating-point numbers, and 0 (or False) for a whole crystal in any other.

Legend: B crystals, N atoms padded, M crystals of a table, F features.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from chemeleon_cli.core.data.dataset import Table
from chemeleon_cli.errors import UserError

Request = Mapping[str, Any]
"""What one crystal is asked to be: a value for the name of a condition, such as `{"band_gap": 3.0, "composition":
"SrTiO3"}`. A condition that is not named, or whose value is None, is not given."""


@dataclass(frozen=True)
class Condition(ABC):
    """One thing that a generator can be asked for.

    A subclass is a frozen dataclass. Its fields are plain values learned from the training set (`fit`); a checkpoint
    holds them (`settings`) and `kinds.from_settings` builds the condition again.

    Attributes:
        name: what a request calls it. For a kind that is a column of the data, the name of the column.
    """

    name: str

    kind: ClassVar[str]
    """The name of the class in recipes and checkpoints."""
    is_column: ClassVar[bool] = False
    """Whether it is a label of the data; if not, it follows from the crystal itself."""
    per_atom: ClassVar[bool] = False
    """Whether it describes each atom: its features are (B, N, F), of tensors (B, N); otherwise (B, F)."""
    same_in_every_model: ClassVar[bool] = False
    """Whether its features mean the same whatever a model was trained on, so that fine-tuning on other crystals keeps
    what a network has learned of it."""

    @classmethod
    @abstractmethod
    def fit(cls, name: str, table: Table) -> Self:
        """The condition as the crystals of a train split define it.

        Raises:
            UserError: the table has no such column, or nothing in it.
        """

    @property
    def settings(self) -> dict[str, Any]:
        """`kind` and all fields but the name: the form in which a checkpoint keeps it."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "name"}
        return {"kind": self.kind, **fields}

    @property
    @abstractmethod
    def width(self) -> int:
        """F, the number of features."""

    @abstractmethod
    def labels(self, table: Table) -> Tensor:
        """The condition of every crystal of a table: (M,), (M, ...) or, per atom, (M, N).

        It is not given where the table has no label, and where the label does not occur in the train split.
        """

    @abstractmethod
    def parse(self, value: Any) -> Any:
        """A value that a user asks for, in the form that `batch` takes.

        Raises:
            UserError: it is not a value of this kind, or not one that the model knows.
        """

    @abstractmethod
    def batch(self, parsed: Sequence[Any | None], num_atoms: Tensor) -> Tensor:
        """A tensor in the form of `labels`.

        Args:
            parsed: for each of B crystals what `parse` returned, None where it is not given.
            num_atoms: (B,).

        Raises:
            UserError: a value does not fit the number of atoms.
        """

    @abstractmethod
    def features(self, values: Tensor) -> Tensor:
        """What a network reads: (B, F), or (B, N, F) per atom, of a tensor in the form of `labels`.

        Rows that are not given may hold any finite number: the network has a learned vector in their place.
        """


@dataclass(frozen=True)
class ConditionBatch:
    """The conditions of B crystals, as a denoiser reads them.

    Attributes:
        values: a tensor for each condition by its name, see `Condition.labels`. A name that is missing is given for
            none of the crystals.
        numbers: (B, N) atomic numbers that the decoded crystals must have, ascending, 0 at padding; None: any.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    numbers: Tensor | None = None

    def to(self, device: torch.device | str) -> ConditionBatch:
        """The same batch on another device."""
        numbers = None if self.numbers is None else self.numbers.to(device)
        return ConditionBatch({name: value.to(device) for name, value in self.values.items()}, numbers)

    def null(self) -> ConditionBatch:
        """Tensors of the same shapes in which no condition is given."""
        return ConditionBatch({name: torch.full_like(value, _null(value)) for name, value in self.values.items()})


NO_CONDITIONS = ConditionBatch()
"""Nothing is asked for."""


def is_given(values: Tensor) -> Tensor:
    """(B,) bool, for which crystals a condition is given in one of `ConditionBatch.values`."""
    return ~values.isnan() if values.is_floating_point() else (values != 0).reshape(len(values), -1).any(1)


def drop_conditions(batch: ConditionBatch, rates: Mapping[str, float], generator: torch.Generator) -> ConditionBatch:
    """Drop each condition of each crystal with probability `rates[name]`, independently of the others."""
    values = {}
    for name, value in batch.values.items():
        dropped = torch.rand(len(value), generator=generator) < rates[name]
        values[name] = value.masked_fill(dropped.view(-1, *[1] * (value.ndim - 1)), _null(value))
    return ConditionBatch(values)


def nothing_to_learn(name: str, table: Table) -> UserError:
    """The error of a table in which no crystal has the condition."""
    return UserError(f"{table.path}: nothing to condition on in '{name}'")


def _null(values: Tensor) -> float:
    return math.nan if values.is_floating_point() else 0
