"""What a crystal can be rewarded for. Recipes read these classes, so none imports torch before it computes.

Imports `scoring` and, of a checkpoint, what `training` reads without torch; nothing of `rl`. Begin with `base.py`,
which every reward inherits from; `sum.py` adds the rewards of a recipe and lists them by name.
"""

from chemeleon_cli.core.rewards.base import Needs, RewardComponent, check_reward
from chemeleon_cli.core.rewards.charge_balance import ChargeBalanceReward
from chemeleon_cli.core.rewards.creativity import CreativityReward
from chemeleon_cli.core.rewards.custom import CustomReward
from chemeleon_cli.core.rewards.diversity import CompositionDiversity, StructureDiversity
from chemeleon_cli.core.rewards.energy import EnergyReward
from chemeleon_cli.core.rewards.predictor import PredictorReward
from chemeleon_cli.core.rewards.settings import EnergySettings, Matching, Relaxation
from chemeleon_cli.core.rewards.shortest_contact import ShortestContact
from chemeleon_cli.core.rewards.sum import BUILT_IN, ReinforceReward, Scores

__all__ = [
    "BUILT_IN",
    "ChargeBalanceReward",
    "CompositionDiversity",
    "CreativityReward",
    "CustomReward",
    "EnergyReward",
    "EnergySettings",
    "Matching",
    "Needs",
    "PredictorReward",
    "ReinforceReward",
    "Relaxation",
    "RewardComponent",
    "Scores",
    "ShortestContact",
    "StructureDiversity",
    "check_reward",
]
