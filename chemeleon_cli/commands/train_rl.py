"""`chemeleon train-rl`: steer a generator towards a reward."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, cast

from chemeleon_cli.commands import runs
from chemeleon_cli.sources.models import find_model

if TYPE_CHECKING:
    from rich.console import Console

    from chemeleon_cli.core.candidates import Candidates
    from chemeleon_cli.core.crystals import Crystals
    from chemeleon_cli.core.latent_diffusion import LatentDiffusion, Sampling
    from chemeleon_cli.core.rewards import ReinforceReward, Scores
    from chemeleon_cli.core.tools import Tools
    from chemeleon_cli.recipe.base import RunOptions
    from chemeleon_cli.recipe.models import TrainRl

SETTINGS = (
    "groups_per_step",
    "num_group_samples",
    "group_reward_norm",
    "num_inner_batch",
    "clip_ratio",
    "log_prob",
    "kl_weight",
    "trajectory_steps",
)
TRAINING = (
    "max_steps",
    "max_minutes",
    "learning_rate",
    "warmup_steps",
    "weight_decay",
    "gradient_clip",
    "ema_decay",
    "precision",
    "val_every",
    "patience",
)


def run(recipe: TrainRl, options: RunOptions, console: Console) -> None:
    """Fine-tune a generator; the result is a checkpoint like any other generator's."""
    from chemeleon_cli.core import checkpoint, rl
    from chemeleon_cli.core.latent_diffusion import LatentDiffusion, Sampling
    from chemeleon_cli.core.layers import set_precision
    from chemeleon_cli.core.tools import build_tools
    from chemeleon_cli.core.trainer import Run, Settings

    fabric = runs.launch(recipe, console)
    source = find_model(recipe.model, "ldm")
    loaded, model_meta = checkpoint.load(source, "ldm", fabric.device)
    model = cast(LatentDiffusion, loaded)
    base = copy.deepcopy(model).requires_grad_(False)
    device = str(fabric.device)
    tools = build_tools(recipe.reward, find_model, base.vae, model_meta["data"]["path"], device)
    sampling = Sampling(recipe.sampler, recipe.sampling_steps, recipe.eta)
    model.chain(sampling)  # more steps than the model has: said before there is a run folder
    settings = rl.Settings(
        **recipe.model_dump(include=set(SETTINGS)), normalize_fn=recipe.reward.normalize_fn, eps=recipe.reward.eps
    )
    meta = runs.describe(recipe, model_meta["data"], [checkpoint.parent(source, model_meta)])
    folder, logger = runs.open_folder(recipe, options, fabric)
    training = Run(
        folder,
        "ldm",
        model,
        Settings(**recipe.model_dump(include=set(TRAINING)), log_every=1),
        fabric,
        recipe.seed,
        meta,
        monitor="val/reward",
        mode="max",
        logger=logger,
    )
    set_precision(base, training.precision)
    if options.resume:
        training.resume()
    else:
        with training.ema_weights():
            metrics = validate(model, recipe, tools, sampling)
        runs.say(0, training, metrics, training.validated(metrics, before_training=True), console)

    def reward(crystals: Crystals) -> Scores:
        return judge(crystals, recipe.reward, tools)[1]

    for _ in training.steps():
        training.log(rl.train_step(training, model, base, reward, settings, sampling))
        if training.validation_is_due():
            with training.ema_weights():
                metrics = validate(model, recipe, tools, sampling)
            runs.say(training.step + 1, training, metrics, training.validated(metrics), console)

    if fabric.is_global_zero:
        best = checkpoint.read_meta(find_model(str(folder), "ldm"))
        runs.finish(folder, {"step": best["step"], **best["metrics"]}, console)


def judge(crystals: Crystals, reward: ReinforceReward, tools: Tools) -> tuple[Candidates, Scores]:
    """Generated crystals, and what a reward says of them."""
    from chemeleon_cli.core.candidates import Candidates

    candidates = Candidates(crystals.to("cpu").to_structures(), tools)
    return candidates, reward(candidates)


def validate(model: LatentDiffusion, recipe: TrainRl, tools: Tools, sampling: Sampling) -> dict[str, float]:
    """The raw reward of crystals drawn from the same noise every time, and how good they are otherwise."""
    import torch

    from chemeleon_cli.core import rl
    from chemeleon_cli.core.crystals import Crystals
    from chemeleon_cli.core.latent_diffusion import sample_many

    generator = torch.Generator().manual_seed(recipe.seed)
    sizes = model.draw_sizes(recipe.val_samples, generator)
    drawn = Crystals.cat([c for _, c in sample_many(model, sizes, sampling, generator, recipe.num_group_samples)])
    candidates, scores = judge(drawn, recipe.reward, tools)
    metrics = {
        "val/reward": rl.raw_reward(scores, [c.weight for c in recipe.reward.components]),
        **{f"val/reward/{name}": values.nanmean().item() for name, values in scores.raw.items()},
        "val/valid": candidates.valid.float().mean().item(),
        "val/unique": len({g for g in candidates.groups if g >= 0}) / len(candidates),
    }
    for name, predictor in tools.predictors.items():
        for target in predictor.targets:
            key = f"val/mean_{target}"
            key = key if key not in metrics else f"{key}_{Path(name).name}"
            metrics[key] = candidates.predict(name)[target].nanmean().item()
    return metrics
