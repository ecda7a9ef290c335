"""The tables that `chemeleon score` prints, made from the summary that it writes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from chemeleon_cli.core.scoring.context import ScoringContext

MOST_REASONS = 3
"""Number of reasons for missing values that are printed for each quantity."""


def show(summary: Mapping[str, Any], context: ScoringContext, console: Console) -> None:
    """Print the summary, and the models that the crystals were scored with."""
    n, counts = summary["n"], summary["counts"]
    everything, valid = f"all {n}", f"{counts['valid']} valid"
    table = Table(title=f"{summary['file']}: {n} crystals", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("of")
    table.add_row("valid", _percent(summary["valid"]), everything)
    table.add_row("unique", _percent(summary["unique_of_valid"]), _known_of(counts["compared"], counts))
    if reference := summary["reference"]:
        label = f"novel (against {reference['name']}: {', '.join(reference['sha256'])})"
        table.add_row(label, _percent(summary["novel_of_valid"]), _known_of(counts["compared_with_reference"], counts))
    table.add_row("charges balance (SMACT)", _percent(summary["smact_valid_of_valid"]), valid)
    for reason, count in summary["impossible"].items():
        table.add_row(f"impossible: {reason}", str(count), everything)
    for column, found in summary["measured"].items():
        text = f"{found['mean']:.4g}, {found['median']:.4g}" if found["count"] else "none"
        table.add_row(f"{column}: mean, median", text, _known_of(found["count"], counts))
    if summary["relaxation_converged"] is not None:
        table.add_row("relaxed: converged", str(summary["relaxation_converged"]), valid)
    for name, found in (summary["reward"] or {}).items():
        _reward_rows(table.add_row, name, found, counts)
    for fact, reasons in summary["unscored"].items():
        for reason, count in itertools.islice(reasons.items(), MOST_REASONS):
            table.add_row(f"unscored, {fact}: {reason}", str(count), valid)
    console.print(table)
    if summary.get("protocols"):
        return _show_protocols(summary, context, console)
    if context.energies:
        console.print(context.energies, highlight=False, soft_wrap=True)
    if summary["energy_model"] and summary["hull"]:
        console.print("S.U.N. is not computed: novelty is not measured", highlight=False)


def _show_protocols(summary: Mapping[str, Any], context: ScoringContext, console: Console) -> None:
    reference = summary["reference"]
    against = ", ".join(f"{split} {digest[:12]}" for split, digest in reference["sha256"].items())
    title = (
        "Stable, unique, novel [95 % bootstrap interval]; eV/atom above the hull\n"
        f"{context.energies}; novel against {reference['name']} ({against})"
    )
    table = Table(title=title, title_justify="left")
    for header in ("as defined by", "eV/atom", "share", "of", "measured"):
        table.add_column(header)
    for name, found in summary["protocols"].items():
        if found is None:
            table.add_row(f"{name} S.U.N.", "needs relax")
            continue
        label = f"{name}, relaxed," if found["crystals"] == "relaxed" else name
        of = f"all {found['n']}" if found["of"] == "all" else f"{found['n']} valid"
        measured = f"{found['measured']} of {summary['counts']['valid']}"
        table.add_row(f"{label} S.U.N.", *_cells(found["sun"]), of, measured)
        if found["msun"]:
            table.add_row(f"{label} M.S.U.N.", *_cells(found["msun"]), of, measured)
    console.print(table)
    if any(found and found["measured"] < summary["counts"]["valid"] for found in summary["protocols"].values()):
        text = "valid crystals whose energy above the hull, duplicates or novelty are unknown count as not stable"
        console.print(f"[yellow]not all are measured[/]: {text}, so the shares are lower bounds", highlight=False)
    guards = Table(title="Guards: share of all crystals, and of those counted above", title_justify="left")
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


def _reward_rows(add: Any, name: str, found: Mapping[str, Any], counts: Mapping[str, int]) -> None:
    valid = f"{counts['valid']} valid"
    add(f"reward {name}: raw mean", f"{found['raw_mean']:.4g}", _known_of(found["scored"], counts))
    if "target" in found:
        by, (low, high) = found["target"], found["window"]
        label = f"{by}: mean distance from {found['target_value']:.4g}"
        add(label, f"{found['mean_distance']:.4g}", _known_of(found["predicted"], counts))
        add(f"{by} in {low:.4g} to {high:.4g}", _percent(found["in_window_of_valid"]), valid)
    if found["unscored"]:
        add(f"reward {name}: unscored", str(found["unscored"]), valid)


def _cells(figure: Mapping[str, Any]) -> tuple[str, str]:
    """The range of the energy above the hull, and the share with its interval, as text."""
    low, high = (100 * end for end in figure["interval_95"])
    limit = f"{figure['e_above_hull_at_most']:g}"
    where = f"0 to {limit}" if figure.get("without_stable") else f"at most {limit}"
    return where, f"{_percent(figure['share'])} [{low:.1f}, {high:.1f}]"


def _known_of(known: int, counts: Mapping[str, int]) -> str:
    """The number of valid crystals that a value is computed from, as text: those for which it is known."""
    valid = counts["valid"]
    return f"{valid} valid" if known == valid else f"{known} of {valid} valid"


def _percent(share: float | None) -> str:
    return "none" if share is None or math.isnan(share) else f"{100 * share:.1f} %"
