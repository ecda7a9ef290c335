"""`chemeleon train-rl`: steer a generator towards a reward."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from chemeleon_cli.commands import runs
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.checkpoints import find_model

if TYPE_CHECKING:
    from rich.console import Console

    from chemeleon_cli.core.data.crystals import Crystals
    from chemeleon_cli.core.models.generator import Generator, Sampling
    from chemeleon_cli.core.rewards import ReinforceReward, Scores
    from chemeleon_cli.core.scoring.candidates import Candidates
    from chemeleon_cli.core.scoring.context import ScoringContext
    from chemeleon_cli.core.training.trainer import Run
    from chemeleon_cli.recipe.base import RunOptions
    from chemeleon_cli.recipe.models import TrainRl


def run(recipe: TrainRl, options: RunOptions, console: Console) -> None:
    """Fine-tune a generator; the result is a checkpoint like any other generator's."""
    from chemeleon_cli.core.models.generator import Generator, Sampling
    from chemeleon_cli.core.models.layers import set_precision
    from chemeleon_cli.core.rl import step
    from chemeleon_cli.core.scoring.loading import load_context
    from chemeleon_cli.core.scoring.novelty import Memory
    from chemeleon_cli.core.training import checkpoint
    from chemeleon_cli.core.training.trainer import Run, Settings

    fabric = runs.launch(recipe, console)
    source = find_model(recipe.model, "ldm")
    loaded, model_meta = checkpoint.load(source, "ldm", fabric.device)
    model = cast(Generator, loaded)
    base = copy.deepcopy(model).requires_grad_(False)
    if recipe.rl.learn_prior:
        model.prior.learn()
    device = str(fabric.device)
    training_data = model_meta["data"]["path"]
    context = load_context(recipe.reward, recipe.reward.needs(), find_model, base.vae, training_data, device)
    recipe.reward.prepare(context)
    if context.energies:
        console.print(context.energies, highlight=False, soft_wrap=True)
    memory = Memory() if recipe.reward.needs().known else None
    sampling = Sampling(**recipe.sampling.model_dump())
    if recipe.sampling.sampler == "ddpm" and model.learns_variance:
        raise UserError(
            f"sampling.sampler: found ddpm; {recipe.model} learns the std of its steps, which an update would change",
            "take sampler: ddim, whose std is fixed",
        )
    model.chain(sampling)  # more steps than the model has: an error before there is a run folder
    for request in recipe.conditions:
        model.check_request(request or {})
    settings = step.Settings(
        **recipe.rl.model_dump(exclude={"entropy_weight", "learn_prior"}),
        normalize_fn=recipe.reward.normalize_fn,
        eps=recipe.reward.eps,
        conditions=recipe.conditions,
    )
    meta = runs.describe(recipe, model_meta["data"], [checkpoint.parent(source, model_meta)])
    folder, logger = runs.open_folder(recipe, options, fabric, meta)
    training = Run(
        folder,
        "ldm",
        model,
        Settings(**recipe.training.model_dump(exclude={"val_samples"}), log_every=1),
        fabric,
        recipe.seed,
        meta,
        monitor="val/reward",
        mode="max",
        logger=logger,
        memory=memory,
    )
    set_precision(base, training.precision)
    # a validation draws the same crystals each time, so it may not hold what earlier ones drew against them
    remembering = dataclasses.replace(context, memory=memory)
    if options.resume:
        runs.resume(training, recipe)
    else:
        metrics = on_first_rank(training, lambda: validate(model, recipe, context, sampling))
        runs.say(0, training, metrics, training.validated(metrics, before_training=True), console)

    def reward(crystals: Crystals) -> Scores:
        candidates, scores = score_crystals(crystals, recipe.reward, remembering)
        if memory is not None:
            memory.update(candidates.evaluated.canonical, candidates.evaluated.unique)
        return scores

    for _ in training.steps():
        training.log(step.train_step(training, model, base, reward, settings, sampling))
        if training.validation_is_due():
            metrics = on_first_rank(training, lambda: validate(model, recipe, context, sampling))
            runs.say(training.step + 1, training, metrics, training.validated(metrics), console)

    if fabric.is_global_zero:
        best = checkpoint.read_meta(find_model(str(folder), "ldm"))
        runs.finish(folder, {"step": best["step"], **best["metrics"]}, console)


def on_first_rank(training: Run, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Metrics of the averaged weights, measured once: relaxations and comparisons use all processors as it is.
    `Run.validated` tells the other ranks."""
    if not training.fabric.is_global_zero:
        return {}
    with training.ema_weights():
        return measure()


def score_crystals(crystals: Crystals, reward: ReinforceReward, context: ScoringContext) -> tuple[Candidates, Scores]:
    """Generated crystals, and what a reward says of them."""
    from chemeleon_cli.core.scoring.candidates import Candidates

    candidates = Candidates(crystals.to("cpu").to_structures(), context)
    return candidates, reward(candidates)


def validate(model: Generator, recipe: TrainRl, context: ScoringContext, sampling: Sampling) -> dict[str, float]:
    """The raw reward of crystals sampled from the same noise every time, and how good they are otherwise."""
    from chemeleon_cli.core.rl import step

    drawn = draw(model, recipe, sampling)
    candidates, scores = score_crystals(drawn, recipe.reward, context)
    metrics = {
        "val/reward": step.raw_reward(scores, [c.weight for c in recipe.reward.components]),
        **{f"val/reward/{name}": values.nanmean().item() for name, values in scores.raw.items()},
        "val/scored": scores.total.isfinite().float().mean().item(),
        "val/valid": candidates.valid.float().mean().item(),
        "val/unique_of_all": candidates.uniqueness.unique_of_all,
        **{f"val/{name}": fired.float().mean().item() for name, fired in candidates.guards.items()},
    }
    if context.energy_model is not None and context.hull is not None:
        metrics |= stability(candidates)
    return metrics | {f"val/mean_{name}": values.nanmean().item() for name, values in candidates.predictions.items()}


def stability(candidates: Candidates) -> dict[str, float]:
    """Where novelty is known: the share of crystals that are metastable, unique and novel as Chemeleon2 counts them."""
    from chemeleon_cli.core.scoring.protocols import PROTOCOLS, rates

    known = candidates.context.known
    if not known:
        return {}
    novelty = candidates.novelty(None if None in known else min(map(str, known)))
    above = candidates.e_above_hull.tolist()
    _, metastable = rates(PROTOCOLS[0], candidates.valid.tolist(), candidates.uniqueness, novelty.novel, above)
    assert metastable is not None, "Chemeleon2 defines it"
    return {"val/msun": metastable.share}


def draw(model: Generator, recipe: TrainRl, sampling: Sampling) -> Crystals:
    """The crystals of a validation, from the recipe's seed: an equal share for each of its condition sets."""
    import torch

    from chemeleon_cli.core.data.crystals import Crystals
    from chemeleon_cli.core.models.generator import sample_many
    from chemeleon_cli.core.scoring.features import BATCH

    generator = torch.Generator().manual_seed(recipe.seed)
    requests = [conditions or {} for conditions in recipe.conditions] or [{}]
    parts = []
    for i, request in enumerate(requests):
        share = max(1, len(range(i, recipe.training.val_samples, len(requests))))
        proposal = model.prior.propose(share, generator, request)
        many = sample_many(model, proposal.num_atoms, sampling, generator, BATCH, proposal.requests)
        parts += [crystals for _, crystals in many]
    return Crystals.cat(parts)
