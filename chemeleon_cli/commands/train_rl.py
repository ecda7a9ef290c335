"""`chemeleon train-rl`: steer a generator towards a reward."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from chemeleon_cli.commands import runs
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.models import find_model

if TYPE_CHECKING:
    from rich.console import Console

    from chemeleon_cli.core.data.crystals import Crystals
    from chemeleon_cli.core.models.generator import Generator, Sampling
    from chemeleon_cli.core.rewards import ReinforceReward, Scores
    from chemeleon_cli.core.scoring.candidates import Candidates
    from chemeleon_cli.core.scoring.context import Tools
    from chemeleon_cli.core.training.trainer import Run
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
    "conditions",
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
    from chemeleon_cli.core.models.generator import Generator, Sampling
    from chemeleon_cli.core.models.layers import set_precision
    from chemeleon_cli.core.rl import step
    from chemeleon_cli.core.scoring.context import build_tools
    from chemeleon_cli.core.scoring.novelty import Memory
    from chemeleon_cli.core.training import checkpoint
    from chemeleon_cli.core.training.trainer import Run, Settings

    fabric = runs.launch(recipe, console)
    source = find_model(recipe.model, "ldm")
    loaded, model_meta = checkpoint.load(source, "ldm", fabric.device)
    model = cast(Generator, loaded)
    base = copy.deepcopy(model).requires_grad_(False)
    if recipe.learn_prior:
        model.prior.learn()
    device = str(fabric.device)
    tools = build_tools(recipe.reward, find_model, base.vae, model_meta["data"]["path"], device)
    if tools.energies:
        console.print(tools.energies, highlight=False, soft_wrap=True)
    memory = Memory() if recipe.reward.needs().known else None
    sampling = Sampling(recipe.sampler, recipe.sampling_steps, recipe.eta)
    if recipe.sampler == "ddpm" and model.learns_variance:
        raise UserError(
            f"sampler: found ddpm; {recipe.model} learned the std of its steps, and an update would change it unseen",
            "take sampler: ddim, whose std is fixed",
        )
    model.chain(sampling)  # more steps than the model has: an error before there is a run folder
    for request in recipe.conditions:
        model.check_request(request or {})
    settings = step.Settings(
        **recipe.model_dump(include=set(SETTINGS)), normalize_fn=recipe.reward.normalize_fn, eps=recipe.reward.eps
    )
    meta = runs.describe(recipe, model_meta["data"], [checkpoint.parent(source, model_meta)])
    folder, logger = runs.open_folder(recipe, options, fabric, meta)
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
        memory=memory,
    )
    set_precision(base, training.precision)
    remembering = dataclasses.replace(tools, memory=memory)  # validations come from one seed: to be repeated is theirs
    if options.resume:
        runs.resume(training, recipe)
    else:
        metrics = on_first_rank(training, lambda: validate(model, recipe, tools, sampling))
        runs.say(0, training, metrics, training.validated(metrics, before_training=True), console)

    def reward(crystals: Crystals) -> Scores:
        candidates, scores = judge(crystals, recipe.reward, remembering)
        if memory is not None:
            memory.update(candidates.judged.canonical, candidates.judged.unique)
        return scores

    for _ in training.steps():
        training.log(step.train_step(training, model, base, reward, settings, sampling))
        if training.validation_is_due():
            metrics = on_first_rank(training, lambda: validate(model, recipe, tools, sampling))
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


def judge(crystals: Crystals, reward: ReinforceReward, tools: Tools) -> tuple[Candidates, Scores]:
    """Generated crystals, and what a reward says of them."""
    from chemeleon_cli.core.scoring.candidates import Candidates

    candidates = Candidates(crystals.to("cpu").to_structures(), tools)
    return candidates, reward(candidates)


def validate(model: Generator, recipe: TrainRl, tools: Tools, sampling: Sampling) -> dict[str, float]:
    """The raw reward of crystals sampled from the same noise every time, and how good they are otherwise."""
    from chemeleon_cli.core.rl import step

    drawn = draw(model, recipe, sampling)
    candidates, scores = judge(drawn, recipe.reward, tools)
    metrics = {
        "val/reward": step.raw_reward(scores, [c.weight for c in recipe.reward.components]),
        **{f"val/reward/{name}": values.nanmean().item() for name, values in scores.raw.items()},
        "val/scored": scores.total.isfinite().float().mean().item(),
        "val/valid": candidates.valid.float().mean().item(),
        "val/unique": len({g for g in candidates.groups if g >= 0}) / len(candidates),
        **{f"val/{name}": fired.float().mean().item() for name, fired in candidates.guards.items()},
    }
    if tools.energy_model is not None and tools.hull is not None:
        metrics |= stability(candidates)
    for name, predictor in tools.predictors.items():
        for target in predictor.targets:
            key = f"val/mean_{target}"
            key = key if key not in metrics else f"{key}_{Path(name).name}"
            metrics[key] = candidates.predict(name)[target].nanmean().item()
    return metrics


def stability(candidates: Candidates) -> dict[str, float]:
    """Where novelty is known: the share of crystals that are metastable, unique and novel as Chemeleon2 counts them."""
    from chemeleon_cli.core.scoring.protocols import PROTOCOLS, rates

    known = candidates.tools.known
    if not known:
        return {}
    found = candidates.newness(None if None in known else min(map(str, known)))
    _, metastable = rates(PROTOCOLS[0], found.unique, found.novel, candidates.e_above_hull.tolist())
    assert metastable is not None, "Chemeleon2 defines it"
    return {"val/msun": metastable.share}


def draw(model: Generator, recipe: TrainRl, sampling: Sampling) -> Crystals:
    """The crystals of a validation, from the recipe's seed: an equal share for each of its condition sets."""
    import torch

    from chemeleon_cli.core.data.crystals import Crystals
    from chemeleon_cli.core.models.generator import sample_many
    from chemeleon_cli.core.scoring.context import BATCH

    generator = torch.Generator().manual_seed(recipe.seed)
    requests = [conditions or {} for conditions in recipe.conditions] or [{}]
    parts = []
    for i, request in enumerate(requests):
        share = max(1, len(range(i, recipe.val_samples, len(requests))))
        proposal = model.prior.propose(share, generator, request)
        many = sample_many(model, proposal.num_atoms, sampling, generator, BATCH, proposal.requests)
        parts += [crystals for _, crystals in many]
    return Crystals.cat(parts)
