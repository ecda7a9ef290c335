"""One step of reinforcement learning of a generator: rollout, score, update. No reward is known here by name.

Denoising is a Markov decision process whose actions are Gaussian (DDPO, Black et al. 2023). The reward of a crystal is
compared with those of its group (GRPO, Shao et al. 2024). The formulas are in `grpo`.

The first action of a group is the proposal of the generator's prior. If the prior is trained too, the advantage of this
action is the mean reward of the group compared with the other groups of the step.

The crystals of a group share one request, which conditions the policy and the base model that KL is measured against.
Rollout and update use no classifier-free guidance, because the probability of a step is that of the network alone.

Legend: G crystals in a group, all of one size N (so nothing is padded), D latent width, S steps of the sampling chain.
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
"""Factor on the gradient of the prior. The length of Adam's steps does not depend on it, and so small a gradient hardly
adds to the norm by which the gradient of all weights is clipped."""


RewardFn = Callable[[Crystals], Scores]
"""Scores all crystals of a step in one call."""


@dataclass(frozen=True)
class Settings:
    """Settings of an RL step, named as in the section `rl:` of the recipe, which holds their defaults.

    Attributes:
        groups_per_step: number of groups, summed over all ranks.
        num_group_samples: G.
        group_reward_norm: whether advantages are taken within each group (GRPO) or over the whole step (REINFORCE).
        normalize_fn: how rewards are normalised to advantages.
        eps: see `normalise`.
        num_inner_batch: optimiser steps per rollout, each on whole groups.
        clip_ratio: clip range of the surrogate loss.
        log_prob: whether log-probabilities are the "sum" or the "mean" over the latents of a crystal.
        kl_weight: weight of the KL divergence from the base model.
        trajectory_steps: number of denoising steps of each trajectory that are trained on; None for all.
        conditions: requests, one of which is chosen at random for each group; None is an unconditional request. If
            empty, all groups are unconditional.
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
    """A denoising step that is trained on, as it was at the time of sampling.

    Attributes:
        transition: x, mean, std and x_next by the policy that sampled it.
        log_prob: (G,) log-probability of x_next by that policy.
        base_mean: (G, N, D) mean of the frozen base model at the same x.
    """

    transition: Transition
    log_prob: Tensor
    base_mean: Tensor


@dataclass(frozen=True)
class PriorDecision:
    """The proposal of the prior for a group, which is the first action of its trajectories.

    Attributes:
        proposal: for one crystal; all crystals of the group share it.
        log_prob: (1,) log-probability of the proposal by the prior that made it.
    """

    proposal: Proposal
    log_prob: Tensor


@dataclass(frozen=True)
class Group:
    """G crystals of one size that share a request, and the denoising steps that are trained on."""

    num_atoms: Tensor
    decisions: list[Decision]
    crystals: Crystals
    conditions: ConditionBatch = NO_CONDITIONS
    prior_decision: PriorDecision | None = None


def rollout_group(
    model: Generator, base: Generator, settings: Settings, sampling: Sampling, generator: torch.Generator
) -> Group:
    """Sample one group with the current weights of the model.

    The last step of a chain is deterministic and has no log-probability, so it is never trained on.

    Args:
        model: the policy; in evaluation mode or without dropout, so that the update can reproduce its outputs.
        base: the frozen model that KL is measured against.
        settings: of the RL step.
        sampling: adds noise at every step but the last.
        generator: source of randomness for the request, the proposal, the choice of steps to train on, and all noise.
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
    """One RL step: sample groups, score them, update the denoiser and, if it is trained, the prior.

    Each group has its own random generator, so the groups do not depend on the number of ranks.

    Returns:
        Metrics to log. `log_ratio_first` is the largest |log-ratio| before the first update. It should be about 0; a
        larger value means that the update does not reproduce the arithmetic of the rollout.
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
    """Accumulate the gradient of one group: clipped surrogate plus KL to the base model, averaged over its decisions.

    Args:
        model: the policy with its current weights.
        group: from the rollout.
        advantage: (G,).
        settings: of the RL step.
        sampling: as in the rollout.
        share: weight of this group in the mean over its inner batch.

    Returns:
        `loss`, `kl` and the metrics of `grpo.clipped_loss`, averaged over the decisions; `log_ratio_max` is a maximum.
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
    """Accumulate the gradient of the prior's proposal for a group, with the same surrogate loss and KL.

    If log-probabilities are means over the latents of a crystal, that of the proposal is divided by the number of
    latents as well, so that the same `clip_ratio` and `kl_weight` suit both.

    Args:
        model: the policy with its current weights.
        base: the frozen model that KL is measured against.
        group: from the rollout, with a `prior_decision`.
        advantage: () of the group over the other groups of the step.
        settings: of the RL step.
        share: weight of this group in the mean over its inner batch.

    Returns:
        `prior_kl`, the KL divergence from the prior of the base model.
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
    """Scores of the groups of all ranks, in order of their index and identical on every rank.

    A reward may compare a crystal with the whole step, so the first rank scores all crystals and broadcasts the result.

    Raises:
        UserError: the reward raised it; it is raised on every rank.
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
    """Weighted sum of the mean raw value of each component. Unlike normalised totals, it is comparable between steps.

    A crystal in `scores.worst` gets the least favourable value of the scored crystals in each component: the lowest, or
    the highest if the weight is negative. Unscored crystals and components of weight 0 are left out.
    """
    total = 0.0
    for weight, values in zip(weights, scores.raw.values(), strict=True):
        if not weight:  # such a component is only reported, and may have scored nothing
            continue
        scored = weight * values[values.isfinite()].double()
        if len(scored):
            lost = int(scores.worst.sum())
            total += ((scored.sum() + lost * scored.min()) / (len(scored) + lost)).item()
        else:
            total += float("nan")
    return total


def _request(settings: Settings, generator: torch.Generator) -> Request:
    """The request of a group. It takes the first number of the group's random generator."""
    if not settings.conditions:
        return {}
    return settings.conditions[int(torch.randint(len(settings.conditions), (), generator=generator))] or {}


def _prior_advantage(run: Run, model: Generator, scores: Scores, settings: Settings) -> Tensor:
    """(groups_per_step,) `grpo.prior_advantage` over the groups of all ranks that train the prior; 0 for the others."""
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
