"""What `chemeleon score` says of a whole file: figures for JSON, and the tables that are printed."""

from __future__ import annotations

import importlib.metadata
import itertools
import math
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemeleon_cli.core.machine import processors

if TYPE_CHECKING:
    from rich.console import Console

    from chemeleon_cli.core.rewards import ReinforceReward, Scores
    from chemeleon_cli.core.scoring.candidates import Candidates
    from chemeleon_cli.core.scoring.context import Tools
    from chemeleon_cli.core.scoring.protocols import Rate
    from chemeleon_cli.recipe.models import Score

PACKAGES = ("torch", "pymatgen", "smact", "spglib", "scipy", "chgnet", "mace-torch", "chemeleon-cli")
MEASURED_STEPS = 5
"""Steps of one relaxation that tell how long all will take."""


def announce(candidates: Candidates, console: Console) -> None:
    """Say how long relaxing will take, from a few steps of a crystal of median size."""
    tools, forms = candidates.tools, sorted((s for s in candidates.canonical if s is not None), key=len)
    assert tools.energy_model is not None and tools.relax is not None, "checked with the recipe"
    if not forms:
        return
    median = forms[len(forms) // 2]
    tools.energy_model.relax([median], tools.relax.fmax, 1)  # what is compiled on first use is not measured
    start = time.perf_counter()
    steps = tools.energy_model.relax([median], 1e-9, MEASURED_STEPS)[0].steps
    rate = (time.perf_counter() - start) / max(steps, 1)
    workers = min(processors(), len(forms)) if tools.device == "cpu" else 1
    minutes = len(forms) * tools.relax.steps * rate / workers / 60
    console.print(
        f"relaxing {len(forms)} crystals by {tools.energy_model.name}: about {max(minutes, 0.1):.1f} min "
        "if none converges early "
        f"({rate:.2g} s a step for {len(median)} atoms, {tools.relax.steps} steps, {workers} at a time)",
        highlight=False,
        soft_wrap=True,
    )


def figures(
    recipe: Score, candidates: Candidates, columns: Mapping[str, list[Any]], scores: Scores | None
) -> dict[str, Any]:
    """Everything that is printed and what it depends on, as plain values."""
    tools, valid = candidates.tools, columns["valid"]
    reference = tools.known.get(recipe.reference)
    model, hull = tools.energy_model, tools.hull
    formed = [group for group in columns["group"] if group is not None]
    summary: dict[str, Any] = {
        "file": recipe.file,
        "n": len(candidates),
        "valid": _share(sum(valid), len(valid)),
        "unique_of_valid": _share(len(set(formed)), len(formed)),
        "novel_of_valid": _share(columns["novel"].count(True), int(candidates.has_form.sum())) if reference else None,
        "guards": {name: _share(sum(columns[name]), len(valid)) for name in candidates.guards},
        "reference": reference and {"name": reference.name, "sha256": reference.sha256},
        "energy_model": model and {"name": model.name, "energy_scale": model.energy_scale},
        "hull": hull and {"name": hull.name, **asdict(hull.manifest)},
        "relax": tools.relax and tools.relax.model_dump(),
        "matching": asdict(tools.matching),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "smact_valid_of_valid": _share(columns["smact_valid"].count(True), sum(valid)),
        "impossible": _counts(text.split(":")[0] for text in columns["problem"] if text),
        "measured": {
            name: _mean_and_median(values)
            for name, values in columns.items()
            if name.startswith("predicted_") or name in MEASURED
        },
        "relaxation_converged": columns["relaxation_converged"].count(True) if tools.relax else None,
        "reward": recipe.reward and scores and _rewards(recipe.reward, candidates, scores),
        "unscored": _reasons(candidates),
    }
    if model and hull and reference:
        summary["protocols"] = _protocols(candidates, columns)
    return summary


def _protocols(candidates: Candidates, columns: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Each published definition's figures; null where it wants relaxed crystals and they are not."""
    from chemeleon_cli.core.scoring.protocols import PROTOCOLS, rates

    found: dict[str, Any] = {}
    for protocol in PROTOCOLS:
        if protocol.relaxed and candidates.tools.relax is None:
            found[protocol.name] = None
            continue
        prefix, judged = ("relaxed_", candidates.relaxed) if protocol.relaxed else ("", candidates)
        sun, msun = rates(protocol, *(columns[prefix + name] for name in ("unique", "novel", "e_above_hull")))
        guards = {name: fired.tolist() for name, fired in judged.guards.items()}
        found[protocol.name] = {
            "source": protocol.source,
            "crystals": "relaxed" if protocol.relaxed else "as given",
            "n": len(candidates),
            "guards": {name: _share(sum(fired), len(candidates)) for name, fired in guards.items()},
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
        name: _share(sum(f and c for f, c in zip(fired, rate.counted, strict=True)), count)
        for name, fired in guards.items()
    }
    return {"share": rate.share, "interval_95": [rate.low, rate.high], "count": count, "guards": among}


def show(recipe: Score, candidates: Candidates, summary: Mapping[str, Any], console: Console) -> None:
    """Print the tables."""
    from rich.table import Table

    table = Table(title=f"{recipe.file}: {summary['n']} crystals", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("of")
    table.add_row("valid", _percent(summary["valid"]), "all")
    table.add_row("unique", _percent(summary["unique_of_valid"]), "valid")
    if summary["reference"]:
        table.add_row(f"novel (against {summary['reference']['name']})", _percent(summary["novel_of_valid"]), "valid")
    table.add_row("charges balance (SMACT)", _percent(summary["smact_valid_of_valid"]), "valid")
    for reason, count in summary["impossible"].items():
        table.add_row(f"impossible: {reason}", str(count), "all")
    for column, found in summary["measured"].items():
        text = f"{found['mean']:.4g}, {found['median']:.4g}" if found else "none"
        table.add_row(f"{column}: mean, median", text, "valid")
    if summary["relaxation_converged"] is not None:
        table.add_row("relaxed: converged", str(summary["relaxation_converged"]), "valid")
    for name, found in (summary["reward"] or {}).items():
        _reward_rows(table.add_row, name, found)
    for fact, reasons in summary["unscored"].items():
        for reason, count in itertools.islice(reasons.items(), MOST_REASONS):
            table.add_row(f"unscored, {fact}: {reason}", str(count), "valid")
    console.print(table)
    if summary.get("protocols"):
        return _show_protocols(summary, candidates.tools, console)
    if candidates.tools.energies:
        console.print(candidates.tools.energies, highlight=False, soft_wrap=True)
    if summary["energy_model"] and summary["hull"]:
        console.print("S.U.N. is not computed: novelty is not measured", highlight=False)


MEASURED = ("e_above_hull", "relaxed_e_above_hull")
"""Columns of energies whose mean is printed, eV/atom."""
MOST_REASONS = 3
"""How many of the reasons for which crystals have no number are printed, of each fact."""


def _show_protocols(summary: Mapping[str, Any], tools: Tools, console: Console) -> None:
    from rich.table import Table

    reference = summary["reference"]
    title = (
        f"Stable, unique, novel: share of all {summary['n']} [95 % bootstrap interval]\n"
        f"{tools.energies}; novel against {reference['name']}, {(reference['sha256'] or '')[:12]}"
    )
    table = Table(title=title, title_justify="left")
    for header in ("as defined by", "crystals", "S.U.N.", "", "M.S.U.N.", ""):
        table.add_column(header)
    for name, found in summary["protocols"].items():
        if found is None:
            table.add_row(name, "relaxed", "needs relax", "", "", "")
        else:
            table.add_row(name, found["crystals"], *_cells(found["sun"]), *_cells(found["msun"]))
    console.print(table)
    guards = Table(title="Guards: share of all, and of what is counted above", title_justify="left")
    guards.add_column("")
    guards.add_column("all", justify="right")
    relaxed = next((f["guards"] for f in summary["protocols"].values() if f and f["crystals"] == "relaxed"), None)
    if relaxed:
        guards.add_column("all, relaxed", justify="right")
    counted = [
        (f"{name} {label}", found[key]["guards"])
        for name, found in summary["protocols"].items()
        if found
        for key, label in (("sun", "S.U.N."), ("msun", "M.S.U.N."))
        if found[key]
    ]
    for label, _ in counted:
        guards.add_column(label, justify="right")
    for name, share in summary["guards"].items():
        of_all = [share] if relaxed is None else [share, relaxed[name]]
        among = [figures.get(name) for _, figures in counted]
        guards.add_row(name.replace("_", " "), *map(_percent, [*of_all, *among]))
    console.print(guards)


def _cells(figure: Mapping[str, Any] | None) -> tuple[str, str]:
    if figure is None:
        return "not defined", ""
    low, high = (100 * end for end in figure["interval_95"])
    above = "0 < E" if figure.get("without_stable") else "E"
    where = f"{above} <= {figure['e_above_hull_at_most']:g} eV/atom"
    return where, f"{_percent(figure['share'])} [{low:.1f}, {high:.1f}]"


def _reasons(candidates: Candidates) -> dict[str, dict[str, int]]:
    """Why crystals have no number, by fact or component; what a component only passes on is said once."""
    notes = dict(candidates.notes)
    if notes.get("e_above_hull") and notes.get("energy") == notes["e_above_hull"]:
        del notes["energy"]
    return {fact: _counts(reasons.values()) for fact, reasons in notes.items() if reasons}


def _counts(texts: Iterable[str]) -> dict[str, int]:
    """How often each is there, the most frequent first."""
    return dict(Counter(texts).most_common())


def _rewards(reward: ReinforceReward, candidates: Candidates, scores: Scores) -> dict[str, dict[str, Any]]:
    """Each component's mean in its own unit and how many it has no number for; of a predicted target, how close."""
    from chemeleon_cli.core.rewards import PredictorReward

    means, found = scores.raw_means(), {}
    for name, component in zip(reward.names(), reward.components, strict=True):
        missing = int((scores.raw[name].isnan() & ~scores.impossible).sum())
        found[name] = {"raw_mean": means[name], "unscored": missing}
        if isinstance(component, PredictorReward) and component.target_value is not None:
            wanted, far = component.target_value, 0.1 * abs(component.target_value)
            off = (candidates.predict(component.predictor)[component.target_name] - wanted).abs()
            found[name] |= {
                "target": f"{component.target_name} by {Path(component.predictor).name}",
                "target_value": wanted,
                "mean_distance": off.nanmean().item(),
                "window": [wanted - far, wanted + far],
                "in_window_of_valid": _share(int((off <= far).sum()), int(candidates.valid.sum())),
            }
    return found


def _reward_rows(add: Any, name: str, found: Mapping[str, Any]) -> None:
    add(f"reward {name}: raw mean", f"{found['raw_mean']:.4g}", "scored")
    if "target" in found:
        by, (low, high) = found["target"], found["window"]
        add(f"{by}: mean distance from {found['target_value']:.4g}", f"{found['mean_distance']:.4g}", "valid")
        add(f"{by} in {low:.4g} to {high:.4g}", _percent(found["in_window_of_valid"]), "valid")
    if found["unscored"]:
        add(f"reward {name}: unscored", str(found["unscored"]), "valid")


def _share(part: int, whole: int) -> float | None:
    """None of nothing."""
    return part / whole if whole else None


def _percent(share: float | None) -> str:
    return "none" if share is None or math.isnan(share) else f"{100 * share:.1f} %"


def _mean_and_median(values: Iterable[float]) -> dict[str, float] | None:
    """Of those that are known; None where none is."""
    known = sorted(value for value in values if not math.isnan(value))
    return {"mean": statistics.fmean(known), "median": statistics.median(known)} if known else None
