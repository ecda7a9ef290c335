"""A reward for unique and novel crystals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from chemeleon_cli.core.rewards.base import RewardComponent, reference_mistake
from chemeleon_cli.core.scoring.needs import FindModel, Needs

if TYPE_CHECKING:
    from torch import Tensor

    from chemeleon_cli.core.scoring.candidates import Candidates


class CreativityReward(RewardComponent):
    """1 for a crystal that is unique among all that the run has generated and novel against a reference set, 0 for one
    that is neither, and for one that is only one of the two its distance, below 1, from the crystals that it copies.
    Computed for the relaxed crystal if the reward section has `relax`."""

    type: Literal["creativity"] = "creativity"
    """The kind of reward."""
    reference_dataset: str | None = None
    """A data folder; crystals are compared with all of its splits. Null for the train split of the generator's training
    set."""

    def needs(self) -> Needs:
        """The crystals of the reference set; a run then also keeps a memory of what it generated."""
        return Needs(known=frozenset([self.reference_dataset]))

    def check(self, find_model: FindModel) -> list[tuple[str, str]]:
        """Check that the data folder exists."""
        return reference_mistake(self.reference_dataset)

    def compute(self, candidates: Candidates) -> Tensor:
        """(B,) dimensionless, in [0, 1]; see `novelty.creativity`."""
        evaluated = candidates.evaluated
        values = evaluated.creativity_against(self.reference_dataset)
        for i in (values.isnan() & candidates.has_form).nonzero().flatten().tolist():
            lost = evaluated.problems[i]
            candidates.note(self.name, i, f"relaxation: {lost}" if lost else "a comparison ran out of time")
        return values
