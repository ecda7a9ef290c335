"""The result of a reward for a batch of crystals: written by `rewards` and read by `rl`, which do not import each
other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """The scores of B crystals.

    Attributes:
        total: (B,) weighted sum of the components; NaN if the crystal is impossible, refused or stopped by a guard, or
            a component has no value for it.
        impossible: (B,) bool.
        refused: (B,) bool, possible crystals that nevertheless count as the worst of their group.
        raw: component name -> (B,) values in the unit of the component.
        weighted: component name -> (B,) contributions to the total.
    """

    total: Tensor
    impossible: Tensor
    refused: Tensor
    raw: dict[str, Tensor]
    weighted: dict[str, Tensor]

    @property
    def worst(self) -> Tensor:
        """(B,) bool, crystals that count as the worst of their group."""
        return self.impossible | self.refused

    def raw_means(self) -> dict[str, float]:
        """Mean of each component over the crystals that it has a value for, comparable between steps."""
        return {name: values.nanmean().item() for name, values in self.raw.items()}
