"""A reward for stability."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from chemeleon_cli.core.rewards.base import FindModel, Needs, RewardComponent

if TYPE_CHECKING:
    from torch import Tensor

    from chemeleon_cli.core.scoring.candidates import Candidates


class EnergyReward(RewardComponent):
    """Minus the energy above the hull, within limits; as Chemeleon2 has it (Park & Walsh 2025, arXiv:2511.07158).

    It is that of the relaxed crystal where the reward section says `relax`. A crystal for which hull or potential are
    not to be believed has no number, where Chemeleon2 gives it the worst one.
    """

    type: Literal["energy"] = "energy"
    """The kind of reward."""
    clip_min: float | None = 0.0
    """Energies above the hull that are lower, eV/atom, count as this: below the hull is as good as on it. Null: no
    limit."""
    clip_max: float | None = 1.0
    """Energies above the hull that are higher, eV/atom, count as this. Null: no limit."""

    def needs(self) -> Needs:
        """A potential and a hull."""
        return Needs(hull=True)

    def check(self, find_model: FindModel) -> list[tuple[str, str]]:
        """Whether the limits are in order."""
        if self.clip_min is not None and self.clip_max is not None and self.clip_min >= self.clip_max:
            return [("clip_min", f"found {self.clip_min:g}; expected less than clip_max, {self.clip_max:g}")]
        return []

    def compute(self, candidates: Candidates) -> Tensor:
        """(B,) eV/atom, at most 0 with the default limits."""
        judged = candidates.judged
        above = judged.e_above_hull
        for i, reason in judged.notes.get("e_above_hull", {}).items():
            candidates.note(self.name, i, reason)
        return -(above if self.clip_min is self.clip_max is None else above.clamp(self.clip_min, self.clip_max))
