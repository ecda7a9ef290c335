"""`python -m chemeleon_cli.starter.pack RUN NAME`: turn a trained run into a model that comes with the program.

Weights are stored in half precision, with a card that describes how the model was made. `chemeleon_cli.starter.check`
measures the quality of the stored model and adds it to the card.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chemeleon_cli.core.paths import STARTER, file_sha256, replacing, texts_in
from chemeleon_cli.core.training import checkpoint
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.checkpoints import find_model

if TYPE_CHECKING:
    from torch import Tensor

CARD = "card.json"
KINDS = {"ldm": "ldm", "predictor": "predictor", "judge": "predictor"}
"""The models that come with the program, and the kind of each."""
WHAT = {
    "ldm": "Generator of crystals of at most 20 atoms, with its autoencoder.",
    "predictor": "Properties of a crystal, for rewards.",
    "judge": "Properties of a crystal, to judge what the predictor rewarded. It has no formula, no encoder and no seed "
    "in common with the predictor. Optimise nothing for it.",
}
LIMITS = {
    "ldm": "It knows the 40 elements of its training set and at most 20 atoms, no magnetism and no disorder. The set "
    "is hypothetical crystals relaxed by a machine-learned potential: valid is not stable, and stable is not made yet.",
    "predictor": "Its labels are other models' predictions (see the card of the data), so it repeats their errors. "
    "It is worth little for elements, sizes and geometries that the training set has not, unrelaxed crystals included.",
}
LIMITS["judge"] = LIMITS["predictor"] + " The judge has seen half as many crystals as the predictor."


def pack(run: str, name: str, out: Path = STARTER) -> Path:
    """Write `model.safetensors`, `meta.json` and `card.json` of a run's best checkpoint.

    Args:
        run: a run's or a checkpoint's folder.
        name: one of KINDS.
        out: the folder of the models, which also contains the data set that they were trained on.

    Returns:
        The folder of the model.

    Raises:
        UserError: there is no such run, its parent is missing, a weight is too large for half precision, or the recipe
            contains an absolute path.
    """
    from safetensors.torch import load_file

    if name not in KINDS:
        raise UserError(f"{name}: no model of the starter", f"one of {', '.join(KINDS)}")
    source = find_model(run, KINDS[name])
    meta = checkpoint.read_meta(source)
    stages = _stages(meta)
    for text in texts_in([stage["recipe"] for stage in stages]):
        if os.path.isabs(text) or text.startswith("~"):
            raise UserError(f"{source}: its recipe names {text}, a path of this machine", "train with relative paths")
    weights = in_half(load_file(source / checkpoint.WEIGHTS), source)
    kept = {k: meta[k] for k in ("recipe", "chemeleon", "ema", "step", "minutes", "metrics") if k in meta}
    parents = [{"kind": p["kind"], "sha256": p["sha256"]} for p in meta["parents"]]
    folder = out / name
    data = {**meta["data"], "path": ".."}
    checkpoint.save(folder, meta["kind"], meta["config"], weights, {**kept, "parents": parents, "data": data})
    stored = folder / checkpoint.WEIGHTS
    card = {
        "name": name,
        "what": WHAT[name],
        "limits": LIMITS[name],
        "data": {k: meta["data"].get(k) for k in ("count", "sha256")},
        "stages": stages,
        "weights": {"stored_as": "float16, vectors float32", "bytes": stored.stat().st_size}
        | {"count": sum(w.numel() for w in weights.values()), "sha256": file_sha256(stored)},
        "measured": None,
    }
    write_card(folder, card)
    return folder


def in_half(weights: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Matrices as float16. Vectors (biases, scales, statistics of data) stay float32, as they are small but sensitive.

    Raises:
        UserError: a weight is too large for float16.
    """
    import torch

    stored = {k: w.half() if w.dtype == torch.float32 and w.dim() > 1 else w for k, w in weights.items()}
    for name, tensor in stored.items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{source}: {name} has weights beyond 65504, the most that float16 holds", "train it again")
    return stored


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write `card.json` of a model."""
    with replacing(folder / CARD) as temporary:
        temporary.write_text(checkpoint.json_text(card), encoding="utf-8")


def read_card(folder: Path) -> dict[str, Any] | None:
    """The card of a model, or None if it has none, like runs."""
    path = folder / CARD
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def thirds_of(folder: Path) -> set[int]:
    """The thirds of the train split that a model or one of its parents was trained on.

    Raises:
        UserError: it is a run whose parent is missing.
    """
    card = read_card(folder)
    meta = checkpoint.read_meta(folder)
    stages = card["stages"] if card else _stages(meta)
    chosen = [stage["recipe"]["data"].get("thirds") for stage in stages if "data" in stage["recipe"]]
    return {0, 1, 2} if None in chosen else set().union(*chosen)


def _stages(meta: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How a checkpoint was made: the stages of its parents, the oldest first, and its own."""
    earlier = []
    for record in meta["parents"]:
        folder = _parent(record)
        card = read_card(folder)  # a model that came with the program
        earlier += card["stages"] if card else _stages(checkpoint.read_meta(folder))
    own = {
        "command": meta["recipe"]["command"],
        "recipe": meta["recipe"],
        "seed": meta["recipe"]["seed"],
        "crystals": meta["data"]["count"],
        "steps": meta["step"],
        "hours": round(meta["minutes"] / 60, 2),
        "validation": meta.get("metrics"),
    }
    return [*earlier, own]


def _parent(record: Mapping[str, Any]) -> Path:
    """The folder of a checkpoint's parent."""
    folder = Path(record["path"])
    weights = folder / checkpoint.WEIGHTS
    if not weights.is_file() or file_sha256(weights) != record["sha256"]:
        hint = "the card describes how it was trained: call this where the runs are, before they are replaced"
        raise UserError(f"{folder}: the {record['kind']} that this run was trained from is missing", hint)
    return folder


def main(
    run: Annotated[str, typer.Argument(help="The run's folder.")],
    name: Annotated[str, typer.Argument(help=f"The name of the model: {', '.join(KINDS)}.")],
    out: Annotated[Path, typer.Option(help="The folder of the models.", file_okay=False)] = STARTER,
) -> None:
    """Add a trained run to the package."""
    try:
        folder = pack(run, name, out)
    except UserError as error:
        typer.secho(error.message, fg="red", err=True)
        typer.echo(f"hint: {error.hint}", err=True)
        raise typer.Exit(2) from None
    size = (folder / checkpoint.WEIGHTS).stat().st_size / 1e6
    typer.echo(f"{folder}: {size:.1f} MB; `make starter-check` measures its quality")


if __name__ == "__main__":
    typer.run(main)
