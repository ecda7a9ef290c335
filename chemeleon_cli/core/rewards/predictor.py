"""A reward for a predicted property."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from chemeleon_cli.core.rewards.base import RewardComponent, clip_mistakes
from chemeleon_cli.core.scoring.needs import FindModel, Needs
from chemeleon_cli.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from chemeleon_cli.core.scoring.candidates import Candidates
    from chemeleon_cli.core.scoring.context import ScoringContext


class PredictorReward(RewardComponent):
    """Minus the squared distance of a predicted property from a target value, or the property itself, to maximise."""

    type: Literal["predictor"] = "predictor"
    """The kind of reward."""
    predictor: str
    """A predictor: a run folder, a checkpoint folder or a name."""
    target_name: str
    """The target of the predictor to reward."""
    target_value: float | None = None
    """The value to reach, in the unit of the target; null to maximise the property."""
    clip_min: float | None = None
    """Lower limit of predictions; null for no limit. Use 0 for a band gap, which may be predicted below zero."""
    clip_max: float | None = None
    """Upper limit of predictions; null for no limit."""

    @property
    def name(self) -> str:
        """The name of the target."""
        return self.target_name

    def needs(self) -> Needs:
        """The predictor."""
        return Needs(predictors=frozenset([self.predictor]))

    def check(self, find_model: FindModel) -> list[tuple[str, str]]:
        """Check that the predictor exists and has this target."""
        wrong = predictor_mistake(self.predictor, find_model)
        if wrong:
            return [("predictor", wrong)]
        targets = predictor_targets(self.predictor, find_model)
        if targets is not None and (text := self._without_target(targets)):
            return [("target_name", text)]
        return clip_mistakes(self.clip_min, self.clip_max)

    def prepare(self, context: ScoringContext) -> None:
        """Check the target, which is not known earlier for a predictor that had to be downloaded.

        Raises:
            UserError: the predictor has no such target.
        """
        if text := self._without_target(context.predictors[self.predictor].targets):
            raise UserError(f"target_name: {text}")

    def _without_target(self, targets: Sequence[str]) -> str:
        """The mistake if the target is not among these; "" if it is."""
        if self.target_name in targets:
            return ""
        meant = did_you_mean(self.target_name, targets)
        return f"found '{self.target_name}'; {self.predictor} predicts {', '.join(targets)}{meant}"

    def compute(self, candidates: Candidates) -> Tensor:
        """(B,) in the square of the target's unit; in the target's unit if `target_value` is null."""
        values = candidates.predict(self.predictor)[self.target_name]
        if self.clip_min is not None or self.clip_max is not None:
            values = values.clamp(self.clip_min, self.clip_max)
        return values if self.target_value is None else -((values - self.target_value) ** 2)


def predictor_mistake(name: str, find_model: FindModel) -> str | None:
    """Why the name of a predictor is wrong, or None if it is right."""
    try:
        find_model(name, "predictor")
    except UserError as error:
        return error.in_one_line
    return None


def predictor_targets(name: str, find_model: FindModel) -> list[str] | None:
    """The targets of a predictor, from its meta.json; None if it has not been downloaded yet."""
    from chemeleon_cli.core.training.checkpoint import read_meta

    folder = find_model(name, "predictor")
    return None if folder is None else list(read_meta(folder)["config"]["targets"])
