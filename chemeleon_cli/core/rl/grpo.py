"""The mathematics of the RL update, as pure functions on tensors.

Denoising is a sequence of decisions, each drawn from a Gaussian (mean, std) whose mean the network sets: DDPO
(Black et al. 2023, "Training Diffusion Models with Reinforcement Learning"). A decision is judged by its
crystal's reward relative to others of its group, which share size and condition: GRPO (Shao et al. 2024,
"DeepSeekMath"). With groups of one and rewards normalised over the batch, this is REINFORCE with a baseline.

Legend: B crystals, N atoms, D latent width, G group size, S samples and K steps of each in an update.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from chemeleon_cli.core.normalise import NormalizeFn, normalise

Reduce = Literal["sum", "mean"]

# exp(20) is beyond any clip, and its product with an advantage is still finite in float32
MAX_LOG_RATIO = 20.0


def log_prob(x: Tensor, mean: Tensor, std: Tensor, mask: Tensor, reduce: Reduce = "sum") -> Tensor:
    """log N(x; mean, std^2), over the latents of a crystal's real atoms.

    log N = -(x - mean)^2 / (2 std^2) - log std - log(2 pi) / 2 for each of the N D numbers.

    Args:
        x: (..., N, D) the values drawn.
        mean: (..., N, D).
        std: broadcasts to x; greater than 0.
        mask: (..., N) bool, True for real atoms.
        reduce: "sum" is the log-probability; "mean" divides it, and so every log-ratio, by atoms times D.

    Returns:
        (...)

    Raises:
        ValueError: if std is not positive: a deterministic step, as the last of a chain is, cannot be scored.
    """
    _check_positive(std)
    return _reduce(-0.5 * ((x - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi), mask, reduce)


def gaussian_kl(mean: Tensor, mean_base: Tensor, std: Tensor, mask: Tensor, reduce: Reduce = "sum") -> Tensor:
    """KL(N(mean, std^2) || N(mean_base, std^2)) = (mean - mean_base)^2 / (2 std^2), exact.

    Arguments, result and errors as in `log_prob`; `mean_base` (..., N, D) is the frozen base model's mean.
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
    """How much better each crystal is than its peers: normalised rewards, and a place for those without one.

    The peers are the crystal's group, or the whole batch where `group_reward_norm` is off. Only scored
    crystals enter the statistics. An impossible crystal then gets the lowest advantage of its scored peers;
    an unscored one their mean, which for "std" and "subtract_mean" is 0: no push either way. Peers of whom
    none is scored get 0. No NaN leaves.

    Args:
        total: (B,) rewards, group after group; anything not finite means "no number".
        impossible: (B,) bool: no such cell or distances, or refused by the recipe. Any number that these have is
            not used.
        group_size: G; divides B.
        group_reward_norm: normalise within each group instead of over the batch.
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


def draw_advantage(total: Tensor, impossible: Tensor, group_size: int, eps: float = 1e-4) -> Tensor:
    """How much better each group did than the others of its step: what its crystals were asked to be, judged.

    The mean reward of a group's crystals, an impossible one counting as the worst of the step and an unscored one as
    the step's mean, so that a group of whose crystals few are scored is pushed little; then (x - mean) / std over the
    groups.

    Args:
        total: (B,) rewards, group after group; anything not finite means "no number".
        impossible: (B,) bool.
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
    """The clipped surrogate: mean of -min(r A, clip(r, 1 - c, 1 + c) A), r = exp(new - old).

    Schulman et al. 2017, "Proximal Policy Optimization Algorithms", equation 7, for each denoising step with
    its crystal's advantage. At new = old its gradient is that of REINFORCE, -A grad log p.

    Args:
        log_prob_new: (S,) or (S, K), of the policy that is trained.
        log_prob_old: the same shape, of the policy that drew the sample.
        advantage: (S,).
        clip_ratio: c; fits the scale of the log-probabilities: around 0.2 for sums, 1e-3 for means.

    Returns:
        The loss, and numbers to log, all without gradient: `ratio_mean`; `clip_fraction`, the share of ratios
        outside the clip; `approx_kl`, the k3 estimate mean(r - 1 - log r) of KL(old || new); `log_ratio_max`,
        the largest |log r|, about 0 at the first update after a rollout.
    """
    advantage = advantage.reshape(-1, *[1] * (log_prob_new.ndim - 1))  # (S,) or (S, 1)
    log_ratio = log_prob_new - log_prob_old.detach()
    # an infinite ratio makes NaN gradients even where the clip wins
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
    """Shuffles the groups of a rollout into batches of whole groups, one optimiser step each.

    Returns:
        `num_inner_batch` int64 tensors of group numbers; sizes differ by at most one.

    Raises:
        ValueError: if there are more batches than groups.
    """
    if not 1 <= num_inner_batch <= num_groups:
        raise ValueError(f"{num_groups} groups cannot make {num_inner_batch} inner batches")
    order = torch.randperm(num_groups, generator=generator, device=generator.device)
    return list(order.tensor_split(num_inner_batch))


def _fill(advantage: Tensor, impossible: Tensor) -> Tensor:
    """Gives the impossible of these peers (P,) the lowest advantage, the unscored (other NaN) the mean."""
    scored = ~advantage.isnan()
    if not scored.any():
        return torch.zeros_like(advantage)
    filled = torch.where(scored, advantage, advantage[scored].mean())
    return torch.where(impossible, advantage[scored].min(), filled)


def _reduce(values: Tensor, mask: Tensor, reduce: Reduce) -> Tensor:
    """Sums (..., N, D) over real atoms and channels; "mean" divides by their number."""
    total = values.masked_fill(~mask.unsqueeze(-1), 0.0).sum((-2, -1))
    return total if reduce == "sum" else total / (mask.sum(-1) * values.shape[-1])


def _check_positive(std: Tensor) -> None:
    if not (std > 0).all():
        raise ValueError("std must be positive: a deterministic step has no log-probability and no KL")
