"""The summary of `chemeleon score` for a whole file, as plain values; it is both written and printed."""

from __future__ import annotations

import importlib.metadata
import math
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemeleon_cli.core.potentials import relaxation
from chemeleon_cli.core.rewards import PredictorReward
from chemeleon_cli.core.scoring.protocols import PROTOCOLS, Rate, rates
from chemeleon_cli.core.scoring.uniqueness import share

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from chemeleon_cli.core.rewards import ReinforceReward, Scores
    from chemeleon_cli.core.scoring.candidates import Candidates
    from chemeleon_cli.recipe.models import Score
    from chemeleon_cli.sources.files import Row

PACKAGES = ("torch", "pymatgen", "smact", "spglib", "scipy", "chgnet", "mace-torch", "chemeleon-cli")
MEASURED_STEPS = 5
"""Number of relaxation steps from which the time of all relaxations is estimated."""


def announce(candidates: Candidates, console: Console) -> None:
    """Print how long relaxing will take, estimated from a few steps with a crystal of median size."""
    context, forms = candidates.context, sorted((s for s in candidates.canonical if s is not None), key=len)
    assert context.energy_model is not None and context.relax is not None, "checked with the recipe"
    if not forms:
        return
    median = forms[len(forms) // 2]
    relaxation.relax(context.energy_model, [median], context.relax.fmax, 1)  # compiled on first use, not measured
    start = time.perf_counter()
    steps = relaxation.relax(context.energy_model, [median], 1e-9, MEASURED_STEPS)[0].steps
    rate = (time.perf_counter() - start) / max(steps, 1)
    workers = relaxation.worker_count(context.energy_model.device, len(forms))
    minutes = len(forms) * context.relax.steps * rate / workers / 60
    console.print(
        f"relaxing {len(forms)} crystals with {context.energy_model.name}: at most about {max(minutes, 0.1):.1f} min "
        f"({rate:.2g} s per step for {len(median)} atoms, {context.relax.steps} steps, {workers} at a time)",
        highlight=False,
        soft_wrap=True,
    )


def figures(recipe: Score, rows: list[Row], candidates: Candidates, scores: Scores | None) -> dict[str, Any]:
    """The summary, with everything that its numbers depend on, as plain values."""
    context, uniqueness, n = candidates.context, candidates.uniqueness, len(candidates)
    reference = context.known.get(recipe.reference)
    novelty = candidates.novelty(recipe.reference) if reference else None
    model, hull, valid = context.energy_model, context.hull, int(candidates.valid.sum())
    problems = (row.reason or problem for row, problem in zip(rows, candidates.problems, strict=True))
    summary: dict[str, Any] = {
        "file": recipe.file,
        "n": n,
        "counts": {
            "valid": valid,
            "compared": uniqueness.compared,
            "compared_with_reference": novelty and novelty.compared,
            "matcher_groups": uniqueness.group_count,
        },
        "valid": share(valid, n),
        "unique_of_valid": uniqueness.unique_of_valid,
        "unique_of_all": uniqueness.unique_of_all,
        "novel_of_valid": novelty and novelty.novel_of_valid,
        "guards": {name: share(int(fired.sum()), n) for name, fired in candidates.guards.items()},
        "reference": reference and {"name": reference.name, "sha256": reference.sha256},
        "energy_model": model and {"name": model.name, "energy_scale": model.energy_scale},
        "hull": hull and {"name": hull.name, **asdict(hull.manifest)},
        "relax": context.relax and context.relax.model_dump(),
        "matching": context.matching.model_dump(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "smact_valid_of_valid": share(int(candidates.smact_valid.sum()), valid),
        "impossible": _counts(text.split(":")[0] for text in problems if text),
        "measured": {name: _mean_and_median(values) for name, values in _quantities(candidates).items()},
        "relaxation_converged": _converged(candidates) if context.relax else None,
        "reward": recipe.reward and scores and _rewards(recipe.reward, candidates, scores),
        "unscored": _reasons(candidates),
    }
    if model and hull and reference:
        summary["protocols"] = _protocols(candidates, recipe.reference)
    return summary


def _quantities(candidates: Candidates) -> dict[str, Tensor]:
    """Each quantity whose mean is printed, of shape (B,), by the name of its column in the table."""
    found: dict[str, Tensor] = {}
    if candidates.context.energy_model and candidates.context.hull:
        found["e_above_hull"] = candidates.e_above_hull
        if candidates.context.relax:
            found["relaxed_e_above_hull"] = candidates.relaxed.e_above_hull
    return found | {f"predicted_{name}": values for name, values in candidates.predictions.items()}


def _converged(candidates: Candidates) -> int:
    return sum(found is not None and found.converged for found in candidates.relaxations)


def _protocols(candidates: Candidates, reference: str | None) -> dict[str, Any]:
    """Stability, uniqueness and novelty by each published definition; None if it needs relaxed crystals that are
    missing."""
    found: dict[str, Any] = {}
    for protocol in PROTOCOLS:
        if protocol.relaxed and candidates.context.relax is None:
            found[protocol.name] = None
            continue
        evaluated = candidates.relaxed if protocol.relaxed else candidates
        novel, above = evaluated.novelty(reference).novel, evaluated.e_above_hull.tolist()
        sun, msun = rates(protocol, candidates.valid.tolist(), evaluated.uniqueness, novel, above)
        guards = {name: fired.tolist() for name, fired in evaluated.guards.items()}
        found[protocol.name] = {
            "source": protocol.source,
            "crystals": "relaxed" if protocol.relaxed else "as given",
            "n": sun.of,
            "of": "valid" if protocol.of_valid else "all",
            "measured": int(sun.measured.sum()),
            "guards": {name: share(sum(fired), len(candidates)) for name, fired in guards.items()},
            "sun": {"e_above_hull_at_most": protocol.stable, **_figures(sun, guards)},
            "msun": msun
            and {
                "e_above_hull_at_most": protocol.metastable,
                "without_stable": protocol.apart,
                **_figures(msun, guards),
            },
        }
    return found


def _figures(rate: Rate, guards: Mapping[str, Sequence[bool]]) -> dict[str, Any]:
    count = int(rate.counted.sum())
    among = {
        name: share(sum(f and c for f, c in zip(fired, rate.counted, strict=True)), count)
        for name, fired in guards.items()
    }
    return {"share": rate.share, "interval_95": [rate.low, rate.high], "count": count, "guards": among}


def _reasons(candidates: Candidates) -> dict[str, dict[str, int]]:
    """Why crystals have no value, by quantity or reward component; a reason that both would give is listed once."""
    notes = dict(candidates.notes)
    if notes.get("e_above_hull") and notes.get("energy") == notes["e_above_hull"]:
        del notes["energy"]
    return {fact: _counts(reasons.values()) for fact, reasons in notes.items() if reasons}


def _counts(texts: Iterable[str]) -> dict[str, int]:
    """How often each text occurs, the most frequent first."""
    return dict(Counter(texts).most_common())


def _rewards(reward: ReinforceReward, candidates: Candidates, scores: Scores) -> dict[str, dict[str, Any]]:
    """Each component's mean in its own unit and the number of unscored crystals; for a predicted target also how close
    the crystals are to it."""
    means, found = scores.raw_means(), {}
    for name, component in zip(reward.names(), reward.components, strict=True):
        missing = int((scores.raw[name].isnan() & ~scores.impossible).sum())
        scored = int(scores.raw[name].isfinite().sum())
        found[name] = {"raw_mean": means[name], "scored": scored, "unscored": missing}
        if isinstance(component, PredictorReward) and component.target_value is not None:
            wanted, far = component.target_value, 0.1 * abs(component.target_value)
            off = (candidates.predict(component.predictor)[component.target_name] - wanted).abs()
            found[name] |= {
                "target": f"{component.target_name} by {Path(component.predictor).name}",
                "target_value": wanted,
                "mean_distance": off.nanmean().item(),
                "predicted": int(off.isfinite().sum()),
                "window": [wanted - far, wanted + far],
                "in_window_of_valid": share(int((off <= far).sum()), int(candidates.valid.sum())),
            }
    return found


def _mean_and_median(values: Tensor) -> dict[str, float]:
    """Mean and median of the known numbers, and their count; NaN if there are none."""
    known = [value for value in values.tolist() if not math.isnan(value)]
    mean, median = (statistics.fmean(known), statistics.median(known)) if known else (math.nan, math.nan)
    return {"mean": mean, "median": median, "count": len(known)}
