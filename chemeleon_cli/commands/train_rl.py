"""`chemeleon train-rl`: steer a generator towards a reward."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

from chemeleon_cli.commands import runs
from chemeleon_cli.core.training.ranks import on_first_rank
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

REASONS = 5
"""Number of reasons that are named when no crystal has a score."""


def run(recipe: TrainRl, options: RunOptions, console: Console) -> None:
    """Steer a generator; the result is a checkpoint like that of any other generator."""
    from chemeleon_cli.core.models.generator import Generator, Sampling
    from chemeleon_cli.core.models.layers import set_precision
    from chemeleon_cli.core.rl import step
    from chemeleon_cli.core.scoring.loading import load_context
    from chemeleon_cli.core.scoring.novelty import Memory
    from chemeleon_cli.core.training import checkpoint
    from chemeleon_cli.core.training.settings import Settings
    from chemeleon_cli.core.training.trainer import Run

    fabric = runs.launch(recipe, console)
    source = find_model(recipe.model, "ldm")
    loaded, model_meta = checkpoint.load(source, "ldm", fabric.device)
    model = cast(Generator, loaded)
    base = copy.deepcopy(model).requires_grad_(False)
    if recipe.rl.learn_prior:
        model.prior.learn()
    device = str(fabric.device)
    training_data = model_meta["data"].get("path")
    context = load_context(recipe.reward, recipe.reward.needs(), find_model, base.vae, training_data, device)
    recipe.reward.prepare(context)
    if context.energies:
        console.print(context.energies, highlight=False, soft_wrap=True)
    memory = Memory() if recipe.reward.needs().known else None
    sampling = Sampling(**recipe.sampling.model_dump())
    if recipe.sampling.sampler == "ddpm" and model.learns_variance:
        raise UserError(
            f"sampling.sampler: found ddpm; {recipe.model} learns the std of its steps, which an update would change",
            "use sampler: ddim, whose std is fixed",
        )
    model.chain(sampling)  # too many steps are an error before there is a run folder
    for request in recipe.conditions:
        model.check_request(request or {})
    settings = step.Settings(
        **recipe.rl.model_dump(exclude={"entropy_weight", "learn_prior"}),
        normalize_fn=recipe.reward.normalize_fn,
        eps=recipe.reward.eps,
        conditions=recipe.conditions,
    )
    meta = runs.describe(recipe, model_meta["data"], [checkpoint.parent(source, model_meta)])
    precision = set_precision(model, recipe.training.precision)
    set_precision(base, precision)
    began, before = time.monotonic(), None
    if not options.resume:  # before there is a run folder: a reward that scores nothing must not replace a run
        runs.check_folder(recipe, options, fabric, meta)
        try:
            before = on_first_rank(fabric, lambda: validate(model, recipe, context, sampling, must_score=True))
        except UserError as error:
            raise UserError(f"step 0: {error.message}; nothing is written", error.hint) from error
    folder, logger = runs.open_folder(recipe, options, fabric, meta)
    training = Run(
        folder,
        "ldm",
        model,
        Settings(
            **recipe.training.model_dump(exclude={"val_samples", "unscored_patience"}),
            min_learning_rate_ratio=1.0,
            accumulate=1,
            log_every=1,
        ),
        fabric,
        recipe.seed,
        meta,
        monitor="val/reward",
        mode="max",
        logger=logger,
        memory=memory,
    )
    training.started = began  # max_minutes includes the first validation
    if before is None:
        runs.resume(training, recipe)
        if training.validation_is_missing():
            with training.ema_weights():
                before = on_first_rank(fabric, lambda: validate(model, recipe, context, sampling))
    if before is not None:
        improved = training.validated(before, between_steps=True)
        runs.print_validation(training.step, training, before, improved, console)
    # every validation samples the same crystals, so it must not compare them with those of earlier validations
    remembering = dataclasses.replace(context, memory=memory)
    unscored: Counter[str] = Counter()

    def reward(crystals: Crystals) -> Scores:
        candidates, scores = score_crystals(crystals, recipe.reward, remembering)
        if memory is not None:
            memory.update(candidates.evaluated.canonical, candidates.evaluated.unique)
        if not scores.total.isfinite().any():
            unscored.update(recipe.reward.why_unscored(candidates, scores))
        return scores

    steps_without = 0
    for number in training.steps():
        with saving(training, number):
            metrics = step.train_step(training, model, base, reward, settings, sampling)
        training.log(metrics)
        steps_without = 0 if metrics["scored"] else steps_without + 1
        if not steps_without:
            unscored.clear()
        if steps_without >= recipe.training.unscored_patience:
            text = f"step {number + 1}: no crystal of the last {steps_without} steps has a score{_reasons(unscored)}"
            best = checkpoint.read_meta(find_model(str(folder), "ldm"))["step"]
            raise UserError(
                f"{text}; {training.standing()}",
                f"the best generator, of step {best}, is kept in {folder}; a lower training.learning_rate or a larger "
                "rl.kl_weight keeps the generator closer to the one that it started from",
            )
        if training.validation_is_due():
            with saving(training, number + 1), training.ema_weights():
                metrics = on_first_rank(fabric, lambda: validate(model, recipe, context, sampling))
            runs.print_validation(number + 1, training, metrics, training.validated(metrics), console)

    if fabric.is_global_zero:
        best = checkpoint.read_meta(find_model(str(folder), "ldm"))
        runs.finish(folder, {"step": best["step"], **best["metrics"]}, console)


@contextlib.contextmanager
def saving(training: Run, steps: int) -> Iterator[None]:
    """If a reward fails, save the run, and name in the error the step and the checkpoint to resume from.

    Args:
        training: the run.
        steps: the number of steps that are done when the reward is computed.
    """
    try:
        yield
    except UserError as error:
        training.step = steps
        training.save("last")
        hint = f"{error.hint}; " if error.hint else ""
        raise UserError(
            f"step {steps}: {error.message}; {training.standing()}", f"{hint}--resume continues from there"
        ) from error


def score_crystals(crystals: Crystals, reward: ReinforceReward, context: ScoringContext) -> tuple[Candidates, Scores]:
    """Generated crystals as candidates, and their rewards."""
    from chemeleon_cli.core.scoring.candidates import Candidates

    candidates = Candidates(crystals.to("cpu").to_structures(), context)
    return candidates, reward(candidates)


def validate(
    model: Generator, recipe: TrainRl, context: ScoringContext, sampling: Sampling, must_score: bool = False
) -> dict[str, float]:
    """The raw reward and other metrics of crystals, which are sampled from the same noise in every validation.

    Raises:
        UserError: no crystal has a score, and `must_score` is true.
    """
    from chemeleon_cli.core.rl import step

    drawn = draw(model, recipe, sampling)
    candidates, scores = score_crystals(drawn, recipe.reward, context)
    if must_score and not scores.total.isfinite().any():
        why = _reasons(recipe.reward.why_unscored(candidates, scores))
        raise UserError(
            f"none of {len(candidates)} crystals of {recipe.model} has a score{why}",
            "the reward needs scores to compare: change its guards, its hull or the component that is named, or sample "
            "more crystals (training.val_samples)",
        )
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


def _reasons(unscored: Mapping[str, int]) -> str:
    """The most frequent reasons with their counts, as text; "" if there are none."""
    ordered = sorted(unscored.items(), key=lambda item: -item[1])
    named = [f"{count} {reason}" for reason, count in ordered[:REASONS]]
    more = sum(count for _, count in ordered[REASONS:])
    return f" ({', '.join(named)}{f', {more} for other reasons' if more else ''})" if named else ""


def stability(candidates: Candidates) -> dict[str, float]:
    """The share of crystals that are metastable, unique and novel by Chemeleon2's definition, if novelty is known."""
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
    """The crystals of a validation, sampled with the recipe's seed: an equal share for each of its requests."""
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
