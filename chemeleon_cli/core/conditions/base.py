"""The base class of conditions, and a batch of them as tensors.

A generator is trained with classifier-free guidance (Ho & Salimans 2022): in training, each condition is dropped at
random, so that the network learns to generate with it and without it. A condition that is not given is marked in the
same way everywhere: by NaN in a floating-point tensor, and by 0 (or False) for the whole crystal in any other tensor.

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
"""The requested conditions of one crystal, by name, such as `{"band_gap": 3.0, "composition": "SrTiO3"}`. A condition
that is missing, or whose value is None, is not given."""


@dataclass(frozen=True)
class Condition(ABC):
    """A condition that a generator can be trained with.

    A subclass is a frozen dataclass. Its fields are plain values determined from the training set (`fit`); a checkpoint
    stores them (`settings`), and `kinds.from_settings` rebuilds the condition.

    Attributes:
        name: its name in requests. For a kind that is a column of the data, the name of the column.
    """

    name: str

    kind: ClassVar[str]
    """The name of the class in recipes and checkpoints."""
    is_column: ClassVar[bool] = False
    """Whether it is a label of the data; if not, it is computed from the crystal."""
    per_atom: ClassVar[bool] = False
    """Whether it describes each atom: its tensors are then (B, N) and its features (B, N, F), otherwise (B, F)."""
    same_in_every_model: ClassVar[bool] = False
    """Whether its features have the same meaning for every training set, so that fine-tuning on other crystals can keep
    the weights of its embedding."""

    @classmethod
    @abstractmethod
    def fit(cls, name: str, table: Table) -> Self:
        """Determine the condition from the crystals of a train split.

        Raises:
            UserError: the table has no such column, or the column is empty.
        """

    @property
    def settings(self) -> dict[str, Any]:
        """`kind` and all fields except the name, as stored in a checkpoint."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "name"}
        return {"kind": self.kind, **fields}

    @property
    @abstractmethod
    def width(self) -> int:
        """F, the number of features."""

    @abstractmethod
    def labels(self, table: Table) -> Tensor:
        """The condition of every crystal of a table: (M,), (M, ...) or, per atom, (M, N).

        It is not given for a crystal without a label, or with a label that does not occur in the train split.
        """

    @abstractmethod
    def parse(self, value: Any) -> Any:
        """Convert a value that a user requests to the form that `batch` takes.

        Raises:
            UserError: the value is not of this kind, or the model does not know it.
        """

    @abstractmethod
    def batch(self, parsed: Sequence[Any | None], num_atoms: Tensor) -> Tensor:
        """A tensor in the form of `labels`.

        Args:
            parsed: the result of `parse` for each of B crystals; None if the condition is not given.
            num_atoms: (B,).

        Raises:
            UserError: a value does not fit the number of atoms.
        """

    @abstractmethod
    def features(self, values: Tensor) -> Tensor:
        """Input features of a network, (B, F) or, per atom, (B, N, F), from a tensor in the form of `labels`.

        Rows that are not given may hold any finite number, because the network replaces them by a learned vector.
        """


@dataclass(frozen=True)
class ConditionBatch:
    """The conditions of B crystals, as the input of a denoiser.

    Attributes:
        values: a tensor for each condition, by name, see `Condition.labels`. A missing condition is given for none of
            the crystals.
        numbers: (B, N) atomic numbers that the decoded crystals must have, ascending, 0 at padding; None for any.
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
"""No condition is given."""


def is_given(values: Tensor) -> Tensor:
    """(B,) bool, whether a condition is given for each crystal, from its tensor in `ConditionBatch.values`."""
    given = ~values.isnan() if values.is_floating_point() else values != 0
    return given.reshape(len(values), -1).any(1)


def drop_conditions(batch: ConditionBatch, rates: Mapping[str, float], generator: torch.Generator) -> ConditionBatch:
    """Drop each condition of each crystal with probability `rates[name]`, independently of the others."""
    values = {}
    for name, value in batch.values.items():
        dropped = torch.rand(len(value), generator=generator) < rates[name]
        values[name] = value.masked_fill(dropped.view(-1, *[1] * (value.ndim - 1)), _null(value))
    return ConditionBatch(values)


def nothing_to_learn(name: str, table: Table) -> UserError:
    """The error for a table in which no crystal has the condition."""
    return UserError(f"{table.path}: nothing to condition on in '{name}'")


def _null(values: Tensor) -> float:
    return math.nan if values.is_floating_point() else 0
