"""The total reward: a weighted sum of normalised components."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Literal, Union

from pydantic import Field

from chemeleon_cli.core.normalise import NormalizeFn, normalise
from chemeleon_cli.core.rewards.base import RewardComponent
from chemeleon_cli.core.rewards.charge_balance import ChargeBalanceReward
from chemeleon_cli.core.rewards.creativity import CreativityReward
from chemeleon_cli.core.rewards.custom import CustomReward
from chemeleon_cli.core.rewards.diversity import CompositionDiversity, StructureDiversity
from chemeleon_cli.core.rewards.energy import EnergyReward
from chemeleon_cli.core.rewards.predictor import PredictorReward
from chemeleon_cli.core.rewards.shortest_contact import ShortestContact
from chemeleon_cli.core.scoring.needs import FindModel, Needs
from chemeleon_cli.core.scoring.scores import Scores
from chemeleon_cli.core.scoring.settings import EnergySettings

if TYPE_CHECKING:
    from torch import Tensor

    from chemeleon_cli.core.scoring.candidates import Candidates
    from chemeleon_cli.core.scoring.context import ScoringContext

BUILT_IN: dict[str, type[RewardComponent]] = {
    "charge_balance": ChargeBalanceReward,
    "creativity": CreativityReward,
    "energy": EnergyReward,
    "predictor": PredictorReward,
    "shortest_contact": ShortestContact,
    "structure_diversity": StructureDiversity,
    "composition_diversity": CompositionDiversity,
    "custom": CustomReward,
}
"""The class of each `type` that a recipe may name."""

Guard = Literal["charge_imbalance", "single_element", "uncharted_alloy"]
"""Facts of `Candidates` that exclude a possible crystal from rewards."""

UNCHARTED = "uncharted_alloy"

if TYPE_CHECKING:
    AnyComponent = RewardComponent
else:
    AnyComponent = Annotated[Union[tuple(BUILT_IN.values())], Field(discriminator="type")]  # noqa: UP007


class ReinforceReward(EnergySettings):
    """The total reward of a crystal: the weighted sum of its components, each normalised over the batch."""

    components: Annotated[list[AnyComponent], Field(min_length=1)]
    """The rewards to add up, each with its `type`."""
    normalize_fn: NormalizeFn = "std"
    """Normalisation of the sums, within each group or over the batch: norm, std, subtract_mean, clip, none or null."""
    eps: Annotated[float, Field(gt=0)] = 1e-4
    """If the spread of the sums is smaller than this, no crystal is preferred."""
    guards: list[Guard] = ["charge_imbalance", "single_element"]
    """Possible crystals that are left unscored, because their rewards would be too easy to obtain: compounds that are
    not charge-balanced by SMACT's rule (`charge_imbalance`), crystals of one element (`single_element`) and, with a
    hull, alloys two of whose metals have no compound in it (`uncharted_alloy`)."""
    refused: list[Guard] = []
    """Crystals, named as in `guards`, that count as the worst of their group instead, like impossible ones. Crystals
    that are only unscored can become more frequent if they are easier to generate."""

    def names(self) -> list[str]:
        """The names of the components; repeated names are numbered."""
        seen: Counter[str] = Counter()
        names = []
        for component in self.components:
            seen[component.name] += 1
            names.append(component.name if seen[component.name] == 1 else f"{component.name}_{seen[component.name]}")
        return names

    def needs(self) -> Needs:
        """What must be loaded for all components."""
        needs = Needs()
        for component in self.components:
            needs |= component.needs()
        return needs

    def check(self, find_model: FindModel) -> list[tuple[tuple[str | int, ...], str]]:
        """Check all fields, without importing torch and without reading data.

        Returns:
            (path of the field within this section, message) for every mistake.
        """
        mistakes: list[tuple[tuple[str | int, ...], str]] = [((field,), text) for field, text in self.check_energies()]
        lacking = " and ".join(name for name in ("energy_model", "hull") if getattr(self, name) is None)
        default = "" if "guards" in self.model_fields_set else " (by default)"
        if twice := sorted({*self.guards} & {*self.refused}):
            text = f"found {twice[0]}{default}, which is refused as well; expected it in one of the two"
            mistakes.append((("guards",), text))
        balance = any(isinstance(c, ChargeBalanceReward) and c.weight for c in self.components)
        for field, names in {"guards": self.guards, "refused": self.refused}.items():
            if UNCHARTED in names and lacking:
                text = f"found '{UNCHARTED}', which needs {lacking}; expected it beside `components`"
                mistakes.append(((field,), text))
            if balance and "charge_imbalance" in names:
                text = f"found charge_imbalance{default if field == 'guards' else ''}, which leaves unscored what"
                expected = "expected it left out, as in `guards: [single_element]`"
                mistakes.append(((field,), f"{text} charge_balance gives 0; {expected}"))
        for i, component in enumerate(self.components):
            found = component.check(find_model)
            if not found and lacking and component.needs().hull:
                found = [("type", f"found '{component.name}', which needs {lacking}; expected it beside `components`")]
            mistakes += [(("components", i, *key.split(".")), text) for key, text in found]
        return mistakes

    def prepare(self, context: ScoringContext) -> None:
        """Called once, after everything that is needed has been loaded."""
        for component in self.components:
            component.prepare(context)

    def __call__(self, candidates: Candidates) -> Scores:
        """Score a batch. `normalize_fn` is not yet applied to the total; `grpo.group_advantage` does that."""
        import torch

        impossible = ~candidates.valid
        refused, guarded = torch.zeros(2, len(candidates), dtype=torch.bool)
        for fired, names in ((refused, self.refused), (guarded, self.guards)):
            for name in names:
                found = getattr(candidates, name) & ~impossible
                for i in found.nonzero().flatten().tolist():
                    candidates.note("reward", i, name)
                fired |= found
        named = dict(zip(self.names(), self.components, strict=True))
        raw = dict.fromkeys(named, torch.zeros(0))  # in the order of the recipe, whatever is computed first
        stopped = impossible | refused | guarded
        scored = ~stopped
        for relative in (False, True):
            candidates.left_out = ~scored & ~impossible  # so that the order of the components does not matter
            for name, component in named.items():
                if component.relative is relative:
                    raw[name] = _known(component, candidates, stopped)
                    if component.weight:  # a component that is only reported leaves no crystal unscored
                        scored = scored & ~raw[name].isnan()
        total = torch.zeros(len(candidates), dtype=torch.float64).masked_fill(~scored, torch.nan)
        weighted: dict[str, Tensor] = {}
        for name, component in named.items():
            comparable = raw[name].masked_fill(~scored, torch.nan)
            weighted[name] = component.weight * normalise(comparable, component.normalize_fn, component.eps)
            if component.weight:
                total = total + weighted[name]
        total = _in_float32(total, candidates, "reward")
        raw, weighted = ({name: values.float() for name, values in found.items()} for found in (raw, weighted))
        return Scores(total.float(), impossible, refused, raw, weighted)

    def why_unscored(self, candidates: Candidates, scores: Scores) -> Counter[str]:
        """Why crystals have no total, with counts. The reason of a crystal is what makes it impossible, the guard that
        stopped it, or the first component without a value for it."""
        found: Counter[str] = Counter()
        for i in scores.total.isnan().nonzero().flatten().tolist():
            stopped = candidates.notes["reward"].get(i)
            if scores.impossible[i]:
                found[f"impossible ({candidates.problems[i]})"] += 1
            elif stopped is not None:
                kind = "refused: " if scores.refused[i] else "guard " if stopped in self.guards else ""
                found[f"{kind}{stopped}"] += 1
            else:
                found[self._without_value(candidates, scores, i)] += 1
        return found

    def _without_value(self, candidates: Candidates, scores: Scores, i: int) -> str:
        """The first component that has no value for crystal i, and why."""
        for (name, values), component in zip(scores.raw.items(), self.components, strict=True):
            if component.weight and values[i].isnan():
                notes = (candidates.notes.get(key, {}) for key in (component.name, "canonical"))
                reason = next((reasons[i] for reasons in notes if i in reasons), None)
                return f"{name}: {reason or 'no value'}"
        raise AssertionError("a crystal without a total has a component without a value")


def _known(component: RewardComponent, candidates: Candidates, stopped: Tensor) -> Tensor:
    """(B,) float64 values of a component, NaN for crystals that are stopped or have no value."""
    import torch

    values = component.compute(candidates).detach().cpu().double().masked_fill(stopped, torch.nan)
    return _in_float32(values, candidates, component.name)


def _in_float32(values: Tensor, candidates: Candidates, component: str) -> Tensor:
    """Replace values that float32 cannot represent by NaN, and note the reason."""
    import torch

    beyond = values.float().isinf()
    for i in beyond.nonzero().flatten().tolist():
        found = values[i].item()
        candidates.note(component, i, "infinite" if math.isinf(found) else "beyond the range of float32, 3.4e38")
    return values.masked_fill(beyond, torch.nan)
