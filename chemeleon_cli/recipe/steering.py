"""The recipe of `train-rl`, and the reward section that `score` shares with it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from chemeleon_cli.core.rewards import BUILT_IN, ReinforceReward
from chemeleon_cli.recipe.base import (
    Count,
    LdmName,
    NotNegative,
    OptimiserSection,
    Positive,
    RunName,
    RunRecipe,
    SamplerSection,
    Section,
    mistake,
    several,
)
from chemeleon_cli.recipe.conditions import RequestedValue


def _look_for_files(reward: ReinforceReward, info: ValidationInfo) -> ReinforceReward:
    """Let every component check the files that it names, and report each mistake at its own field."""
    mistakes = reward.check(info.context) if info.context else []
    if mistakes:
        tags = {component: tag for tag, component in BUILT_IN.items()}
        placed = []
        for path, text in mistakes:
            if path[0] == "components":
                path = (*path[:2], tags[type(reward.components[int(path[1])])], *path[2:])
            placed.append((path, text))
        raise several("reward", placed)
    return reward


Reward = Annotated[ReinforceReward, AfterValidator(_look_for_files)]


class RlSection(Section):
    """The settings of one step of reinforcement learning."""

    groups_per_step: Count = 5
    """Groups of crystals generated in one step. All crystals of a group have the same number of atoms."""
    num_group_samples: Count = 64
    """Number of crystals in a group."""
    group_reward_norm: Annotated[bool, Field(validate_default=True)] = True
    """Compare a crystal's reward with those of its own group (GRPO); false: with those of all crystals of the step
    (REINFORCE)."""
    num_inner_batch: Annotated[Count, Field(validate_default=True)] = 2
    """Number of updates in one step; the groups of the step are divided among them."""
    trajectory_steps: Count | None = 10
    """Number of denoising steps of each crystal, chosen at random, that the model learns from; null: all of them."""
    log_prob: Literal["sum", "mean"] = "sum"
    """The log-probability of a denoising step: the `sum` over all latents of a crystal, or their `mean`."""
    clip_ratio: Positive = 0.2
    """The clip range of PPO: how far the ratio of the new to the old probability of a denoising step may move from 1.
    Use about 0.2 with `log_prob: sum` and 1e-3 with `mean`."""
    kl_weight: NotNegative = 0.01
    """Weight of the KL divergence from the generator that the run started from. A larger weight keeps it closer."""
    entropy_weight: NotNegative = 0.0
    """Weight of an entropy bonus. It has no effect, because the noise of a denoising step has a fixed variance."""
    learn_prior: bool = True
    """For a generator with `oxidation_states`: also learn how often to propose which oxidation states, from the mean
    rewards of the groups of a step. False: propose them as often as they occur in the training set."""

    @field_validator("num_inner_batch")
    @classmethod
    def _whole_groups(cls, value: int, info: ValidationInfo) -> int:
        groups = info.data.get("groups_per_step", value)
        if value > groups:
            raise mistake(f"found {value}; expected at most groups_per_step, {groups}: an update takes whole groups")
        return value

    @field_validator("group_reward_norm")
    @classmethod
    def _can_compare(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("num_group_samples") == 1:
            raise mistake("found true; expected false where num_group_samples is 1: a group of one compares nothing")
        return value


class RlSamplerSection(SamplerSection):
    """How crystals are sampled in reinforcement learning, which needs random denoising steps."""

    @field_validator("sampling_steps")
    @classmethod
    def _has_decisions(cls, value: int) -> int:
        if value < 2:
            raise mistake("found 1; expected at least 2: the last step adds no noise, so it teaches nothing")
        return value

    @field_validator("eta")
    @classmethod
    def _has_noise(cls, value: float, info: ValidationInfo) -> float:
        if value == 0 and info.data.get("sampler") != "ddpm":
            raise mistake("found 0; expected more than 0: without noise, a step has no probability to reinforce")
        return value


class RlTrainingSection(OptimiserSection):
    """The length of the training and the settings of the optimiser (AdamW, linear warm-up, then a constant learning
    rate)."""

    max_steps: Count = 200
    """Number of steps. In each, crystals are generated and scored, and the model learns from them."""
    max_minutes: Positive | None = None
    """Stop after this many minutes if `max_steps` are not reached before; null: no limit."""
    learning_rate: Positive = 1e-4
    """The constant learning rate after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 5
    """Number of steps in which the learning rate rises linearly from zero."""
    weight_decay: NotNegative = 0.0
    """Weight decay of AdamW."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per update of the exponential moving average (EMA) of the weights, which is saved as the model; null: no
    average."""
    val_every: Count = 10
    """Number of steps between two validations. Each samples crystals from the same seed and scores them without
    normalising the rewards."""
    val_samples: Count = 256
    """Number of crystals sampled in a validation."""
    unscored_patience: Count = 10
    """Stop with an error after this many steps in a row in which no crystal could be scored, so nothing is learned."""


class TrainRl(RunRecipe):
    """Steer a trained generator towards a reward by reinforcement learning."""

    command: ClassVar[str] = "train-rl"
    name: RunName = "rl"
    """The name of the run and of its folder."""
    model: LdmName
    """The generator to start from: a run folder, a checkpoint folder or a name."""
    reward: Reward
    """The reward of a crystal: a weighted sum of components."""
    conditions: list[dict[str, RequestedValue] | None] = []
    """A list of requests such as `{band_gap: 3.0}`, as in `sample`. Each group gets one of them at random; null is a
    group without a request. Empty: no group has a request. Without a request, a generator with `oxidation_states`
    takes those of a random training crystal; `{oxidation_states: null}` leaves them open."""
    rl: RlSection = RlSection()
    """The settings of one step of reinforcement learning."""
    sampling: RlSamplerSection = RlSamplerSection()
    """How crystals are sampled."""
    training: RlTrainingSection = RlTrainingSection()
    """The length of the training and the settings of the optimiser."""

    def warnings(self) -> list[str]:
        """Warnings about settings that are allowed but probably a mistake, a line each."""
        rl, lines = self.rl, []
        if rl.log_prob == "sum" and rl.clip_ratio <= 0.01:
            lines.append(f"rl.clip_ratio {rl.clip_ratio:g} clips almost every update with log_prob sum; use about 0.2")
        if rl.log_prob == "mean" and rl.clip_ratio > 0.01:
            lines.append(f"rl.clip_ratio {rl.clip_ratio:g} never clips with log_prob mean; use about 1e-3")
        if rl.entropy_weight:
            lines.append("rl.entropy_weight has no effect: the noise of a step, and so its entropy, is fixed")
        if self.reward.relax is not None:
            count = rl.groups_per_step * rl.num_group_samples
            lines.append(f"reward.relax: {count} crystals are relaxed in every step; on a CPU that can take an hour")
        return lines
