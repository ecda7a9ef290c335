"""`chemeleon sample`: sample crystals from a generator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from chemeleon_cli.commands import runs
from chemeleon_cli.core.paths import check_writable
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.checkpoints import find_model

if TYPE_CHECKING:
    from pymatgen.core import Structure
    from rich.console import Console
    from torch import Tensor

    from chemeleon_cli.core.conditions.base import Request
    from chemeleon_cli.core.models.generator import Generator
    from chemeleon_cli.recipe.models import Sample


def run(recipe: Sample, overwrite: bool, console: Console) -> None:
    """Sample crystals and write them to a file, including invalid ones.

    A crystal whose cell has numbers that are not finite cannot be written in any format; it is counted and left out.
    """
    import torch

    from chemeleon_cli.core.models.generator import Sampling, sample_many
    from chemeleon_cli.core.models.layers import set_precision
    from chemeleon_cli.core.training import checkpoint
    from chemeleon_cli.sources.files import write_crystals, writer_for

    writer_for(Path(recipe.out))  # an unknown suffix is an error before the crystals are sampled
    check_writable(Path(recipe.out), overwrite)
    device = runs.find_device(recipe.device)
    loaded, _ = checkpoint.load(find_model(recipe.model, "ldm"), "ldm", device)
    model = cast("Generator", loaded)
    set_precision(model, recipe.precision)
    sampling = Sampling(recipe.sampler, recipe.sampling_steps, recipe.eta, recipe.guidance)
    generator = torch.Generator().manual_seed(recipe.seed)
    if recipe.like is not None:
        names, sizes, requests = _like(recipe.like, recipe, model, console)
    else:
        proposal = model.prior.propose(recipe.num_samples, generator, recipe.conditions, recipe.z)
        sizes, requests = proposal.num_atoms, proposal.requests
        names = [f"gen-{i:05d}" for i in range(len(sizes))]
    made: dict[int, Structure] = {}
    with console.status(f"sampling {len(sizes)} crystals"):
        for rows, crystals in sample_many(model, sizes, sampling, generator, recipe.batch_size, requests):
            real = crystals.lattice.isfinite().flatten(1).all(1)
            kept = rows[real].tolist()
            made.update(zip(kept, crystals[real.nonzero().flatten()].to_structures(), strict=True))
    ids = sorted(made)
    if not ids:
        text = f"none of the {len(sizes)} crystals of {recipe.model} has a cell with finite numbers"
        raise UserError(f"{text}; nothing is written", "its training went wrong; use another generator")
    if len(ids) < len(sizes):
        lost = len(sizes) - len(ids)
        text = "have no possible cell and are not written"
        console.print(f"[yellow]{lost} crystals {text}[/]; the shares that score prints are of the others")
    write_crystals(Path(recipe.out), [made[i] for i in ids], [names[i] for i in ids])
    console.print(f"{len(ids)} crystals written to {recipe.out}", highlight=False)


def _like(file: str, recipe: Sample, model: Generator, console: Console) -> tuple[list[str], Tensor, list[Request]]:
    """Names, sizes and requests for crystals with the compositions of the primitive cells of those in a file.

    The k-th crystal for `mp-1` is named `mp-1-k`.

    Raises:
        UserError: the model cannot be asked for one of the compositions, or no crystal of the file can be used.
    """
    import torch

    from chemeleon_cli.core.data.crystals import canonical
    from chemeleon_cli.sources.files import read_crystals

    low, high = min(model.prior.sizes), max(model.prior.sizes)
    names, sizes, requests, unfit, beyond = [], [], [], 0, 0
    for row in read_crystals(file):
        try:
            structure = None if row.structure is None else canonical(row.structure)
        except ValueError:
            structure = None
        if structure is None:
            unfit += 1
            continue
        size = len(structure)
        if not low <= size <= high:
            beyond += 1
            continue
        request = {**recipe.conditions, "composition": structure.composition.formula.replace(" ", "")}
        try:
            model.encode_requests([request], torch.tensor([size]))
        except UserError as error:
            raise UserError(f"{file}, {row.id}: {error.message}", error.hint) from None
        names += [f"{row.id}-{k}" for k in range(recipe.num_samples)]
        sizes += [size] * recipe.num_samples
        requests += [request] * recipe.num_samples
    reasons = {"cannot be read": unfit, f"have sizes that the model was not trained on ({low} to {high} atoms)": beyond}
    lost = [f"{count} crystals of {file} {reason}" for reason, count in reasons.items() if count]
    if not names:
        found = "; ".join(lost) or f"{file}: contains no crystal"
        raise UserError(f"{found}; none is left", "`like` reads CIF, extxyz, CSV or json.gz")
    for line in lost:
        console.print(f"[yellow]{line} and are left out[/]", highlight=False)
    return names, torch.tensor(sizes), requests
