"""The recipe of `train-rl`, and the reward section that `score` shares with it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator

from chemeleon_cli.core.rewards import BUILT_IN, ReinforceReward
from chemeleon_cli.recipe.base import (
    Count,
    LdmName,
    NotNegative,
    Positive,
    RunName,
    RunRecipe,
    SamplerSection,
    Section,
    mistake,
)
from chemeleon_cli.recipe.conditions import RequestedValue


def _look_for_files(reward: ReinforceReward, info: ValidationInfo) -> ReinforceReward:
    """Let every component look for what it names, and report all that is wrong in its place."""
    mistakes = reward.check(info.context) if info.context else []
    if mistakes:
        tags = {component: tag for tag, component in BUILT_IN.items()}
        lines = []
        for path, text in mistakes:
            if path[0] == "components":
                path = (*path[:2], tags[type(reward.components[int(path[1])])], *path[2:])
            lines.append({"type": mistake(text), "loc": path, "input": None})
        raise ValidationError.from_exception_data("reward", lines)
    return reward


Reward = Annotated[ReinforceReward, AfterValidator(_look_for_files)]


class RlSection(Section):
    """What one step of reinforcement learning does."""

    groups_per_step: Count = 5
    """Groups of crystals generated in one step; the crystals of a group have one number of atoms."""
    num_group_samples: Count = 64
    """Crystals in a group."""
    group_reward_norm: Annotated[bool, Field(validate_default=True)] = True
    """Compare a crystal with its own group (GRPO); false: with all crystals of the step (REINFORCE)."""
    num_inner_batch: Annotated[Count, Field(validate_default=True)] = 2
    """Updates on the crystals of one step, each on its share of the groups."""
    trajectory_steps: Count | None = 10
    """Random denoising steps of each crystal that are learned from; null: all."""
    log_prob: Literal["sum", "mean"] = "sum"
    """Log-probability of a step as the sum over a crystal's latents, or their mean."""
    clip_ratio: Positive = 0.2
    """How far one update may move the probability of a step: about 0.2 with `sum`, 1e-3 with `mean`."""
    kl_weight: NotNegative = 0.01
    """Pull towards the generator it started from."""
    entropy_weight: NotNegative = 0.0
    """Reward for spread; without effect, as the spread of a step is fixed."""
    learn_prior: bool = True
    """For a generator with `oxidation_states`: also learn how often to propose which, from the mean rewards of the
    groups of a step. False: as often as in the training set."""

    @field_validator("num_inner_batch")
    @classmethod
    def _whole_groups(cls, value: int, info: ValidationInfo) -> int:
        groups = info.data.get("groups_per_step", value)
        if value > groups:
            raise mistake(f"found {value}; expected at most groups_per_step, {groups}: a batch holds whole groups")
        return value

    @field_validator("group_reward_norm")
    @classmethod
    def _can_compare(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("num_group_samples") == 1:
            raise mistake("found true; expected false where num_group_samples is 1: a group of one has no rank")
        return value


class RlSamplerSection(SamplerSection):
    """How noise becomes a crystal, with noise at each step that can be reinforced."""

    @field_validator("sampling_steps")
    @classmethod
    def _has_decisions(cls, value: int) -> int:
        if value < 2:
            raise mistake("found 1; expected at least 2: the last step has no noise, so nothing of it can be learned")
        return value

    @field_validator("eta")
    @classmethod
    def _has_noise(cls, value: float, info: ValidationInfo) -> float:
        if value == 0 and info.data.get("sampler") != "ddpm":
            raise mistake("found 0; expected more than 0: without noise a step has no probability to reinforce")
        return value


class RlTrainingSection(Section):
    """How long and how fast a generator is steered (AdamW, linear warm-up, then a constant learning rate)."""

    max_steps: Count = 200
    """Steps; in each, crystals are generated, scored and learned from."""
    max_minutes: Positive | None = None
    """End after this many minutes, if that comes before `max_steps`; null: no limit."""
    learning_rate: Positive = 1e-4
    """The learning rate after the warm-up; it stays there."""
    warmup_steps: Annotated[int, Field(ge=0)] = 5
    """Steps in which the learning rate rises from zero."""
    weight_decay: NotNegative = 0.0
    """AdamW's pull of the weights towards zero."""
    gradient_clip: Positive = 1.0
    """The largest norm of a gradient; longer ones are shortened to it."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per update of the moving average of the weights that is kept as the model; null for none."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Arithmetic of the transformer blocks; `auto` takes bf16 where the machine is fast at it."""
    val_every: Count = 10
    """Steps between two validations: crystals from one fixed seed, rewarded without normalisation."""
    val_samples: Count = 256
    """Crystals of a validation."""
    patience: Count | None = None
    """Stop after this many validations without improvement; null never stops early."""
    unscored_patience: Count = 10
    """Stop with an error after this many steps in a row in which no crystal has a score, so nothing is learned."""


class TrainRl(RunRecipe):
    """Steer a trained generator towards a reward by reinforcement learning."""

    command: ClassVar[str] = "train-rl"
    name: RunName = "rl"
    """The name of the run and of its folder."""
    model: LdmName
    """The generator to start from: a run folder, a checkpoint folder or a name."""
    reward: Reward
    """What a crystal is worth."""
    conditions: list[dict[str, RequestedValue] | None] = []
    """Requests such as `{band_gap: 3.0}`, as in `sample`; each group takes one of them at random, and null asks for
    nothing. Empty: nothing is asked for. If nothing is asked for, a generator with `oxidation_states` takes those of a
    random training crystal; `{oxidation_states: null}` leaves them open."""
    rl: RlSection = RlSection()
    """What one step does."""
    sampling: RlSamplerSection = RlSamplerSection()
    """How crystals are drawn."""
    training: RlTrainingSection = RlTrainingSection()
    """How long and how fast."""

    def warnings(self) -> list[str]:
        """What is allowed but probably not meant, a line each."""
        rl, lines = self.rl, []
        if rl.log_prob == "sum" and rl.clip_ratio <= 0.01:
            lines.append(f"rl.clip_ratio {rl.clip_ratio:g} stops almost every update with log_prob sum; about 0.2 fits")
        if rl.log_prob == "mean" and rl.clip_ratio > 0.01:
            lines.append(f"rl.clip_ratio {rl.clip_ratio:g} never clips with log_prob mean; about 1e-3 fits")
        if rl.entropy_weight:
            lines.append("rl.entropy_weight has no effect: the noise of a step is fixed, and its entropy with it")
        if self.reward.relax is not None:
            count = rl.groups_per_step * rl.num_group_samples
            lines.append(f"reward.relax: {count} crystals are relaxed in every step; on a CPU that can take an hour")
        return lines
