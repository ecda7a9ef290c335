"""Reinforcement learning of a generator: rollout, score, update. It knows no reward by name.

Denoising is a Markov decision process whose actions are Gaussian (DDPO, Black et al. 2023); crystals are
judged against others of their group (GRPO, Shao et al. 2024); the arithmetic is in `grpo`.

What the generator's prior proposes for a group is the first of its decisions. Where the prior learns, this decision is
judged by the group's mean reward among the groups of the step.

The crystals of a group share one request, and the base model that KL is measured against is given it too. Rollout and
update use the conditions without guidance, because the probability of a step is that of the network alone.

Legend: G crystals of a group, all of one size N (so nothing is padded), D latent width, S chain steps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chemeleon_cli.core.conditions.base import NO_CONDITIONS, ConditionBatch, Request
from chemeleon_cli.core.data.crystals import Crystals
from chemeleon_cli.core.models.generator import Generator, Sampling, Transition
from chemeleon_cli.core.models.prior import Proposal
from chemeleon_cli.core.normalise import NormalizeFn
from chemeleon_cli.core.rl import grpo
from chemeleon_cli.core.scoring.scores import Scores
from chemeleon_cli.core.training.ranks import on_first_rank
from chemeleon_cli.core.training.trainer import Run

PRIOR_SCALE = 1e-4
"""Factor on the gradient of the prior. Adam's steps are as long at any scale, and a small gradient takes no part in the
norm by which the gradient of all weights together is clipped."""


RewardFn = Callable[[Crystals], Scores]
"""Judges the crystals of a whole step at once."""


@dataclass(frozen=True)
class Settings:
    """One RL step; names as in the section `rl:` of the recipe, whose defaults are the only ones.

    Attributes:
        groups_per_step: groups of all ranks together.
        num_group_samples: G.
        group_reward_norm: advantages within each group (GRPO), or over the whole step (REINFORCE).
        normalize_fn: how rewards become advantages.
        eps: a smaller spread than this is none.
        num_inner_batch: optimiser steps on one rollout, each on whole groups.
        clip_ratio: of the surrogate.
        log_prob: "sum" over a crystal's latents, or "mean".
        kl_weight: of the divergence from the base model.
        trajectory_steps: denoising steps of each trajectory that are trained on; None for all.
        conditions: requests; each group takes one at random, and None asks for nothing. Without any, nothing is asked
            for.
    """

    groups_per_step: int
    num_group_samples: int
    group_reward_norm: bool
    normalize_fn: NormalizeFn
    eps: float
    num_inner_batch: int
    clip_ratio: float
    log_prob: grpo.Reduce
    kl_weight: float
    trajectory_steps: int | None
    conditions: Sequence[Request | None] = ()


@dataclass(frozen=True)
class Decision:
    """A denoising step that is trained on, with what was true when it was sampled.

    Attributes:
        transition: x, mean, std and x_next of the policy that sampled it.
        log_prob: (G,) of x_next by that policy.
        base_mean: (G, N, D) the frozen base model's mean at the same x.
    """

    transition: Transition
    log_prob: Tensor
    base_mean: Tensor


@dataclass(frozen=True)
class PriorDecision:
    """What the prior proposed for a group, the first of its decisions.

    Attributes:
        proposal: of one crystal, which all of the group share.
        log_prob: (1,) of it by the prior that proposed it.
    """

    proposal: Proposal
    log_prob: Tensor


@dataclass(frozen=True)
class Group:
    """G crystals of one size that share a request, and the decisions that led to them."""

    num_atoms: Tensor
    decisions: list[Decision]
    crystals: Crystals
    conditions: ConditionBatch = NO_CONDITIONS
    prior_decision: PriorDecision | None = None


def rollout_group(
    model: Generator, base: Generator, settings: Settings, sampling: Sampling, generator: torch.Generator
) -> Group:
    """Sample one group with the model's live weights.

    The last step of a chain is deterministic, so it is never among the decisions.

    Args:
        model: the policy; in evaluation mode or without dropout, so that the update can repeat its numbers.
        base: the frozen model that KL is measured against.
        settings: of the RL step.
        sampling: with noise at every step but the last.
        generator: source of the request, what the prior proposes, the choice of decisions and all noise.
    """
    request = _request(settings, generator)
    proposal = model.prior.propose(1, generator, request)
    num_atoms = proposal.num_atoms.expand(settings.num_group_samples).to(model.device)
    conditions = model.encode_requests(proposal.requests * len(num_atoms), num_atoms)
    prior_decision = None
    if model.prior.learns_from(request):
        log_prob, _ = model.prior.log_prob_and_kl(proposal, base.prior)
        prior_decision = PriorDecision(proposal, log_prob.detach())
    chain = model.chain(sampling)
    count = min(settings.trajectory_steps or len(chain), len(chain) - 1)
    chosen = set((1 + torch.randperm(len(chain) - 1, generator=generator)[:count]).tolist())
    decisions, x = [], torch.zeros(0)
    for transition in model.transitions(num_atoms, sampling, generator, conditions):
        x = transition.x_next
        if transition.index in chosen:
            with torch.no_grad():
                base_mean, _ = base.step(transition.x, transition.index, num_atoms, chain, sampling, conditions)
            log_prob = _log_prob(transition, transition.mean, settings)
            decisions.append(Decision(transition, log_prob, base_mean))
    return Group(num_atoms, decisions, model.decode(x, num_atoms, conditions), conditions, prior_decision)


def train_step(
    run: Run, model: Generator, base: Generator, reward: RewardFn, settings: Settings, sampling: Sampling
) -> dict[str, float]:
    """One RL step: sample groups, score them, update the denoiser and, where it learns, the prior.

    Group g has a source of randomness of its own, so that the groups are the same however many ranks share them.

    Returns:
        What to log. `log_ratio_first` is the largest |log-ratio| before the first update: about 0, or the
        update does not repeat the rollout's arithmetic.
    """
    rank, ranks = run.fabric.global_rank, run.fabric.world_size
    mine = range(rank, settings.groups_per_step, ranks)
    groups = {
        g: rollout_group(model, base, settings, sampling, run.generator(run.step * settings.groups_per_step + g))
        for g in mine
    }
    scores = score_everywhere(run, {g: group.crystals for g, group in groups.items()}, settings, reward)
    advantage = grpo.group_advantage(
        scores.total,
        scores.worst,
        settings.num_group_samples,
        settings.group_reward_norm,
        settings.normalize_fn,
        settings.eps,
    ).view(settings.groups_per_step, settings.num_group_samples)
    of_groups = _prior_advantage(run, model, scores, settings)

    logged: dict[str, list[float]] = defaultdict(list)
    first = 0.0
    order = grpo.inner_batches(settings.groups_per_step, settings.num_inner_batch, run.generator(-run.step - 1))
    for number, batch in enumerate(order):
        for g in batch.tolist():
            if g in groups:
                share = ranks / len(batch)
                info = accumulate(model, groups[g], advantage[g].to(model.device), settings, sampling, share)
                if groups[g].prior_decision is not None:
                    info |= accumulate_prior(model, base, groups[g], of_groups[g].to(model.device), settings, share)
                for name, value in info.items():
                    logged[name].append(value)
                if number == 0:
                    first = max(first, info["log_ratio_max"])
        logged["gradient_norm"].append(run.optimise())
    return {
        **{f"reward/{name}": values.nanmean().item() for name, values in scores.raw.items()},
        "scored": (scores.total.isfinite() & ~scores.worst).float().mean().item(),
        "impossible": scores.impossible.float().mean().item(),
        "unscored": (scores.total.isnan() & ~scores.worst).float().mean().item(),
        "log_ratio_first": first,
        **{name: sum(values) / len(values) for name, values in logged.items()},
    }


def accumulate(
    model: Generator, group: Group, advantage: Tensor, settings: Settings, sampling: Sampling, share: float
) -> dict[str, float]:
    """Add one group's gradient: clipped surrogate plus KL to the base model, mean over its decisions.

    Args:
        model: the policy, at its present weights.
        group: of the rollout.
        advantage: (G,).
        settings: of the RL step.
        sampling: as in the rollout.
        share: of this group in its inner batch.

    Returns:
        Means over the decisions of loss, kl and the numbers of `grpo.clipped_loss`; of `log_ratio_max` the largest.
    """
    chain = model.chain(sampling)
    totals: dict[str, float] = defaultdict(float)
    largest = 0.0
    for decision in group.decisions:
        sampled = decision.transition
        mean, _ = model.step(sampled.x, sampled.index, group.num_atoms, chain, sampling, group.conditions)
        surrogate, info = grpo.clipped_loss(
            _log_prob(sampled, mean, settings), decision.log_prob, advantage, settings.clip_ratio
        )
        mask = torch.ones(mean.shape[:2], dtype=torch.bool, device=mean.device)
        kl = grpo.gaussian_kl(mean, decision.base_mean, sampled.std, mask, settings.log_prob).mean()
        loss = surrogate + settings.kl_weight * kl
        (loss * share / len(group.decisions)).backward()
        for name, value in {"loss": loss, "kl": kl, **info}.items():
            totals[name] += value.item() / len(group.decisions)
        largest = max(largest, info["log_ratio_max"].item())
    return {**totals, "log_ratio_max": largest}


def accumulate_prior(
    model: Generator, base: Generator, group: Group, advantage: Tensor, settings: Settings, share: float
) -> dict[str, float]:
    """Add the gradient of what the prior proposed for a group, by the same surrogate and KL.

    Where log-probabilities are means over the latents of a crystal, this one is divided by their number as well, so
    that one `clip_ratio` and one `kl_weight` fit both.

    Args:
        model: the policy, at its present weights.
        base: the frozen model that KL is measured against.
        group: of the rollout, with a `prior_decision`.
        advantage: () of the group among those of the step.
        settings: of the RL step.
        share: of this group in its inner batch.

    Returns:
        `prior_kl`, the divergence from the base model's prior.
    """
    decision = group.prior_decision
    assert decision is not None
    count = 1 if settings.log_prob == "sum" else int(group.num_atoms[0]) * model.latent_dim
    log_prob, kl = model.prior.log_prob_and_kl(decision.proposal, base.prior)
    surrogate, _ = grpo.clipped_loss(
        log_prob / count, decision.log_prob / count, advantage.view(1), settings.clip_ratio
    )
    (PRIOR_SCALE * (surrogate + settings.kl_weight * kl / count) * share).backward()
    return {"prior_kl": kl.item()}


def score_everywhere(run: Run, crystals: Mapping[int, Crystals], settings: Settings, reward: RewardFn) -> Scores:
    """Scores of all groups of all ranks, in order, the same on every rank.

    Rewards compare a crystal with the whole step, so one rank scores everything and tells the others.

    Raises:
        UserError: of the reward, on every rank.
    """
    moved = {g: c.to("cpu") for g, c in crystals.items()}
    gathered: list[dict[int, Crystals]] = [moved]
    if run.fabric.world_size > 1:
        from torch import distributed

        gathered = [{} for _ in range(run.fabric.world_size)]
        distributed.all_gather_object(gathered, moved)
    everything = {g: c for part in gathered for g, c in part.items()}
    return on_first_rank(
        run.fabric, lambda: reward(Crystals.cat([everything[g] for g in range(settings.groups_per_step)]))
    )


def raw_reward(scores: Scores, weights: Sequence[float]) -> float:
    """Weighted sum of the components' raw means, comparable between steps where normalised totals are not.

    A crystal of the worst counts in each component as the worst one scored, which is the largest where the
    weight is negative; one that is only unscored does not count, nor does a component of weight 0.
    """
    total = 0.0
    for weight, values in zip(weights, scores.raw.values(), strict=True):
        if not weight:  # it only watches, and may have nothing scored
            continue
        scored = weight * values[values.isfinite()].double()
        if len(scored):
            lost = int(scores.worst.sum())
            total += ((scored.sum() + lost * scored.min()) / (len(scored) + lost)).item()
        else:
            total += float("nan")
    return total


def _request(settings: Settings, generator: torch.Generator) -> Request:
    """What a group is asked for, which is the first thing that its source of randomness decides."""
    if not settings.conditions:
        return {}
    return settings.conditions[int(torch.randint(len(settings.conditions), (), generator=generator))] or {}


def _prior_advantage(run: Run, model: Generator, scores: Scores, settings: Settings) -> Tensor:
    """(groups_per_step,) `grpo.prior_advantage` among the groups, of all ranks, that the prior learns from; else 0."""
    groups, size = settings.groups_per_step, settings.num_group_samples
    requests = [_request(settings, run.generator(run.step * groups + g)) for g in range(groups)]
    rows = [g for g in range(groups) if model.prior.learns_from(requests[g])]
    advantage = torch.zeros(groups)
    if rows:
        total, worst = (values.view(groups, size)[rows].flatten() for values in (scores.total, scores.worst))
        advantage[rows] = grpo.prior_advantage(total, worst, size, settings.eps)
    return advantage


def _log_prob(transition: Transition, mean: Tensor, settings: Settings) -> Tensor:
    mask = torch.ones(mean.shape[:2], dtype=torch.bool, device=mean.device)
    return grpo.log_prob(transition.x_next, mean, transition.std, mask, settings.log_prob)
