"""`python -m chemeleon_cli.starter.build STAGE`: see docs/starter.md."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in the worker processes

import typer

app = typer.Typer(add_completion=False, help=__doc__)

CandidatesFile = Annotated[Path, typer.Option("--candidates", help="List of the crystals to relax.", dir_okay=False)]
ShardsFolder = Annotated[Path, typer.Option("--shards", help="Folder of the relaxed crystals.", file_okay=False)]


@app.command("candidates")
def write_list(out: Annotated[Path, typer.Option("--out", help="File to write, .jsonl.gz.")]) -> None:
    """List the crystals to relax."""
    from collections import Counter

    from chemeleon_cli.starter.build.candidates import all_candidates, write_candidates

    made = all_candidates()
    write_candidates(out, made)
    typer.echo(f"{out}: {len(made):,} crystals: {dict(Counter(c.kind for c in made))}")


@app.command("relax")
def relax(
    candidates: CandidatesFile,
    shards: ShardsFolder,
    processes: Annotated[int, typer.Option(min=1, help="Worker processes, of one thread each.")] = 2,
    minutes: Annotated[float, typer.Option(help="No new shard is begun after this; call again to go on.")] = 600.0,
) -> None:
    """Relax the crystals of the list, in its order."""
    from chemeleon_cli.starter.build.candidates import read_candidates
    from chemeleon_cli.starter.build.shards import relax_all

    done, total = relax_all(read_candidates(candidates), shards, processes, minutes)
    typer.echo(f"{shards}: {done} of {total} shards")


@app.command("assemble")
def assemble(
    shards: ShardsFolder,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for crystals.csv.gz, hull.csv.gz and card.json.", file_okay=False)
    ],
) -> None:
    """Choose, label and split what was relaxed so far."""
    from chemeleon_cli.starter.build import assemble as stage
    from chemeleon_cli.starter.build.shards import read_shards
    from chemeleon_cli.starter.build.teacher import GapTeacher

    table, hull, card = stage.assemble(read_shards(shards), GapTeacher())
    stage.write(out, table, hull, card)
    typer.echo(f"{out}: {len(table):,} crystals of {card['relaxed']:,}; dropped: {card['dropped']}")


@app.command("compare")
def compare(
    folder: Annotated[Path, typer.Argument(help="What `assemble` wrote.", exists=True, file_okay=False)],
    labels: Annotated[
        list[Path],
        typer.Option(help="csv with cif, band_gap and formation_energy_per_atom; may be repeated.", exists=True),
    ],
) -> None:
    """Measure the models behind the labels against DFT labels, and put that on the card."""
    import json

    import pandas as pd

    from chemeleon_cli.starter.build import assemble as stage
    from chemeleon_cli.starter.build.compare import compare as measure
    from chemeleon_cli.starter.build.energies import Energies
    from chemeleon_cli.starter.build.teacher import GapTeacher

    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    reference = pd.concat([pd.read_csv(path) for path in labels], ignore_index=True)
    table = pd.read_csv(folder / "crystals.csv.gz")
    card["compared"] = measure(table, card["element_references"], reference, GapTeacher(), Energies().energy)
    stage.write_card(folder, card)
    typer.echo(json.dumps(card["compared"], indent=2))


if __name__ == "__main__":
    app()
