"""A reward for compounds whose charges balance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from chemeleon_cli.core.rewards.base import RewardComponent

if TYPE_CHECKING:
    from torch import Tensor

    from chemeleon_cli.core.scoring.candidates import Candidates


class ChargeBalanceReward(RewardComponent):
    """1 if oxidation states of the ICSD balance by SMACT's rule, else 0; elements and alloys, which need not balance,
    get 1. It replaces the guard `charge_imbalance`, which leaves unbalanced crystals unscored and must be removed from
    `guards`."""

    type: Literal["charge_balance"] = "charge_balance"
    """The kind of reward."""

    def compute(self, candidates: Candidates) -> Tensor:
        """(B,) dimensionless, 0 or 1; see `validity.smact_valid`."""
        import torch

        return candidates.smact_valid.double().masked_fill(~candidates.has_form, torch.nan)
