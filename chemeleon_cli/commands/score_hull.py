"""`chemeleon score SET --write-hull FILE`: the energies of a set of crystals, as a hull for others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from chemeleon_cli.commands.score_summary import announce
from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from chemeleon_cli.recipe.models import Score
    from chemeleon_cli.sources.files import Row


def write(recipe: Score, rows: list[Row], device: str, console: Console) -> None:
    """Compute the energies and write the table with its manifest.

    Raises:
        UserError: no crystal has an energy.
    """
    from chemeleon_cli.core.scoring.candidates import Candidates
    from chemeleon_cli.core.scoring.context import Tools, load_energies
    from chemeleon_cli.core.scoring.hull import Hull

    settings = recipe.energies()
    model, _ = load_energies(settings, device)
    assert model is not None, "the recipe names one where a hull is to be written"
    drawn = Candidates([row.structure for row in rows], Tools(device=device, energy_model=model, relax=settings.relax))
    console.print(f"energies of {len(rows)} crystals by {settings.energy_model}", highlight=False)
    relaxed, short = "", 0
    if settings.relax:
        announce(drawn, console)
        short = sum(r is not None and r.structure is not None and not r.converged for r in drawn.relaxations)
        relaxed = f", relaxed ({short} not to the end)" if short else ", relaxed"
    judged = drawn.judged
    kept = judged.energy_per_atom.isfinite().nonzero().flatten().tolist()
    if not kept:
        raise UserError(f"{recipe.file}: none of its {len(rows)} crystals has an energy by {settings.energy_model}")
    forms = [form for i in kept if (form := judged.canonical[i]) is not None]
    energies = [judged.energy_per_atom[i].item() for i in kept]
    source = f"{Path(recipe.file).name} by {settings.energy_model}{relaxed}"
    hull = Hull.from_entries(
        [s.composition for s in forms], energies, [rows[i].id for i in kept], source, model.energy_scale
    )
    out = Path(str(recipe.write_hull))
    hull.write(out)
    console.print(f"{len(hull)} energies, {hull.energy_scale}: {out}", highlight=False, soft_wrap=True)
    if short:
        text = "what did not relax to the end lies too high, and so does the hull there"
        console.print(f"[yellow]warning[/]: {text}", highlight=False, soft_wrap=True)
    reasons: dict[int, str] = {}
    for notes in (judged.notes, drawn.notes):
        for name in ("e_above_hull", "energy_per_atom", "canonical"):
            reasons |= notes.get(name, {})
    without = set(range(len(rows))) - set(kept)
    lost = Counter(rows[i].reason or drawn.problems[i] or reasons[i] for i in sorted(without))
    for reason, count in lost.most_common(5):
        console.print(f"  {count} without: {reason}", highlight=False, soft_wrap=True)
    systems = {s.composition.chemical_system for s in forms}
    lacking = sorted({element for system in systems for element in system.split("-")} - systems)
    if lacking:
        text = f"no crystal of {', '.join(lacking)} alone: what contains them cannot be measured by this hull"
        console.print(f"[yellow]warning[/]: {text}", highlight=False, soft_wrap=True)
