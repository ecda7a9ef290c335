"""`chemeleon score --against`: the match rate of known crystals among those that were generated for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemeleon_cli.commands.runs import print_skipped
from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from pymatgen.core import Structure
    from rich.console import Console

    from chemeleon_cli.sources.files import Row

    Known = tuple[list[str], list[Structure]]


def figures(against: str, known: Known, rows: list[Row], console: Console) -> dict[str, Any]:
    """Print and return the match rate and RMSE of known crystals."""
    from chemeleon_cli.core.scoring.csp import MATCHING, pair, predict

    ids, references = known
    candidates, paired_by = pair([row.id for row in rows], [row.structure for row in rows], ids, references)
    found = predict(candidates, references)
    paired = sum(found.candidates)
    # if paired by formula, crystals of other formulas are not among the candidates
    right = found.right_formulas if paired_by == "id" else None
    console.print(
        f"against {against}: {found.match_rate:.1%} of {len(references)} crystals found, RMSE {found.rmse:.4f}; "
        f"{paired} candidates (by {paired_by})" + ("" if right is None else f", {right:.1%} with the right formula"),
        highlight=False,
    )
    if found.timed_out:
        limit = f"{MATCHING.time_limit:g} s"
        text = f"{found.timed_out} candidates took longer than {limit} to compare and count as no match"
        console.print(f"[yellow]{text}[/]", highlight=False)
    return {
        "against": against,
        "references": len(references),
        "match_rate": found.match_rate,
        "rmse": found.rmse,
        "candidates": paired,
        "paired_by": paired_by,
        "right_formulas": right,
        "timed_out": found.timed_out,
        "matcher": MATCHING.model_dump(),
    }


def known(against: str, console: Console) -> Known:
    """Ids and crystals of a file, or of a data folder's test split (or val, if it has no test split). Those that cannot
    be read are printed and left out.

    Raises:
        UserError: no crystal can be read.
    """
    from chemeleon_cli.core.data.dataset import load_split
    from chemeleon_cli.sources.files import read_crystals

    if Path(against).is_dir():
        table = load_split(against, "test") or load_split(against, "val")
        if table is None:
            raise UserError(f"{against}: no test and no val split", "give a file of crystals or a data folder")
        _print_skipped(against, table.rejected, console)
        return table.ids, table.structures()
    kept, rejected = [], []
    for row in read_crystals(against):
        if row.structure is None:
            rejected.append((row.id, str(row.reason)))
        else:
            kept.append((row.id, row.structure))
    _print_skipped(against, rejected, console)
    if not kept:
        raise UserError(f"{against}: contains no crystal", "give a file of crystals or a data folder")
    return [name for name, _ in kept], [structure for _, structure in kept]


def _print_skipped(against: str, rejected: Sequence[tuple[str, str]], console: Console) -> None:
    if rejected:
        console.print(f"{against}:", highlight=False)
    print_skipped(rejected, console)
