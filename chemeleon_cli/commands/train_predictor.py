"""`chemeleon train-predictor`: train a property predictor on the encoder of a VAE."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from chemeleon_cli.commands import runs
from chemeleon_cli.sources.checkpoints import find_model

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from chemeleon_cli.core.data.dataset import Table
    from chemeleon_cli.core.models.predictor import Predictor
    from chemeleon_cli.recipe.base import RunOptions
    from chemeleon_cli.recipe.models import TrainPredictor


def run(recipe: TrainPredictor, options: RunOptions, console: Console) -> None:
    """Train a predictor; ends with its errors on val and test, beside trivial baselines."""
    import torch

    from chemeleon_cli.core.data.batches import BatchOrder, augment
    from chemeleon_cli.core.data.dataset import load_split
    from chemeleon_cli.core.models.predictor import Predictor, labelled, validate
    from chemeleon_cli.core.models.vae import VAE
    from chemeleon_cli.core.training import checkpoint
    from chemeleon_cli.core.training.settings import Settings
    from chemeleon_cli.core.training.trainer import Run

    fabric = runs.launch(recipe, console)
    train, val = runs.load_data(recipe.data.path, recipe.data.max_atoms, console, recipe.data.thirds)
    test = load_split(recipe.data.path, "test", recipe.data.max_atoms)
    if test is not None:
        console.print(f"test: {len(test)} crystals from {test.path}", highlight=False)
        runs.print_skipped(test.rejected, console)
    train, val = (labelled(table, list(recipe.targets)) for table in (train, val))
    vae_folder = find_model(recipe.vae, "vae")
    vae, vae_meta = checkpoint.load(vae_folder, "vae")
    encoder = cast(VAE, vae).encoder
    torch.manual_seed(recipe.seed)
    model = Predictor(
        encoder.config,
        list(recipe.targets),
        recipe.use_encoder_features,
        recipe.use_composition_features,
        recipe.reduce,
        recipe.model.dropout,
        recipe.origins,
    )
    model.encoder.load_state_dict(encoder.state_dict())
    model.encoder.requires_grad_(recipe.encoder == "finetune")
    targets = recipe.targets.values()
    model.standardise(train, [target.mean for target in targets], [target.std for target in targets])
    weights = torch.tensor([t.loss_weight for t in targets], device=fabric.device)
    settings = Settings(**recipe.training.model_dump(exclude={"batch_size"}))
    meta = runs.describe(recipe, train.summary(), [checkpoint.parent(vae_folder, vae_meta)])
    folder, logger = runs.open_folder(recipe, options, fabric, meta)
    training = Run(folder, "predictor", model, settings, fabric, recipe.seed, meta, "val/loss", logger=logger)
    if options.resume:
        runs.resume(training, recipe)
    order = BatchOrder(train.num_atoms, recipe.training.batch_size, recipe.seed, training.micro_batches_per_step)

    for _ in training.steps():
        for micro_batch in training.micro_batches():
            crystals = augment(train.crystals(order[micro_batch]), training.generator(micro_batch)).to(fabric.device)
            terms = model.loss(crystals, weights)
            training.backward(terms["loss"])
            training.note(terms)
        training.log({"gradient_norm": training.optimise()})
        if training.validation_is_due():
            with training.ema_weights():
                metrics = validate(model, val, weights)
            runs.print_validation(training.step + 1, training, metrics, training.validated(metrics), console)

    if fabric.is_global_zero:
        best, _ = checkpoint.load(find_model(str(folder), "predictor"), "predictor", fabric.device)
        results: dict[str, float] = {}
        for split, table in (("val", val), ("test", test)):
            if table is not None:
                results |= report(cast(Predictor, best), recipe, train, table, split, folder, console)
        runs.finish(folder, results, console)


def report(
    model: Predictor, recipe: TrainPredictor, train: Table, table: Table, split: str, folder: Path, console: Console
) -> dict[str, float]:
    """Print a table of errors, write `predictions_<split>.csv`, and return the figures."""
    import pandas as pd
    from rich.table import Table as RichTable

    from chemeleon_cli.core.models.layers import set_precision
    from chemeleon_cli.core.models.predictor import predict_table
    from chemeleon_cli.core.scoring.metrics import regression_report

    set_precision(model, "float32")  # as rewards use it
    prediction = predict_table(model, table)
    columns: dict[str, object] = {"material_id": table.ids, "formula": table.formulas}
    found: dict[str, dict[str, float]] = {}
    for k, (name, target) in enumerate(recipe.targets.items()):
        if name not in table.properties:
            continue
        truth, guess = table.properties[name].numpy(), prediction[:, k].numpy()
        columns |= {name: truth, f"predicted_{name}": guess}
        known = train.properties[name][~train.properties[name].isnan()]
        found[name] = regression_report(
            truth, guess, known.mean().item(), known.median().item(), target.window, target.zero_is
        )
    grid = RichTable(f"{split}, in each target's unit", *found)
    for key in dict.fromkeys(key for report in found.values() for key in report):
        grid.add_row(key, *(f"{report[key]:.4g}" if key in report else "" for report in found.values()))
    console.print(grid)
    pd.DataFrame(columns).to_csv(folder / f"predictions_{split}.csv", index=False)
    return {f"{split}/{name}/{key}": value for name, report in found.items() for key, value in report.items()}
