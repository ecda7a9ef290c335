"""`chemeleon train-vae`: train the autoencoder, which turns crystals into a few numbers per atom and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from chemeleon_cli.commands import runs
from chemeleon_cli.sources.checkpoints import find_model

if TYPE_CHECKING:
    from rich.console import Console

    from chemeleon_cli.recipe.base import RunOptions
    from chemeleon_cli.recipe.models import TrainVae


def run(recipe: TrainVae, options: RunOptions, console: Console) -> None:
    """Train a VAE; ends with how many held-out crystals come back the same."""
    import torch

    from chemeleon_cli.core.data.batches import BatchOrder, augment, deform
    from chemeleon_cli.core.models.vae import VAE, validate
    from chemeleon_cli.core.scoring.metrics import reconstruct
    from chemeleon_cli.core.training import checkpoint
    from chemeleon_cli.core.training.settings import Settings
    from chemeleon_cli.core.training.trainer import Run

    fabric = runs.launch(recipe, console)
    train, val = runs.load_data(recipe.data.path, recipe.data.max_atoms, console, recipe.data.thirds)
    torch.manual_seed(recipe.seed)
    vae = VAE(**recipe.model.model_dump())
    settings = Settings(**recipe.training.model_dump(exclude={"batch_size"}))
    meta = runs.describe(recipe, train.summary(), [])
    folder, logger = runs.open_folder(recipe, options, fabric, meta)
    training = Run(folder, "vae", vae, settings, fabric, recipe.seed, meta, "val/loss", logger=logger)
    if options.resume:
        runs.resume(training, recipe)
    order = BatchOrder(train.num_atoms, recipe.training.batch_size, recipe.seed, training.micro_batches_per_step)
    weights, latent_noise = recipe.loss.model_dump(), recipe.augment.latent_noise

    for _ in training.steps():
        for micro_batch in training.micro_batches():
            generator = training.generator(micro_batch)
            crystals = augment(train.crystals(order[micro_batch]), generator)
            crystals = deform(crystals, recipe.augment.strain, recipe.augment.displacement, generator).to(fabric.device)
            terms = vae.loss(crystals, generator, latent_noise)
            loss = sum((weights[name] * term for name, term in terms.items()), torch.zeros(()))
            training.backward(loss)
            training.note({"loss": loss, **terms})
        training.log({"gradient_norm": training.optimise()})
        if training.validation_is_due():
            with training.ema_weights():
                metrics = validate(vae, val, weights, latent_noise, recipe.training.batch_size)
            runs.print_validation(training.step + 1, training, metrics, training.validated(metrics), console)

    if fabric.is_global_zero:
        best, _ = checkpoint.load(find_model(str(folder), "vae"), "vae", fabric.device)
        report = reconstruct(cast(VAE, best), val, recipe.training.batch_size)
        for name, value in report.items():
            console.print(f"  {name:<24} {value:.5g}", highlight=False)
        runs.finish(folder, {f"val/{name}": value for name, value in report.items()}, console)
