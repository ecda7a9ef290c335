"""`chemeleon sample`: draw crystals from a generator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from chemeleon_cli.commands import runs
from chemeleon_cli.sources.models import find_model

if TYPE_CHECKING:
    from pymatgen.core import Structure
    from rich.console import Console

    from chemeleon_cli.recipe.models import Sample


def run(recipe: Sample, console: Console) -> None:
    """Write crystals to a file, in the order of a seeded draw of sizes; all of them, the impossible too.

    A crystal whose cell cannot exist at all has no place in a file format; it is counted and left out.
    """
    import torch

    from chemeleon_cli.core import checkpoint
    from chemeleon_cli.core.latent_diffusion import LatentDiffusion, Sampling, sample_many
    from chemeleon_cli.core.layers import set_precision
    from chemeleon_cli.sources.files import write_crystals, writer_for

    writer_for(Path(recipe.out))  # a name that cannot be written is said before the work
    device = runs.make_fabric(recipe.device).device
    loaded, _ = checkpoint.load(find_model(recipe.model, "ldm"), "ldm", device)
    model = cast(LatentDiffusion, loaded)
    set_precision(model, recipe.precision)
    sampling = Sampling(recipe.sampler, recipe.sampling_steps, recipe.eta)
    generator = torch.Generator().manual_seed(recipe.seed)
    sizes = model.draw_sizes(recipe.num_samples, generator)
    drawn: dict[int, Structure] = {}
    with console.status(f"drawing {recipe.num_samples} crystals"):
        for rows, crystals in sample_many(model, sizes, sampling, generator, recipe.batch_size):
            real = crystals.lattice.isfinite().flatten(1).all(1)
            kept = rows[real].tolist()
            drawn.update(zip(kept, crystals[real.nonzero().flatten()].to_structures(), strict=True))
    ids = sorted(drawn)
    if len(ids) < recipe.num_samples:
        lost = recipe.num_samples - len(ids)
        console.print(f"[yellow]{lost} have no possible cell and cannot be written[/]; shares by score are of the rest")
    write_crystals(Path(recipe.out), [drawn[i] for i in ids], [f"gen-{i:05d}" for i in ids])
    console.print(f"{len(ids)} crystals written to {recipe.out}", highlight=False)
