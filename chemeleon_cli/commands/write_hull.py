"""`chemeleon write-hull FILE`: write the energies of a set of crystals as the reference of a convex hull."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from chemeleon_cli.commands.crystal_files import check_outputs, read_rows
from chemeleon_cli.commands.runs import find_device
from chemeleon_cli.commands.score_summary import announce

if TYPE_CHECKING:
    from rich.console import Console

    from chemeleon_cli.recipe.models import WriteHull

MOST_REASONS = 5
"""Number of reasons for missing energies that are printed."""


def run(recipe: WriteHull, overwrite: bool, console: Console) -> None:
    """Compute the energies, write the table and its manifest, and print what is missing.

    Raises:
        UserError: an output cannot be written, or no crystal has an energy; then nothing is written.
    """
    from chemeleon_cli.core.potentials.loading import load_potential
    from chemeleon_cli.core.scoring.candidates import Candidates
    from chemeleon_cli.core.scoring.context import ScoringContext
    from chemeleon_cli.core.scoring.hull_file import manifest_path
    from chemeleon_cli.core.scoring.own_hull import own_hull, without_energy

    out = Path(recipe.out)
    check_outputs([out, manifest_path(out)], recipe.file, overwrite)
    rows = read_rows(recipe.file)
    device = str(find_device(recipe.device))
    potential = load_potential(recipe.energy_model, device, recipe.energy_scale)
    context = ScoringContext(device=device, energy_model=potential, relax=recipe.relax)
    candidates = Candidates([row.structure for row in rows], context)
    source = f"{Path(recipe.file).name} by {potential.name}"
    console.print(f"energies of {len(rows)} crystals with {potential.name}", highlight=False)
    unconverged = 0
    if recipe.relax is not None:
        announce(candidates, console)
        relaxed = [found for found in candidates.relaxations if found is not None and found.structure is not None]
        unconverged = sum(not found.converged for found in relaxed)
        source += f", relaxed ({unconverged} not converged)" if unconverged else ", relaxed"
    hull = own_hull(candidates, [row.id for row in rows], source)
    hull.write(out)

    console.print(f"{len(hull)} energies, {hull.energy_scale}: {out}", highlight=False, soft_wrap=True)
    reasons = Counter(rows[i].reason or reason for i, reason in without_energy(candidates).items())
    for reason, count in reasons.most_common(MOST_REASONS):
        console.print(f"  {count} without an energy: {reason}", highlight=False, soft_wrap=True)
    if unconverged:
        _warn(f"the energies of {unconverged} crystals that did not converge are too high, and so is the hull", console)
    if hull.elements_without_reference:
        elements = ", ".join(hull.elements_without_reference)
        text = f"no crystal of pure {elements}: this hull gives no energies for compounds that contain them"
        _warn(text, console)


def _warn(text: str, console: Console) -> None:
    console.print(f"[yellow]warning[/]: {text}", highlight=False, soft_wrap=True)
