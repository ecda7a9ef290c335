"""The published generator: a `Generator` with the chain of steps and the loss that its weights were trained with.

Legend: B crystals, N atoms padded, D latent width, T training steps, S steps of a chain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from chemeleon_cli.core.chemeleon2.conditions import published_conditions
from chemeleon_cli.core.chemeleon2.denoiser import Denoiser
from chemeleon_cli.core.conditions.base import NO_CONDITIONS, ConditionBatch, Request, is_given
from chemeleon_cli.core.data.crystals import atom_mask
from chemeleon_cli.core.models.build import build
from chemeleon_cli.core.models.diffusion import Schedule
from chemeleon_cli.core.models.generator import Generator, Sampling
from chemeleon_cli.core.models.layers import masked_mean
from chemeleon_cli.core.models.prior import CrystalPrior
from chemeleon_cli.errors import UserError


class LatentDiffusion(Generator):
    """A published autoencoder and denoiser. Latents are divided by one number; nothing is subtracted.

    Args:
        vae: config of the VAE.
        denoiser: config of the denoiser.
        diffusion: arguments of `Schedule.linear`.
        sizes: weight of each number of atoms, by the number as text.
    """

    learns_variance = True

    def __init__(
        self,
        vae: Mapping[str, Any],
        denoiser: Mapping[str, Any],
        diffusion: Mapping[str, Any],
        sizes: Mapping[str, float],
    ) -> None:
        super().__init__()
        self.vae = build("vae", vae).requires_grad_(False)
        self.denoiser = Denoiser(**denoiser)
        self.config = {
            "layout": "chemeleon2",
            "vae": self.vae.config,
            "denoiser": self.denoiser.config,
            "diffusion": dict(diffusion),
            "sizes": dict(sizes),
        }
        self.schedule = Schedule.linear(**diffusion)
        self.register_buffer("latent_mean", torch.zeros(self.denoiser.config["latent_dim"]))
        self.register_buffer("latent_std", torch.ones(self.denoiser.config["latent_dim"]))
        encoders = (self.denoiser.config["conditions"] or {}).get("encoders", {})
        self.conditions = published_conditions(encoders, self.vae.config["decoder"]["classes"])
        self.prior = CrystalPrior(sizes, self.conditions)

    def encode_requests(self, requests: Sequence[Request], num_atoms: Tensor) -> ConditionBatch:
        """See `Generator.encode_requests`; a published model is trained with all of its conditions or none.

        Raises:
            UserError: also if only some of the conditions are given.
        """
        batch = super().encode_requests(requests, num_atoms)
        values = batch.values
        lacking = [name for name in self.conditions if name not in values or not is_given(values[name]).all()]
        if values and lacking:
            raise UserError(f"this model takes its conditions all together; {', '.join(lacking)} is not given")
        return batch

    def chain(self, sampling: Sampling) -> Schedule:
        """The published spacing: for DDIM every (T / S)-th step from 0, for DDPM evenly from 0 to T - 1.

        Raises:
            UserError: there is no such chain of S steps.
        """
        total, steps = len(self.schedule), sampling.sampling_steps
        if sampling.sampler == "ddpm":
            if not 2 <= steps <= total:
                raise UserError(f"sampling_steps is {steps}", f"DDPM with this model takes between 2 and {total}")
            rows = torch.linspace(0, total - 1, steps, dtype=torch.float64).round().long()
            return self.schedule.take(rows)
        strides = {len(range(0, total, stride)): stride for stride in range(total, 0, -1)}
        if steps not in strides:
            near = sorted(sorted(strides, key=lambda count: abs(count - steps))[:3])
            raise UserError(
                f"sampling_steps is {steps}, and no even stride takes that many of this model's {total} steps",
                f"take one of {', '.join(map(str, near))}",
            )
        return self.schedule.take(torch.arange(0, total, strides[steps]))

    def step(
        self, x: Tensor, index: int, num_atoms: Tensor, chain: Schedule, sampling: Sampling,
        conditions: ConditionBatch = NO_CONDITIONS,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The Gaussian of one reverse step: mean and std (B, N, D); DDIM's std is (1, 1, 1).

        The std of DDPM is learned; DDIM does not use it. The last step is deterministic for both. Guidance changes only
        the noise, while in the published code it also changes the learned variance.
        """
        timestep = chain.timesteps[index].to(x.device).expand(len(x))
        noise, variance = self.denoiser.noise_and_variance(x, timestep, num_atoms, conditions)
        if conditions.values and sampling.guidance != 1:
            null, _ = self.denoiser.noise_and_variance(x, timestep, num_atoms)
            noise = null + sampling.guidance * (noise - null)
        mean, std = chain.step(x, noise, index, sampling.sampler, sampling.eta)
        if sampling.sampler == "ddpm" and index > 0:
            std = torch.exp(0.5 * learned_log_variance(chain, variance, index))
        return mean, std

    def loss(
        self, latents: Tensor, num_atoms: Tensor, generator: torch.Generator,
        conditions: ConditionBatch = NO_CONDITIONS,
    ) -> Tensor:  # fmt: skip
        """Mean over the batch of `loss_terms`, at random steps; arguments as in `Generator.loss`."""
        mask = atom_mask(num_atoms, latents.shape[1]).unsqueeze(-1)
        x0 = (latents - self.latent_mean) / self.latent_std * mask
        t = torch.randint(len(self.schedule), (len(x0),), generator=generator).to(x0.device)
        noise = torch.randn(x0.shape, generator=generator).to(x0.device) * mask
        terms = self.loss_terms(x0, num_atoms, t, noise, conditions)
        return (terms["mse"] + terms["vb"]).mean()

    def loss_terms(
        self, x0: Tensor, num_atoms: Tensor, t: Tensor, noise: Tensor, conditions: ConditionBatch = NO_CONDITIONS
    ) -> dict[str, Tensor]:
        """The hybrid loss of Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models".

        Args:
            x0: (B, N, D) scaled latents.
            num_atoms: (B,).
            t: (B,) rows of the training schedule.
            noise: (B, N, D).
            conditions: those of the crystals, after some have been dropped.

        Returns:
            (B,) each: `mse` of the noise over a crystal's atoms, and `vb`, its share of the variational bound in
            bits per number times T / 1000, which trains the variance and not the mean.
        """
        mask = atom_mask(num_atoms, x0.shape[1])
        x_t = self.schedule.add_noise(x0, noise, t)
        predicted, channel = self.denoiser.noise_and_variance(x_t, t, num_atoms, conditions)
        true_mean, _ = self.schedule.step(x_t, noise, t, "ddpm")
        mean, _ = self.schedule.step(x_t, predicted.detach(), t, "ddpm")
        low, _ = log_variances(self.schedule, t, x0)
        log_variance = learned_log_variance(self.schedule, channel, t)
        kl = low.exp() + (true_mean - mean).square()
        kl = 0.5 * (kl / log_variance.exp() + log_variance - low - 1)
        # as published, a density of (x0 - mean) / std and not of x0: without log std
        likelihood = (x0 - mean).square() / log_variance.exp() + math.log(2 * math.pi)
        nats = torch.where(t.view(-1, 1, 1) == 0, 0.5 * likelihood, kl)
        return {
            "mse": masked_mean((predicted - noise).square(), mask).mean(-1),
            "vb": masked_mean(nats, mask).mean(-1) / math.log(2) * len(self.schedule) / 1000,
        }


def learned_log_variance(chain: Schedule, channel: Tensor, index: int | Tensor) -> Tensor:
    """f log beta + (1 - f) log beta_tilde with f = (channel + 1) / 2 (Nichol & Dhariwal 2021, equation 15).

    Args:
        chain: whose steps the variances are of.
        channel: (B, N, D) of the denoiser.
        index: (B,) rows of the chain, or one for all.
    """
    low, high = log_variances(chain, index, channel)
    share = (channel + 1) / 2
    return share * high + (1 - share) * low


def log_variances(chain: Schedule, index: int | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """log beta_tilde and log beta of a chain's rows, (B, 1, 1) or (1, 1, 1): the least and most that a step can have.

    The beta_tilde of row 0 is zero; it takes that of row 1.
    """
    ab, ab_prev = chain.alphas_cumprod, chain.alphas_cumprod_prev
    beta = 1 - ab / ab_prev
    tilde = (1 - ab_prev) / (1 - ab) * beta
    tilde = torch.cat([tilde[1:2], tilde[1:]])
    rows = torch.as_tensor(index, device=ab.device).reshape(-1, 1, 1)
    return tilde.log()[rows].float().to(like.device), beta.log()[rows].float().to(like.device)
