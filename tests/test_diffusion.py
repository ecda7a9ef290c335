"""The chain of noise levels, against the published formulas written out anew."""

import pytest
import torch
from samples import diffusion
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from chemeleon_cli.core.models.diffusion import Schedule
from chemeleon_cli.errors import UserError

SHAPE = (4, 5, 8)


@pytest.fixture
def schedule() -> Schedule:
    return Schedule.linear(**diffusion(1000))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_linear_betas(schedule: Schedule) -> None:
    betas = 1 - schedule.alphas_cumprod / schedule.alphas_cumprod_prev
    assert betas[0].item() == pytest.approx(1e-4)
    assert betas[-1].item() == pytest.approx(0.02)
    torch.testing.assert_close(betas.diff(), torch.full((999,), (0.02 - 1e-4) / 999, dtype=torch.float64))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 25, 50, 300, 999, 1000])
def test_respaced_is_even_and_starts_from_the_noisiest(schedule: Schedule, steps: int) -> None:
    chain = schedule.respaced(steps)
    assert len(chain) == steps
    assert chain.timesteps.dtype == torch.int64
    assert chain.timesteps[-1] == 999
    assert chain.timesteps[0] == 1000 // steps - 1
    gaps = chain.timesteps.diff()
    assert ((gaps == 1000 // steps) | (gaps == -(-1000 // steps))).all()
    torch.testing.assert_close(chain.alphas_cumprod, schedule.alphas_cumprod[chain.timesteps], rtol=0, atol=0)
    assert chain.alphas_cumprod_prev[0] == 1
    assert torch.equal(chain.alphas_cumprod_prev[1:], chain.alphas_cumprod[:-1])


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_respaced_refuses_what_was_not_trained(schedule: Schedule, steps: int) -> None:
    with pytest.raises(UserError, match=f"sampling_steps is {steps}"):
        schedule.respaced(steps)


@pytest.mark.parametrize("steps", [10, 25, 50])
def test_no_step_outweighs_the_others_in_rl(schedule: Schedule, steps: int) -> None:
    """How many std the mean moves with eps, squared: with row 0 in the chain, one step has 3/4 of it."""

    def largest_share(chain: Schedule) -> float:
        mean, std = chain.step(torch.zeros(steps, 1), torch.ones(steps, 1), torch.arange(steps))
        weight = (mean / std)[1:] ** 2
        return (weight.max() / weight.sum()).item()

    assert largest_share(schedule.respaced(steps)) < 0.3
    assert largest_share(schedule.take(torch.arange(0, 1000, 1000 // steps))) > 0.75


def test_take_keeps_a_stride(schedule: Schedule) -> None:
    chain = schedule.take(torch.arange(0, 1000, 20))
    assert chain.timesteps[[0, 1, -1]].tolist() == [0, 20, 980]
    assert torch.equal(chain.alphas_cumprod, schedule.alphas_cumprod[::20])


def test_add_noise_has_the_moments_of_the_forward_process(schedule: Schedule) -> None:
    """Adding noise in one go matches adding it beta by beta."""
    samples, t = 200_000, 120
    x = torch.full((samples,), 1.5)
    generator = torch.Generator().manual_seed(1)
    for beta in (1 - schedule.alphas_cumprod / schedule.alphas_cumprod_prev)[: t + 1].float():
        x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn(samples, generator=generator)
    at_once = schedule.add_noise(torch.full((samples, 1), 1.5), normal(samples, 1), t)
    assert at_once.dtype == torch.float32
    assert at_once.mean().item() == pytest.approx(x.mean().item(), abs=0.01)
    assert at_once.std().item() == pytest.approx(x.std().item(), rel=0.01)


def test_add_noise_takes_a_level_for_each_crystal(schedule: Schedule) -> None:
    x0, noise, t = normal(*SHAPE), normal(*SHAPE, seed=1), torch.tensor([0, 10, 500, 999])
    together = schedule.add_noise(x0, noise, t)
    for b in range(4):
        torch.testing.assert_close(together[b], schedule.add_noise(x0, noise, int(t[b]))[b], rtol=0, atol=0)


def test_predict_x0_undoes_add_noise(schedule: Schedule) -> None:
    x0, noise, t = normal(*SHAPE), normal(*SHAPE, seed=1), torch.tensor([0, 10, 500, 999])
    torch.testing.assert_close(
        schedule.predict_x0(schedule.add_noise(x0, noise, t), noise, t), x0, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("steps", [1, 10, 1000])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_perfect_network_leads_back_to_the_data(schedule: Schedule, steps: int, eta: float) -> None:
    """Told the true noise at each step, the chain ends at x0 exactly, drawn noise or none."""
    chain = schedule.respaced(steps)
    x0, x = normal(*SHAPE), normal(*SHAPE, seed=1)
    generator = torch.Generator().manual_seed(2)
    for i in reversed(range(steps)):
        ab = chain.alphas_cumprod[i]
        eps = ((x - ab.sqrt() * x0) / (1 - ab).sqrt()).float()
        mean, std = chain.step(x, eps, i, eta=eta)
        x = mean + std * torch.randn(SHAPE, generator=generator)
    torch.testing.assert_close(x, x0, rtol=1e-4, atol=1e-4)


def test_ddim_without_noise_is_the_closed_form(schedule: Schedule) -> None:
    """Song et al. 2021, equation 13: x / sqrt(ab) moves by eps times the change of sqrt((1 - ab) / ab)."""
    chain = schedule.respaced(50)
    x, eps, index = normal(*SHAPE), normal(*SHAPE, seed=1), torch.tensor([0, 1, 25, 49])
    mean, std = chain.step(x, eps, index, eta=0.0)
    assert (std == 0).all()
    ab = chain.alphas_cumprod[index][:, None, None]
    ab_prev = chain.alphas_cumprod_prev[index][:, None, None]
    change = ((1 - ab_prev) / ab_prev).sqrt() - ((1 - ab) / ab).sqrt()
    closed = ab_prev.sqrt() * (x / ab.sqrt() + change * eps)
    torch.testing.assert_close(mean, closed.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [1000, 50])
def test_ddpm_is_the_posterior_and_ddim_of_eta_1(schedule: Schedule, steps: int) -> None:
    """Ho et al. 2020, equation 7, with the betas of the respaced chain."""
    chain = schedule.respaced(steps)
    index = torch.tensor([0, 1, steps // 2, steps - 1])
    x, eps = normal(*SHAPE), normal(*SHAPE, seed=1)
    mean, std = chain.step(x, eps, index, sampler="ddpm", eta=0.0)

    ab = chain.alphas_cumprod[index][:, None, None]
    ab_prev = chain.alphas_cumprod_prev[index][:, None, None]
    alpha = ab / ab_prev
    beta = 1 - alpha
    x0 = (x - (1 - ab).sqrt() * eps) / ab.sqrt()
    posterior = (ab_prev.sqrt() * beta * x0 + alpha.sqrt() * (1 - ab_prev) * x) / (1 - ab)
    torch.testing.assert_close(mean, posterior.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(std, ((1 - ab_prev) / (1 - ab) * beta).sqrt().float())

    for ours, ddim in zip((mean, std), chain.step(x, eps, index, eta=1.0), strict=True):
        assert torch.equal(ours, ddim)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_steps_keep_the_marginals(schedule: Schedule, eta: float) -> None:
    """From q(x_t | x0), a step with the true noise gives q(x_prev | x0), whatever eta is."""
    chain, samples, i = schedule.respaced(20), 200_000, 12
    x0, noise = torch.full((samples, 1), 0.7), normal(samples, 1)
    mean, std = chain.step(chain.add_noise(x0, noise, i), noise, i, eta=eta)
    x = mean + std * normal(samples, 1, seed=1)
    ab = chain.alphas_cumprod[i - 1]
    wanted = Normal(0.7 * ab.sqrt(), (1 - ab).sqrt())
    assert kl_divergence(Normal(x.mean().double(), x.std().double()), wanted).item() < 1e-4


@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 1.0), ("ddim", 0.4), ("ddpm", 1.0)])
def test_only_the_last_step_is_deterministic(schedule: Schedule, sampler, eta: float) -> None:
    chain = schedule.respaced(50)
    x = torch.zeros(50, 1, 1)
    mean, std = chain.step(x, x, torch.arange(50), sampler, eta)
    assert std.shape == (50, 1, 1) and std.dtype == mean.dtype == torch.float32
    assert std[0] == 0
    assert (std[1:] > 0).all()


def test_steps_of_different_rows_batch(schedule: Schedule) -> None:
    chain, index = schedule.respaced(25), torch.tensor([24, 3, 0, 11])
    x, eps = normal(*SHAPE), normal(*SHAPE, seed=1)
    mean, std = chain.step(x, eps, index, eta=0.8)
    for b in range(4):
        alone = chain.step(x, eps, int(index[b]), eta=0.8)
        torch.testing.assert_close(mean[b], alone[0][b], rtol=0, atol=0)
        torch.testing.assert_close(std[b], alone[1][0], rtol=0, atol=0)


def test_half_precision_from_the_network_comes_out_float32(schedule: Schedule) -> None:
    x = normal(*SHAPE)
    for index in (3, torch.tensor([3, 3, 3, 3])):
        mean, std = schedule.step(x, x.bfloat16(), index)
        assert mean.dtype == std.dtype == torch.float32


def test_eta_out_of_range(schedule: Schedule) -> None:
    x = normal(*SHAPE)
    with pytest.raises(ValueError, match="eta"):
        schedule.step(x, x, 5, eta=1.5)


def test_a_chain_kept_on_the_cpu_serves_crystals_on_a_gpu() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    chain = Schedule.linear(**diffusion(100)).respaced(10)
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(2, 3, 4, device="cuda")
        mean, std = chain.step(x, x, 3)
        noisy = chain.add_noise(x, x, torch.tensor([1, 2]))
    assert {mean.device.type, std.device.type, noisy.device.type} == {"cuda"}


def test_training_draws_most_noise_levels_as_edm_and_some_anywhere():
    schedule = Schedule.linear(**diffusion(1000))
    rows = schedule.random_rows(20_000, torch.Generator().manual_seed(0))
    ratio = ((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod).sqrt().log()
    for at in (-1.7, -0.5, 0.7, 3.0):
        below = int((ratio < at).sum())
        wanted = 0.8 * Normal(-0.5, 1.2).cdf(torch.tensor(at)).item() + 0.2 * below / 1000
        assert (rows < below).double().mean().item() == pytest.approx(wanted, abs=0.012)
