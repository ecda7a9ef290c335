"""A reward for compounds whose charges balance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from chemeleon_cli.core.rewards.base import RewardComponent

if TYPE_CHECKING:
    from torch import Tensor

    from chemeleon_cli.core.scoring.candidates import Candidates


class ChargeBalanceReward(RewardComponent):
    """1 where oxidation states of the ICSD balance by SMACT's rule, 0 where none do; elements and alloys, which need
    not balance, get 1. It takes the place of the guard `charge_imbalance`, which leaves the others unscored: take
    that guard out of `guards` beside it."""

    type: Literal["charge_balance"] = "charge_balance"
    """The kind of reward."""

    def compute(self, candidates: Candidates) -> Tensor:
        """(B,) without unit, 0 or 1; see `validity.smact_valid`."""
        import torch

        return candidates.smact_valid.double().masked_fill(~candidates.has_form, torch.nan)
