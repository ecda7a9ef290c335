"""A hull computed from the energies of candidates, to measure other crystals against."""

from __future__ import annotations

from collections.abc import Sequence

from chemeleon_cli.core.scoring.candidates import Candidates
from chemeleon_cli.core.scoring.hull import Hull
from chemeleon_cli.errors import UserError


def own_hull(candidates: Candidates, ids: Sequence[str], source: str) -> Hull:
    """The hull of all candidates that have an energy; of the relaxed crystals if rewards are computed for those.

    Args:
        candidates: with a potential.
        ids: of each candidate.
        source: where the crystals and their energies come from, for the manifest of the hull.

    Raises:
        UserError: no candidate has an energy.
    """
    potential, evaluated = candidates.context.energy_model, candidates.evaluated
    assert potential is not None, "a hull of candidates needs a potential"
    rows: list[int] = evaluated.energy_per_atom.isfinite().nonzero().flatten().tolist()
    if not rows:
        raise UserError(f"{source}: none of the {len(candidates)} crystals has an energy")
    compositions = [form.composition for i in rows if (form := evaluated.canonical[i]) is not None]
    energies = [evaluated.energy_per_atom[i].item() for i in rows]
    return Hull.from_entries(compositions, energies, [ids[i] for i in rows], source, potential.energy_scale)


def without_energy(candidates: Candidates) -> dict[int, str]:
    """Why candidates are missing in their own hull: row -> reason."""
    evaluated = candidates.evaluated
    reasons: dict[int, str] = {}
    for notes in (evaluated.notes, candidates.notes):
        for fact in ("e_above_hull", "energy_per_atom", "canonical"):
            reasons |= notes.get(fact, {})
    rows = (~evaluated.energy_per_atom.isfinite()).nonzero().flatten().tolist()
    return {i: candidates.problems[i] or reasons[i] for i in rows}
