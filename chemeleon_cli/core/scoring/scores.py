"""What a reward says of a batch of crystals: written by `rewards`, read by `rl`, which do not know each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """What a batch of B crystals is worth.

    Attributes:
        total: (B,) weighted sum, NaN where the crystal is impossible, refused or guarded against, or a component has no
            number for it.
        impossible: (B,) bool.
        refused: (B,) bool, possible ones that count as the worst of their group all the same.
        raw: component name -> (B,) its numbers, in its unit.
        weighted: component name -> (B,) what it adds to the total.
    """

    total: Tensor
    impossible: Tensor
    refused: Tensor
    raw: dict[str, Tensor]
    weighted: dict[str, Tensor]

    @property
    def worst(self) -> Tensor:
        """(B,) bool, what counts as the worst of its group."""
        return self.impossible | self.refused

    def raw_means(self) -> dict[str, float]:
        """Each component's mean over the crystals it has a number for, comparable between steps."""
        return {name: values.nanmean().item() for name, values in self.raw.items()}
