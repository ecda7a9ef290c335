"""A reward for stability."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from chemeleon_cli.core.rewards.base import RewardComponent, clip_mistakes
from chemeleon_cli.core.scoring.needs import FindModel, Needs

if TYPE_CHECKING:
    from torch import Tensor

    from chemeleon_cli.core.scoring.candidates import Candidates


class EnergyReward(RewardComponent):
    """Minus the clipped energy above the hull, as in Chemeleon2 (Park & Walsh 2025, arXiv:2511.07158).

    Computed for the relaxed crystal if the reward section has `relax`. A crystal for which the hull lacks references or
    the potential fails is unscored, while Chemeleon2 gives it the worst value.
    """

    type: Literal["energy"] = "energy"
    """The kind of reward."""
    clip_min: float | None = 0.0
    """Lower limit of the energy above the hull, eV/atom; with 0, below the hull is as good as on it. Null for no
    limit."""
    clip_max: float | None = 1.0
    """Upper limit of the energy above the hull, eV/atom; null for no limit."""

    def needs(self) -> Needs:
        """A potential and a hull."""
        return Needs(hull=True)

    def check(self, find_model: FindModel) -> list[tuple[str, str]]:
        """Check that clip_min is below clip_max."""
        return clip_mistakes(self.clip_min, self.clip_max)

    def compute(self, candidates: Candidates) -> Tensor:
        """(B,) eV/atom, at most 0 with the default limits."""
        evaluated = candidates.evaluated
        above = evaluated.e_above_hull
        for i, reason in evaluated.notes.get("e_above_hull", {}).items():
            candidates.note(self.name, i, reason)
        return -(above if self.clip_min is self.clip_max is None else above.clamp(self.clip_min, self.clip_max))
