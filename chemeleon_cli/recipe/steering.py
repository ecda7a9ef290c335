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
    Share,
    mistake,
)
from chemeleon_cli.recipe.conditions import Wish


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


class TrainRl(RunRecipe, SamplerSection):
    """Steer a trained generator towards a reward by reinforcement learning."""

    command: ClassVar[str] = "train-rl"
    name: RunName = "rl"
    """The name of the run and of its folder."""
    model: LdmName
    """The generator to start from: a run folder, a checkpoint folder or a name."""
    reward: Reward
    """What a crystal is worth."""
    conditions: list[dict[str, Wish] | None] = []
    """Sets of conditions such as `{band_gap: 3.0}`, as in `sample`; each group draws one of them, null asking for
    nothing. Empty: nothing is asked for. Of a generator with `oxidation_states`, a group that asks for nothing draws
    those of a training crystal; `{oxidation_states: null}` leaves them open."""

    learn_draws: bool = True
    """Of a generator with `oxidation_states`: learn, too, how often to draw which, from how groups of a step compare;
    false: that stays as it is."""

    groups_per_step: Count = 5
    """Groups of crystals drawn in one step; the crystals of a group have one number of atoms."""
    group_reward_norm: bool = True
    """Compare a crystal with its own group (GRPO); false: with all crystals of the step (REINFORCE)."""
    num_group_samples: Count = 64
    """Crystals in a group."""
    num_inner_batch: Annotated[Count, Field(validate_default=True)] = 2
    """Updates on the crystals of one step, each on its share of the groups."""

    log_prob: Literal["sum", "mean"] = "sum"
    """Log-probability of a step as the sum over a crystal's latents, or their mean."""
    clip_ratio: Positive = 0.2
    """How far one update may move the probability of a step: about 0.2 with `sum`, 1e-3 with `mean`."""
    kl_weight: NotNegative = 0.01
    """Pull towards the generator it started from."""
    entropy_weight: NotNegative = 0.0
    """Reward for spread; without effect, as the spread of a step is fixed."""
    trajectory_steps: Count | None = 10
    """Random denoising steps of each crystal that are learned from; null: all."""
    eta: Share = 1.0
    """Noise that ddim adds at each step, in (0, 1]: without noise there is nothing to reinforce."""

    max_steps: Count = 200
    """Steps: crystals are drawn, scored and learned from."""
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

    @field_validator("num_group_samples")
    @classmethod
    def _can_compare(cls, value: int, info: ValidationInfo) -> int:
        if value == 1 and info.data.get("group_reward_norm"):
            raise mistake("found 1; expected at least 2 where group_reward_norm is true: a group of one has no rank")
        return value

    @field_validator("num_inner_batch")
    @classmethod
    def _whole_groups(cls, value: int, info: ValidationInfo) -> int:
        groups = info.data.get("groups_per_step", value)
        if value > groups:
            raise mistake(f"found {value}; expected at most groups_per_step, {groups}: a batch holds whole groups")
        return value

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

    def warnings(self) -> list[str]:
        """What is allowed but probably not meant, a line each."""
        lines = []
        if self.log_prob == "sum" and self.clip_ratio <= 0.01:
            lines.append(f"clip_ratio {self.clip_ratio:g} stops almost every update with log_prob sum; about 0.2 fits")
        if self.log_prob == "mean" and self.clip_ratio > 0.01:
            lines.append(f"clip_ratio {self.clip_ratio:g} never clips with log_prob mean; about 1e-3 fits")
        if self.entropy_weight:
            lines.append("entropy_weight has no effect: the noise of a step is fixed, so its entropy has no gradient")
        if self.reward.relax is not None:
            count = self.groups_per_step * self.num_group_samples
            lines.append(f"reward.relax: {count} crystals are relaxed in every step; on a CPU that can take an hour")
        return lines
