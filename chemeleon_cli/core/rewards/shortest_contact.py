"""A reward against atoms that are too close."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from chemeleon_cli.core.rewards.base import RewardComponent

if TYPE_CHECKING:
    from torch import Tensor

    from chemeleon_cli.core.scoring.candidates import Candidates


class ShortestContact(RewardComponent):
    """The shortest distance between two atoms of a crystal, in units of the sum of their covalent radii (Cordero et
    al. 2008, doi:10.1039/b801115j).

    It measures how far a crystal is from overlapping atoms, while the check of distances only tells whether a crystal
    is possible, and it needs no potential. Of the starter's 2,964 relaxed training crystals, 3 % are below 0.8 and none
    below 0.66.
    """

    type: Literal["shortest_contact"] = "shortest_contact"
    """The kind of reward."""
    clip_max: Annotated[float, Field(gt=0, le=2)] = 0.6
    """Upper limit of the value. With 0.8, a generator's crystals became less dense than those of its training set."""

    def compute(self, candidates: Candidates) -> Tensor:
        """(B,) dimensionless, at most `clip_max`; NaN if an element has no radius (heavier than curium)."""
        import torch

        from chemeleon_cli.core.data.validity import shortest_contact

        out = torch.full((len(candidates),), torch.nan, dtype=torch.float64)
        for i, form in enumerate(candidates.canonical):
            if form is None:
                continue
            contact = shortest_contact(form, self.clip_max)
            if contact is None:
                candidates.note(self.name, i, "an element without a covalent radius")
            else:
                out[i] = contact
        return out
