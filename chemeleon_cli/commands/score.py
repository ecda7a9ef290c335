"""`chemeleon score FILE`: a row per crystal and a summary, with the same candidates and rewards as
`train-rl`."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from chemeleon_cli.commands.runs import make_fabric
from chemeleon_cli.core.paths import replacing
from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from pymatgen.core import Structure
    from rich.console import Console

    from chemeleon_cli.core.candidates import Candidates
    from chemeleon_cli.core.matching import Reference
    from chemeleon_cli.core.rewards import ReinforceReward, Scores
    from chemeleon_cli.core.tools import Tools
    from chemeleon_cli.core.vae import VAE
    from chemeleon_cli.recipe.models import Score
    from chemeleon_cli.sources.files import Row

Columns = dict[str, list[Any]]

SYMPREC = 0.1
"""Å, for space groups: generated crystals are not exactly symmetric."""


def run(recipe: Score, console: Console) -> None:
    """Judge the crystals of a file; print the summary, write the CSV."""
    from chemeleon_cli.core.candidates import Candidates
    from chemeleon_cli.sources.files import read_crystals

    rows = list(read_crystals(recipe.file))
    if not rows:
        raise UserError(
            f"{recipe.file}: holds no crystal", "score reads CIF, extxyz, CSV, json.gz, POSCAR, folders, zips"
        )
    out = Path(recipe.out) if recipe.out else _beside(Path(recipe.file))
    tools, reference = _load(recipe, console)
    candidates = Candidates([row.structure for row in rows], tools)
    scores = recipe.reward(candidates) if recipe.reward else None
    columns = _columns(rows, candidates, reference)
    if scores:
        columns |= {f"reward_{name}": values.tolist() for name, values in scores.raw.items()}
    _summary(recipe, candidates, columns, reference, scores, console)
    _write(out, columns)
    console.print(f"a row per crystal: {out}", highlight=False, soft_wrap=True)


def _load(recipe: Score, console: Console) -> tuple[Tools, Reference | None]:
    """Models and reference set: what the reward needs, and what novelty is against."""
    from chemeleon_cli.core import checkpoint
    from chemeleon_cli.core.dataset import load_split
    from chemeleon_cli.core.matching import Reference
    from chemeleon_cli.core.tools import build_tools
    from chemeleon_cli.sources.models import find_model

    device = str(make_fabric(recipe.device).device)
    vae, training_data = None, None
    if recipe.model is not None:
        folder = find_model(recipe.model, "ldm")
        training_data = checkpoint.read_meta(folder).get("data", {}).get("path")
        if recipe.reward is not None and recipe.reward.needs().encoder:
            loaded, _ = checkpoint.load(folder, "vae", device)
            vae = cast("VAE", loaded)
    tools = build_tools(recipe.reward, find_model, vae, training_data, device)
    name = recipe.reference or training_data
    table = load_split(name, "train") if name and Path(name).is_dir() else None
    if table is None:
        console.print(f"novelty is not measured: {f'{name} is not there' if name else 'no --reference is named'}")
        return tools, None
    return tools, Reference(table.formulas, table.structures, Path(str(name)).name)


def _columns(rows: list[Row], candidates: Candidates, reference: Reference | None) -> Columns:
    """What is known of each crystal, by column; None where it is not known."""
    from chemeleon_cli.core import matching

    groups = candidates.groups
    sizes = Counter(groups)
    forms, valid = candidates.canonical, candidates.valid.tolist()
    columns: Columns = {
        "id": [row.id for row in rows],
        "formula": [row.structure and row.structure.composition.reduced_formula for row in rows],
        "n_atoms": [row.structure and len(row.structure) for row in rows],
        "spacegroup": [form and _spacegroup(form) for form in forms],
        "valid": valid,
        "problem": [row.reason or problem for row, problem in zip(rows, candidates.problems, strict=True)],
        "smact_valid": _where(valid, candidates.smact_valid.tolist()),
        "group": [None if group < 0 else group for group in groups],
        "group_size": [None if group < 0 else sizes[group] for group in groups],
    }
    if reference is not None:
        novel = matching.novel(forms, reference)
        columns["novel"] = _where([form is not None for form in forms], novel)
    for name in candidates.tools.predictors:
        for target, values in candidates.predict(name).items():
            column = f"predicted_{target}"
            columns[column if column not in columns else f"{column}_{Path(name).name}"] = values.tolist()
    return columns


def _summary(
    recipe: Score,
    candidates: Candidates,
    columns: Columns,
    reference: Reference | None,
    scores: Scores | None,
    console: Console,
) -> None:
    from rich.table import Table

    table = Table(title=f"{recipe.file}: {len(candidates)} crystals", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("of")
    valid = columns["valid"]
    formed = [group for group in columns["group"] if group is not None]
    table.add_row("valid", _percent(sum(valid), len(valid)), "all")
    table.add_row("unique", _percent(len(set(formed)), len(formed)), "valid")
    if reference is not None:
        table.add_row(f"novel (against {reference.name})", _percent(columns["novel"].count(True), len(formed)), "valid")
    table.add_row("charges balance (SMACT)", _percent(columns["smact_valid"].count(True), sum(valid)), "valid")
    for reason, count in Counter(text.split(":")[0] for text in columns["problem"] if text).most_common():
        table.add_row(f"impossible: {reason}", str(count), "all")
    for column, values in columns.items():
        if column.startswith("predicted_"):
            known = sorted(value for value in values if not math.isnan(value))
            table.add_row(f"{column}: mean, median", _mean_and_median(known), "valid")
    if recipe.reward and scores:
        _reward_rows(table.add_row, recipe.reward, candidates, scores)
    for fact, reasons in candidates.notes.items():
        for reason, count in Counter(reasons.values()).most_common(3):
            table.add_row(f"unscored, {fact}: {reason}", str(count), "valid")
    console.print(table)


def _reward_rows(add: Any, reward: ReinforceReward, candidates: Candidates, scores: Scores) -> None:
    from chemeleon_cli.core.rewards import PredictorReward

    means = scores.raw_means()
    for name, component in zip(reward.names(), reward.components, strict=True):
        raw = scores.raw[name]
        add(f"reward {name}: raw mean", f"{means[name]:.4g}", "scored")
        if isinstance(component, PredictorReward) and component.target_value is not None:
            wanted, far = component.target_value, 0.1 * abs(component.target_value)
            off = (candidates.predict(component.predictor)[component.target_name] - wanted).abs()
            by = f"{component.target_name} by {Path(component.predictor).name}"
            add(f"{by}: mean distance from {wanted:.4g}", f"{off.nanmean():.4g}", "valid")
            share = _percent(int((off <= far).sum()), int(candidates.valid.sum()))
            add(f"{by} in {wanted - far:.4g} to {wanted + far:.4g}", share, "valid")
        missing = int((raw.isnan() & ~scores.impossible).sum())
        if missing:
            add(f"reward {name}: unscored", str(missing), "valid")


def _spacegroup(structure: Structure) -> str | None:
    import spglib

    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    return spglib.get_spacegroup(cell, symprec=SYMPREC)  # type: ignore[arg-type]


def _where(known: Iterable[bool], values: Iterable[Any]) -> list[Any]:
    return [value if is_known else None for is_known, value in zip(known, values, strict=True)]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"


def _mean_and_median(values: list[float]) -> str:
    if not values:
        return "none"
    middle = (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2
    return f"{sum(values) / len(values):.4g}, {middle:.4g}"


def _beside(path: Path) -> Path:
    """`generated.cif.gz` -> `generated.scores.csv`; a folder's is beside it."""
    path = path.resolve()
    return path.with_name(Path(path.name.removesuffix(".gz")).stem + ".scores.csv")


def _write(path: Path, columns: Columns) -> None:
    """A CSV, whole or not at all; an empty cell is a number or fact that is not known."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow("" if value is None or value != value else value for value in row)
