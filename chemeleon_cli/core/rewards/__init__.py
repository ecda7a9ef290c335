"""The rewards of crystals. Recipes are checked with these classes, so they import torch only when they compute.

Imports `scoring`, `data` and the part of `training` that reads checkpoints without torch; nothing of `rl`. Begin with
`base.py`, the base class of all rewards; `sum.py` lists them by name and adds up those of a recipe.
"""

from chemeleon_cli.core.rewards.base import RewardComponent, check_reward
from chemeleon_cli.core.rewards.charge_balance import ChargeBalanceReward
from chemeleon_cli.core.rewards.creativity import CreativityReward
from chemeleon_cli.core.rewards.custom import CustomReward
from chemeleon_cli.core.rewards.diversity import CompositionDiversity, StructureDiversity
from chemeleon_cli.core.rewards.energy import EnergyReward
from chemeleon_cli.core.rewards.predictor import PredictorReward
from chemeleon_cli.core.rewards.shortest_contact import ShortestContact
from chemeleon_cli.core.rewards.sum import BUILT_IN, ReinforceReward
from chemeleon_cli.core.scoring.needs import FindModel, Needs
from chemeleon_cli.core.scoring.scores import Scores
from chemeleon_cli.core.scoring.settings import EnergySettings, Matching, Relaxation, Section

__all__ = [
    "BUILT_IN",
    "ChargeBalanceReward",
    "CompositionDiversity",
    "CreativityReward",
    "CustomReward",
    "EnergyReward",
    "EnergySettings",
    "FindModel",
    "Matching",
    "Needs",
    "PredictorReward",
    "ReinforceReward",
    "Relaxation",
    "RewardComponent",
    "Scores",
    "Section",
    "ShortestContact",
    "StructureDiversity",
    "check_reward",
]
