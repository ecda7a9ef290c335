"""`chemeleon score FILE`: a row per crystal and a summary, computed by the same code as the rewards of `train-rl`."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from chemeleon_cli.commands import score_against, score_summary, score_tables
from chemeleon_cli.commands.crystal_files import check_outputs, read_rows
from chemeleon_cli.commands.runs import find_device
from chemeleon_cli.core.paths import replacing, split_path
from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from pymatgen.core import Structure
    from rich.console import Console

    from chemeleon_cli.core.models.vae import VAE
    from chemeleon_cli.core.scoring.candidates import Candidates
    from chemeleon_cli.core.scoring.context import ScoringContext
    from chemeleon_cli.recipe.models import Score
    from chemeleon_cli.sources.files import Row

Columns = dict[str, list[Any]]


def run(recipe: Score, overwrite: bool, console: Console) -> None:
    """Score the crystals of a file; print the summary, write the table and the summary as JSON."""
    from chemeleon_cli.core.scoring.candidates import Candidates
    from chemeleon_cli.core.training.checkpoint import json_text
    from chemeleon_cli.sources.files import write_crystals, writer_for

    out = Path(recipe.out) if recipe.out else _beside(Path(recipe.file))
    if out.suffix not in (".csv", ".parquet"):
        raise UserError(f"{out}: the table must be a .csv or .parquet file", "for instance --out scores.csv")
    if recipe.relaxed_out:
        writer_for(Path(recipe.relaxed_out))
    outputs = [out, out.with_suffix(".json"), *([Path(recipe.relaxed_out)] if recipe.relaxed_out else [])]
    check_outputs(outputs, recipe.file, overwrite)
    rows = read_rows(recipe.file)
    known = score_against.known(recipe.against, console) if recipe.against is not None else None
    device = str(find_device(recipe.device))
    candidates = Candidates([row.structure for row in rows], _load(recipe, device, console))
    context = candidates.context
    if context.relax is not None:
        score_summary.announce(candidates, console)
    scores = recipe.reward(candidates) if recipe.reward else None
    columns = _columns(rows, candidates, recipe.reference)
    if scores:
        columns |= {f"reward_{name}": values.tolist() for name, values in scores.raw.items()}
    summary = score_summary.figures(recipe, rows, candidates, scores)
    score_tables.show(summary, context, console)
    if known is not None:
        summary["structure_prediction"] = score_against.figures(str(recipe.against), known, rows, console)
    _write(out, columns)
    with replacing(out.with_suffix(".json")) as temporary:
        temporary.write_text(json_text(summary), encoding="utf-8")
    console.print(f"a row per crystal: {out}; the summary: {out.with_suffix('.json')}", highlight=False, soft_wrap=True)
    if recipe.relaxed_out:
        kept = [(s, row.id) for s, row in zip(candidates.relaxed.structures, rows, strict=True) if s is not None]
        write_crystals(recipe.relaxed_out, [s for s, _ in kept], [name for _, name in kept])
        console.print(f"{len(kept)} relaxed crystals: {recipe.relaxed_out}", highlight=False, soft_wrap=True)


def _load(recipe: Score, device: str, console: Console) -> ScoringContext:
    """Load what scoring needs: the reward's models and hull, and the reference set for novelty."""
    from chemeleon_cli.core.scoring.loading import load_context, load_known, load_training_set
    from chemeleon_cli.core.scoring.needs import Needs
    from chemeleon_cli.core.training import checkpoint
    from chemeleon_cli.sources.checkpoints import find_model

    vae, training_data = None, None
    needs = Needs() if recipe.reward is None else recipe.reward.needs()
    if recipe.model is not None:
        folder = find_model(recipe.model, "ldm")
        training_data = checkpoint.read_meta(folder).get("data", {}).get("path")
        if needs.encoder:
            loaded, _ = checkpoint.load(folder, "vae", device)
            vae = cast("VAE", loaded)
    context = load_context(recipe.energies(), needs, find_model, vae, training_data, device)
    if recipe.reward is not None:
        recipe.reward.prepare(context)
        # crystals may be relaxed for the summary only; rewards are those that train-rl would give
        context = replace(context, reward_relaxed=recipe.reward.relax is not None)
    reference = recipe.reference or training_data
    if recipe.reference in context.known:
        return context
    if reference is None or split_path(reference, "train") is None:
        why = f"{reference} does not exist" if reference else "no --reference is given"
        console.print(f"novelty is not measured: {why}")
        return context
    known = load_known(reference) if recipe.reference else load_training_set(reference)
    return replace(context, known={**context.known, recipe.reference: known})


def _columns(rows: list[Row], candidates: Candidates, reference: str | None) -> Columns:
    """The columns of the table, with one value for each crystal; None if it is not known."""
    forms = candidates.canonical
    columns: Columns = {
        "id": [row.id for row in rows],
        "formula": [row.structure and row.structure.composition.reduced_formula for row in rows],
        "n_atoms": [row.structure and len(row.structure) for row in rows],
        "spacegroup": [form and _spacegroup(form) for form in forms],
        "valid": candidates.valid.tolist(),
        "problem": [row.reason or problem for row, problem in zip(rows, candidates.problems, strict=True)],
        "smact_valid": _where(candidates.valid.tolist(), candidates.smact_valid.tolist()),
        **{name: fired.tolist() for name, fired in candidates.guards.items()},
    }
    if candidates.context.energy_model is not None:
        columns |= _energies(candidates)
    columns |= _comparisons(candidates, reference)
    if candidates.context.relax is not None:
        relaxed = candidates.relaxed
        columns |= {f"relaxed_{name}": values for name, values in _energies(relaxed).items()}
        columns |= {f"relaxed_{name}": values for name, values in _comparisons(relaxed, reference).items()}
        for name in ("converged", "steps", "fmax", "problem"):
            columns[f"relaxation_{name}"] = [found and getattr(found, name) for found in candidates.relaxations]
    return columns | {f"predicted_{name}": values.tolist() for name, values in candidates.predictions.items()}


def _energies(candidates: Candidates) -> Columns:
    """Energies of the crystals as given and, if there is a hull, above it."""
    columns: Columns = {"energy_per_atom": candidates.energy_per_atom.tolist()}
    if candidates.context.hull is not None:
        columns["e_above_hull"] = candidates.e_above_hull.tolist()
        reasons = candidates.notes.get("e_above_hull", {})
        columns["e_above_hull_problem"] = [reasons.get(i) for i in range(len(candidates))]
    return columns


def _comparisons(candidates: Candidates, reference: str | None) -> Columns:
    """Duplicates and, if there is a reference set, novelty against it."""
    found = candidates.uniqueness
    in_group = [group >= 0 for group in found.groups]
    columns: Columns = {
        "matcher_group": _where(in_group, found.groups),
        "matcher_group_size": _where(in_group, found.sizes),
        "unique": found.unique,
    }
    if reference in candidates.context.known:
        columns["novel"] = candidates.novelty(reference).novel
        columns["creativity"] = candidates.creativity_against(reference).tolist()
    return columns


def _spacegroup(structure: Structure) -> str | None:
    import spglib

    from chemeleon_cli.core.data.dataset import SYMPREC

    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    return spglib.get_spacegroup(cell, symprec=SYMPREC)  # type: ignore[arg-type]


def _where(known: Iterable[bool], values: Iterable[Any]) -> list[Any]:
    return [value if is_known else None for is_known, value in zip(known, values, strict=True)]


def _beside(path: Path) -> Path:
    """The default table: `generated.scores.csv` next to `generated.cif.gz`; that of a folder is next to the folder."""
    path = path.resolve()
    return path.with_name(Path(path.name.removesuffix(".gz")).stem + ".scores.csv")


def _write(path: Path, columns: Columns) -> None:
    """Write a CSV or Parquet table, completely or not at all; the cell of an unknown value is empty."""
    with replacing(path) as temporary:
        if path.suffix == ".parquet":
            import pandas as pd

            pd.DataFrame(columns).to_parquet(temporary, index=False)
            return
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for row in zip(*columns.values(), strict=True):
                writer.writerow("" if value is None or value != value else value for value in row)
