"""The RL update's mathematics, against torch.distributions, brute force and autograd."""

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from chemeleon_cli.core.rl.grpo import (
    clipped_loss,
    draw_advantage,
    gaussian_kl,
    group_advantage,
    inner_batches,
    log_prob,
)

REDUCES = pytest.mark.parametrize("reduce", ["sum", "mean"])
GROUP = 4
NAN = float("nan")


def gaussians() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, mean (3, 5, 8), std (3, 1, 1), and a mask of 5, 2 and 1 atoms; what is padded is far off."""
    generator = torch.Generator().manual_seed(0)
    x, mean = torch.randn(2, 3, 5, 8, generator=generator)
    mask = torch.arange(5) < torch.tensor([5, 2, 1])[:, None]
    return x.masked_fill(~mask[..., None], 1e6), mean, torch.tensor([0.1, 1.0, 2.0])[:, None, None], mask


def over_atoms(values: Tensor, mask: Tensor, reduce: str) -> Tensor:
    """A loop over crystals: the padded rows are cut away first."""
    return torch.stack([getattr(v[m], reduce)() for v, m in zip(values, mask, strict=True)])


@REDUCES
def test_log_prob_is_that_of_torch(reduce: Literal["sum", "mean"]) -> None:
    x, mean, std, mask = gaussians()
    wanted = over_atoms(Normal(mean, std).log_prob(x), mask, reduce)
    torch.testing.assert_close(log_prob(x, mean, std, mask, reduce), wanted)


@REDUCES
def test_kl_is_that_of_torch(reduce: Literal["sum", "mean"]) -> None:
    base, mean, std, mask = gaussians()
    wanted = over_atoms(kl_divergence(Normal(mean, std), Normal(base, std)), mask, reduce)
    torch.testing.assert_close(gaussian_kl(mean, base, std, mask, reduce), wanted)


@REDUCES
def test_steps_may_lead_the_batch(reduce: Literal["sum", "mean"]) -> None:
    """(K, B, N, D) at once is K times (B, N, D)."""
    x, mean, std, mask = gaussians()
    stacked = log_prob(torch.stack([x, x + 1]), mean.expand(2, -1, -1, -1), std, mask, reduce)
    torch.testing.assert_close(stacked[1], log_prob(x + 1, mean, std, mask, reduce))


@pytest.mark.parametrize("bad", [0.0, -1.0, NAN])
def test_a_deterministic_step_is_not_scored(bad: float) -> None:
    x, mean, std, mask = gaussians()
    std = std.clone()
    std[1] = bad
    with pytest.raises(ValueError, match="std must be positive"):
        log_prob(x, mean, std, mask)
    with pytest.raises(ValueError, match="std must be positive"):
        gaussian_kl(x, mean, std, mask)


# a batch is groups of crystals: a reward in thousandths, or why there is none
OUTCOME = st.one_of(st.integers(-5000, 5000), st.sampled_from(["impossible", "unscored"]))
BATCH = st.lists(st.lists(OUTCOME, min_size=GROUP, max_size=GROUP), min_size=1, max_size=5)


def tensors(batch: list[list[int | str]]) -> tuple[Tensor, Tensor]:
    """total (B,) with NaN, and impossible (B,)."""
    flat = [outcome for group in batch for outcome in group]
    total = torch.tensor([o / 1000 if isinstance(o, int) else NAN for o in flat])
    return total, torch.tensor([o == "impossible" for o in flat])


@given(BATCH, st.sampled_from(["std", "subtract_mean"]), st.booleans())
@settings(max_examples=200, deadline=None)
def test_advantage_keeps_its_contract(batch, normalize_fn, group_reward_norm: bool) -> None:
    total, impossible = tensors(batch)
    advantage = group_advantage(total, impossible, GROUP, group_reward_norm, normalize_fn)
    assert advantage.shape == total.shape and advantage.dtype == torch.float32
    assert advantage.isfinite().all()
    peers = GROUP if group_reward_norm else len(total)
    for a, r, lost in zip(advantage.split(peers), total.split(peers), impossible.split(peers), strict=True):
        scored = r.isfinite()
        assert a[scored].sum().abs() < 1e-4
        assert (a[~scored & ~lost].abs() < 1e-5).all()
        if scored.any():
            assert (a[lost] == a[scored].min()).all()
        else:
            assert (a == 0).all()
        worse = r[scored][:, None] < r[scored]
        assert (a[scored][:, None] <= a[scored])[worse].all()


@given(BATCH, st.floats(0.5, 20), st.floats(-10, 10), st.booleans())
@settings(max_examples=100, deadline=None)
def test_std_forgets_scale_and_origin(batch, scale: float, shift: float, group_reward_norm: bool) -> None:
    total, impossible = tensors(batch)
    advantages = [
        group_advantage(t, impossible, GROUP, group_reward_norm, "std", eps=1e-9)
        for t in (total.double(), scale * total.double() + shift)
    ]
    torch.testing.assert_close(*advantages, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalize_fn", ["norm", "std", "subtract_mean", "clip", "none", None])
def test_no_nan_leaves(normalize_fn) -> None:
    total = torch.tensor([NAN] * 4 + [NAN, 1.0, 1.0, 1.0] + [float("inf"), -3e38, 3e38, 0.0])
    for lost in (torch.zeros(12, dtype=torch.bool), torch.ones(12, dtype=torch.bool), total.isnan()):
        for group_reward_norm in (True, False):
            assert group_advantage(total, lost, 4, group_reward_norm, normalize_fn).isfinite().all()


def test_crystals_without_a_number_do_not_move_the_others() -> None:
    impossible = torch.tensor([False, False, False, True, False])
    for fill in (NAN, -1e9):  # an impossible crystal's number, if it has one, is not used
        total = torch.tensor([1.0, 2.0, 6.0, fill, NAN])
        advantage = group_advantage(total, impossible, 5, True, "subtract_mean")
        torch.testing.assert_close(advantage, torch.tensor([-2.0, -1.0, 3.0, -2.0, 0.0]))


def test_groups_are_normalised_alone_or_together() -> None:
    total, impossible = torch.tensor([1.0, 3.0, 11.0, NAN]), torch.tensor([False, False, False, True])
    alone = group_advantage(total, impossible, 2, True, "subtract_mean")
    together = group_advantage(total, impossible, 2, False, "subtract_mean")
    torch.testing.assert_close(alone, torch.tensor([-1.0, 1.0, 0.0, 0.0]))
    torch.testing.assert_close(together, torch.tensor([-4.0, -2.0, 6.0, -4.0]))


def test_what_a_group_drew_is_judged_by_its_mean_among_the_groups():
    total = torch.tensor([1.0, 3.0, 0.0, NAN, NAN, NAN, 9.0, 6.0])
    impossible = torch.tensor([False] * 6 + [True, False])
    mean = (1 + 3 + 0 + 6) / 4  # of the scored ones, in the place of those unscored
    means = torch.tensor(
        [2.0, (0 + mean) / 2, mean, (0 + 6) / 2], dtype=torch.float64
    )  # an impossible one: the worst, 0
    expected = (means - means.mean()) / (means.std(correction=0) + 1e-4)
    assert draw_advantage(total, impossible, 2).tolist() == pytest.approx(expected.tolist())
    lost = torch.tensor([False, False, True, True])
    assert draw_advantage(torch.tensor([1.0, 2.0, NAN, NAN]), lost, 2).tolist() == pytest.approx([1, -1], abs=1e-3)
    for nothing in (torch.full((4,), NAN), torch.ones(4)):
        assert draw_advantage(nothing, lost & False, 2).tolist() == [0, 0]
    assert draw_advantage(torch.ones(4), ~lost | lost, 2).tolist() == [0, 0]


def surrogate(new: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """The loss, one sample and one step at a time."""
    terms = []
    for n, o, a in zip(new.flatten(), old.flatten(), advantage.flatten(), strict=True):
        ratio = torch.exp(n - o)
        limit = min(max(ratio.item(), 1 - clip), 1 + clip) * a
        terms.append(ratio * a if ratio * a <= limit else limit)
    return -sum(terms, torch.zeros(())) / len(terms)


@pytest.mark.parametrize("shape", [(64,), (4, 4), (16, 5)])
def test_clipped_loss_and_its_gradient(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    old, change = torch.randn(2, *shape, generator=generator)
    advantage = torch.randn(shape[0], generator=generator)
    new = (old + 0.3 * change).requires_grad_()
    loss, info = clipped_loss(new, old, advantage, 0.2)
    each = advantage.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    wanted = surrogate(new, old, each, 0.2)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(x, new)[0] for x in (loss, wanted)))
    outside = [abs(r - 1) > 0.2 for r in (new - old).exp().flatten().tolist()]
    assert 0 < sum(outside) < len(outside)
    assert info["clip_fraction"].item() == pytest.approx(sum(outside) / len(outside))
    assert info["approx_kl"] > 0
    assert not any(number.requires_grad for number in info.values())


def test_the_first_update_is_reinforce() -> None:
    generator = torch.Generator().manual_seed(0)
    new = torch.randn(16, generator=generator).requires_grad_()
    advantage = torch.randn(16, generator=generator)
    loss, info = clipped_loss(new, new.detach(), advantage, 1e-3)
    torch.testing.assert_close(torch.autograd.grad(loss, new)[0], -advantage / 16)
    assert info["ratio_mean"] == 1
    assert info["clip_fraction"] == info["approx_kl"] == info["log_ratio_max"] == 0


@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_a_runaway_ratio_stays_finite(advantage: float) -> None:
    new = torch.tensor([500.0, -500.0]).requires_grad_()
    loss, _ = clipped_loss(new, torch.zeros(2), torch.full((2,), advantage), 0.2)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, new)[0].isfinite().all()


@pytest.mark.parametrize(("groups", "batches"), [(5, 2), (5, 5), (4, 1), (64, 3)])
def test_inner_batches_share_out_every_group_once(groups: int, batches: int) -> None:
    parts = inner_batches(groups, batches, torch.Generator().manual_seed(0))
    sizes = [len(part) for part in parts]
    assert len(parts) == batches and max(sizes) - min(sizes) <= 1
    assert sorted(torch.cat(parts).tolist()) == list(range(groups))
    again = inner_batches(groups, batches, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))


def test_more_batches_than_groups() -> None:
    with pytest.raises(ValueError, match="2 groups cannot make 3"):
        inner_batches(2, 3, torch.Generator())
