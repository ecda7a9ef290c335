"""The mathematics of the RL update, as pure functions on tensors.

Denoising is a sequence of actions, each sampled from a Gaussian (mean, std) whose mean the network predicts: DDPO
(Black et al. 2023, "Training Diffusion Models with Reinforcement Learning"). The advantage of an action is the reward
of its crystal relative to the other crystals of its group, which share size and condition: GRPO (Shao et al. 2024,
"DeepSeekMath"). With groups of one crystal and rewards normalised over the batch, this is REINFORCE with a baseline.

Legend: B crystals, N atoms, D latent width, G crystals per group, S samples with K denoising steps each in an update.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from chemeleon_cli.core.normalise import NormalizeFn, normalise

Reduce = Literal["sum", "mean"]

# exp(20) is beyond any clip range, and its product with an advantage is still finite in float32
MAX_LOG_RATIO = 20.0


def log_prob(x: Tensor, mean: Tensor, std: Tensor, mask: Tensor, reduce: Reduce = "sum") -> Tensor:
    """Log-density log N(x; mean, std^2) of the latents of a crystal's real atoms.

    log N = -(x - mean)^2 / (2 std^2) - log std - log(2 pi) / 2 for each of the N D numbers.

    Args:
        x: (..., N, D) sampled values.
        mean: (..., N, D).
        std: broadcastable to x; greater than 0.
        mask: (..., N) bool, True for real atoms.
        reduce: "sum" gives the log-probability; "mean" divides it by the number of atoms times D.

    Returns:
        (...)

    Raises:
        ValueError: std is not positive. A deterministic step, such as the last one of a chain, has no log-probability.
    """
    _check_positive(std)
    return _reduce(-0.5 * ((x - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi), mask, reduce)


def gaussian_kl(mean: Tensor, mean_base: Tensor, std: Tensor, mask: Tensor, reduce: Reduce = "sum") -> Tensor:
    """Exact KL(N(mean, std^2) || N(mean_base, std^2)) = (mean - mean_base)^2 / (2 std^2).

    Arguments, result and errors are those of `log_prob`; `mean_base` (..., N, D) is the mean of the frozen base model.
    """
    _check_positive(std)
    return _reduce(0.5 * ((mean - mean_base) / std) ** 2, mask, reduce)


def group_advantage(
    total: Tensor,
    impossible: Tensor,
    group_size: int,
    group_reward_norm: bool = True,
    normalize_fn: NormalizeFn = "std",
    eps: float = 1e-4,
) -> Tensor:
    """Advantage of each crystal over its peers: its reward, normalised over them.

    The peers of a crystal are its group, or the whole batch if `group_reward_norm` is False. Only scored crystals
    enter the statistics. An impossible crystal gets the lowest advantage among its scored peers. An unscored crystal
    gets their mean, which is 0 for "std" and "subtract_mean", so that it pushes the policy neither way. If none of
    the peers is scored, all get 0. The result never contains NaN.

    Args:
        total: (B,) rewards, group after group; values that are not finite mark unscored crystals.
        impossible: (B,) bool, crystals that cannot exist (cell, distances) or that the recipe refuses. Their rewards
            are ignored.
        group_size: G; divides B.
        group_reward_norm: whether to normalise within each group instead of over the batch.
        normalize_fn: see `normalise`.
        eps: see `normalise`.

    Returns:
        (B,) float32.
    """
    peers = group_size if group_reward_norm else len(total)
    scored = total.isfinite() & ~impossible
    rewards = total.double().masked_fill(~scored, torch.nan)
    advantages = [
        _fill(normalise(reward, normalize_fn, eps), lost)
        for reward, lost in zip(rewards.reshape(-1, peers), impossible.reshape(-1, peers), strict=True)
    ]
    return torch.cat(advantages).float()


def prior_advantage(total: Tensor, impossible: Tensor, group_size: int, eps: float = 1e-4) -> Tensor:
    """Advantage of each group over the other groups of its step, for the update of the prior.

    The mean reward of each group, normalised over the groups: (x - mean) / std. An impossible crystal counts as the
    worst of the step and an unscored one as the mean of the step, so a group with few scored crystals has a small
    advantage.

    Args:
        total: (B,) rewards, group after group; values that are not finite mark unscored crystals.
        impossible: (B,) bool, as in `group_advantage`.
        group_size: G; divides B.
        eps: see `normalise`.

    Returns:
        (B / G,) float32.
    """
    scored = total.isfinite() & ~impossible
    if not scored.any():
        return torch.zeros(len(total) // group_size)
    known = total[scored].double()
    rewards = total.double().where(scored, known.mean()).where(~impossible, known.min())
    return normalise(rewards.view(-1, group_size).mean(1), "std", eps).float()


def clipped_loss(
    log_prob_new: Tensor, log_prob_old: Tensor, advantage: Tensor, clip_ratio: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped surrogate loss: mean of -min(r A, clip(r, 1 - c, 1 + c) A) with r = exp(new - old).

    Schulman et al. 2017, "Proximal Policy Optimization Algorithms", equation 7, applied to each denoising step with
    the advantage of its crystal. At new = old its gradient is that of REINFORCE, -A grad log p.

    Args:
        log_prob_new: (S,) or (S, K), by the policy that is being trained.
        log_prob_old: the same shape, by the policy that sampled the step.
        advantage: (S,).
        clip_ratio: c; must suit the scale of the log-probabilities: around 0.2 for sums, 1e-3 for means.

    Returns:
        The loss, and metrics without gradient: `ratio_mean`; `clip_fraction`, the share of ratios outside the clip
        range; `approx_kl`, the k3 estimate mean(r - 1 - log r) of KL(old || new); `log_ratio_max`, the largest
        |log r|, which is about 0 in the first update after a rollout.
    """
    advantage = advantage.reshape(-1, *[1] * (log_prob_new.ndim - 1))  # (S,) or (S, 1)
    log_ratio = log_prob_new - log_prob_old.detach()
    # an infinite ratio makes NaN gradients even where the clipped term is the minimum
    ratio = log_ratio.clamp(max=MAX_LOG_RATIO).exp()
    clipped = ratio.clamp(1 - clip_ratio, 1 + clip_ratio)
    loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
    ratio, log_ratio = ratio.detach(), log_ratio.detach()
    info = {
        "ratio_mean": ratio.mean(),
        "clip_fraction": ((ratio - 1).abs() > clip_ratio).float().mean(),
        "approx_kl": (ratio - 1 - log_ratio).mean(),
        "log_ratio_max": log_ratio.abs().max(),
    }
    return loss, info


def inner_batches(num_groups: int, num_inner_batch: int, generator: torch.Generator) -> list[Tensor]:
    """Shuffle the groups of a rollout into batches of whole groups, for one optimiser step each.

    Returns:
        `num_inner_batch` int64 tensors of group indices, whose lengths differ by at most one.

    Raises:
        ValueError: there are more batches than groups.
    """
    if not 1 <= num_inner_batch <= num_groups:
        raise ValueError(f"{num_groups} groups cannot make {num_inner_batch} inner batches")
    order = torch.randperm(num_groups, generator=generator, device=generator.device)
    return list(order.tensor_split(num_inner_batch))


def _fill(advantage: Tensor, impossible: Tensor) -> Tensor:
    """Of peers (P,): give impossible crystals the lowest advantage and unscored ones (the other NaN) the mean."""
    scored = ~advantage.isnan()
    if not scored.any():
        return torch.zeros_like(advantage)
    filled = torch.where(scored, advantage, advantage[scored].mean())
    return torch.where(impossible, advantage[scored].min(), filled)


def _reduce(values: Tensor, mask: Tensor, reduce: Reduce) -> Tensor:
    """Sum (..., N, D) over real atoms and channels; "mean" divides by the number of summands."""
    total = values.masked_fill(~mask.unsqueeze(-1), 0.0).sum((-2, -1))
    return total if reduce == "sum" else total / (mask.sum(-1) * values.shape[-1])


def _check_positive(std: Tensor) -> None:
    if not (std > 0).all():
        raise ValueError("std must be positive: a deterministic step has no log-probability and no KL")
