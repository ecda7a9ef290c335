"""`chemeleon train-ldm`: a generator of crystals, by diffusion in a VAE's latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from chemeleon_cli.commands import runs
from chemeleon_cli.sources.checkpoints import find_model

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from chemeleon_cli.core.data.dataset import Table
    from chemeleon_cli.core.models.generator import Generator
    from chemeleon_cli.core.models.latent_diffusion import LatentDiffusion
    from chemeleon_cli.core.models.latents import Latents
    from chemeleon_cli.recipe.base import RunOptions
    from chemeleon_cli.recipe.models import TrainLdm

FINAL_SAMPLES = 1000
REPORT_SAMPLES = 5000
ELEMENT_SAMPLES, ELEMENTS_KEPT = 1000, 0.95
"""Number of crystals checked before training, and the fraction of atoms whose element must be reconstructed."""


def run(recipe: TrainLdm, options: RunOptions, console: Console) -> None:
    """Train a denoiser on a frozen VAE, and end with a report on sampled crystals."""
    import torch

    from chemeleon_cli.core.conditions.base import drop_conditions
    from chemeleon_cli.core.conditions.kinds import fit_conditions, to_settings
    from chemeleon_cli.core.data.batches import BatchOrder
    from chemeleon_cli.core.models.latent_diffusion import LatentDiffusion
    from chemeleon_cli.core.models.latents import encode
    from chemeleon_cli.core.models.vae import VAE
    from chemeleon_cli.core.training import checkpoint
    from chemeleon_cli.core.training.settings import Settings
    from chemeleon_cli.core.training.trainer import Run

    fabric = runs.launch(recipe, console)
    train, val = runs.load_data(recipe.data.path, recipe.data.max_atoms, console, recipe.data.thirds)
    torch.manual_seed(recipe.seed)
    summary = train.summary()
    conditions = fit_conditions(train, {name: c.kind for name, c in recipe.conditions.items()})
    rates = {name: c.dropout for name, c in recipe.conditions.items()}
    if recipe.start is None:
        source = find_model(str(recipe.vae), "vae")
        loaded, parent = checkpoint.load(source, "vae", fabric.device)
        vae = cast(VAE, loaded)
        size = {"latent_dim": vae.config["latent_dim"], **recipe.model.model_dump()}
        denoiser = {**size, "conditions": to_settings(conditions)}
        model = LatentDiffusion(vae.config, denoiser, recipe.diffusion.model_dump(), summary["sizes"]).to(fabric.device)
        model.vae.load_state_dict(vae.state_dict())
    else:
        source = find_model(recipe.start, "ldm")
        loaded, parent = checkpoint.load(source, "ldm", fabric.device)
        model = LatentDiffusion.fine_tuned_from(cast("Generator", loaded), conditions, summary["sizes"])
    latents = encode(model.vae, train, recipe.training.batch_size, model.conditions)
    val_latents = encode(model.vae, val, recipe.training.batch_size, model.conditions)
    look_at_elements(model, latents, source, console)
    if recipe.start is None:  # trained weights keep the statistics that they were trained with
        model.set_latent_statistics(latents.means)
    settings = Settings(**recipe.training.model_dump(exclude={"batch_size"}))
    meta = runs.describe(recipe, summary, [checkpoint.parent(source, parent)])
    folder, logger = runs.open_folder(recipe, options, fabric, meta)
    training = Run(folder, "ldm", model, settings, fabric, recipe.seed, meta, "val/loss", logger=logger)
    if options.resume:
        runs.resume(training, recipe)
    order = BatchOrder(train.num_atoms, recipe.training.batch_size, recipe.seed, training.micro_batches_per_step)
    mean_size = train.num_atoms.float().mean().item()

    for _ in training.steps():
        for micro_batch in training.micro_batches():
            generator = training.generator(micro_batch)
            x, num_atoms = latents.batch(order[micro_batch])
            given = drop_conditions(latents.conditions_of(order[micro_batch]), rates, generator).to(fabric.device)
            loss = model.loss(x.to(fabric.device), num_atoms.to(fabric.device), generator, given)
            # a batch holds crystals of similar size; with this weight, every atom of the set counts the same
            training.backward(loss * num_atoms.float().mean().item() / mean_size)
            training.note({"loss": loss})
        training.log({"gradient_norm": training.optimise()})
        if training.validation_is_due():
            with training.ema_weights():
                metrics = {"val/loss": validate(model, val_latents, rates, recipe.training.batch_size)}
            runs.print_validation(training.step + 1, training, metrics, training.validated(metrics), console)

    if fabric.is_global_zero:
        best, _ = checkpoint.load(find_model(str(folder), "ldm"), "ldm", fabric.device)
        runs.finish(folder, evaluate(cast(LatentDiffusion, best), recipe, train, val, console), console)


def look_at_elements(model: LatentDiffusion, latents: Latents, source: Path, console: Console) -> None:
    """Warn if the autoencoder does not know the elements of the crystals and so cannot reconstruct them."""
    import torch

    from chemeleon_cli.core.models.latents import elements_kept

    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(latents.table), generator=generator)[:ELEMENT_SAMPLES]
    kept = elements_kept(model.vae, latents, rows)
    if kept < ELEMENTS_KEPT:
        text = f"the autoencoder of {source} reconstructs the element of only {kept:.0%} of these atoms"
        console.print(f"[yellow]warning[/]: {text}; train one on these crystals (train-vae)", highlight=False)


def validate(model: LatentDiffusion, latents: Latents, rates: Mapping[str, float], batch_size: int) -> float:
    """Mean loss per atom of a table, with the same noise, steps and dropped conditions in every validation."""
    import torch

    from chemeleon_cli.core.conditions.base import drop_conditions

    generator = torch.Generator().manual_seed(0)
    total = 0.0
    for rows in torch.argsort(latents.table.num_atoms, stable=True).split(batch_size):
        x, num_atoms = latents.batch(rows)
        given = drop_conditions(latents.conditions_of(rows), rates, generator).to(model.device)
        loss = model.loss(x.to(model.device), num_atoms.to(model.device), generator, given)
        total += loss.item() * int(num_atoms.sum())
    return total / int(latents.table.num_atoms.sum())


def evaluate(model: LatentDiffusion, recipe: TrainLdm, train: Table, val: Table, console: Console) -> dict[str, float]:
    """Sample crystals without requests, and compare them with those that the model was trained on."""
    import torch

    from chemeleon_cli.core.models.generator import Sampling, sample_many
    from chemeleon_cli.core.models.layers import set_precision
    from chemeleon_cli.core.scoring.matching import Reference
    from chemeleon_cli.core.scoring.metrics import generation_report

    set_precision(model, recipe.training.precision)
    sampling = Sampling(**recipe.sampling.model_dump())
    generator = torch.Generator().manual_seed(recipe.seed)
    proposal = model.prior.propose(FINAL_SAMPLES, generator)
    batch_size, structures = recipe.training.batch_size, []
    for _, crystals in sample_many(model, proposal.num_atoms, sampling, generator, batch_size, proposal.requests):
        structures += crystals.to_structures()
    reference = Reference(train.formulas, train.structures, str(train.path.parent))
    sample = runs.at_most(train, REPORT_SAMPLES)
    report = generation_report(structures, reference, sample.structures(), val.structures())
    for name, value in report.items():
        console.print(f"  {name:<24} {value:.5g}", highlight=False)
    return report
