"""A reward for what is new."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from chemeleon_cli.core.rewards.base import FindModel, Needs, RewardComponent, reference_mistake

if TYPE_CHECKING:
    from torch import Tensor

    from chemeleon_cli.core.scoring.candidates import Candidates


class CreativityReward(RewardComponent):
    """1 for a crystal that is unique in all that the run has generated and novel against a reference set, 0 for one
    that is neither, and for one that is only one of the two its distance from what it repeats, below 1. It is that of
    the relaxed crystal where the reward section says `relax`."""

    type: Literal["creativity"] = "creativity"
    """The kind of reward."""
    reference_dataset: str | None = None
    """A data folder, whose train split is what novelty is against; null: the set that the generator was trained
    on."""

    def needs(self) -> Needs:
        """The reference set's crystals, and the run's memory."""
        return Needs(known=frozenset([self.reference_dataset]))

    def check(self, find_model: FindModel) -> list[tuple[str, str]]:
        """Whether there is such a data folder."""
        return reference_mistake(self.reference_dataset)

    def compute(self, candidates: Candidates) -> Tensor:
        """(B,) without unit, in [0, 1]; see `novelty.creativity`."""
        import torch

        judged = candidates.judged
        values = torch.tensor(judged.newness(self.reference_dataset).values, dtype=torch.float64)
        for i in (values.isnan() & candidates.has_form).nonzero().flatten().tolist():
            lost = judged.problems[i]
            candidates.note(self.name, i, f"relaxation: {lost}" if lost else "a comparison ran out of time")
        return values
