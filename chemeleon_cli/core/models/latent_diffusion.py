"""Our generator: a frozen autoencoder and a denoiser of its latents (Rombach et al. 2022, per atom).

Legend: B crystals, N atoms padded, A atoms of a training set, D latent width, S steps of the sampling chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from chemeleon_cli.core.arguments import call
from chemeleon_cli.core.conditions.base import NO_CONDITIONS, ConditionBatch
from chemeleon_cli.core.conditions.kinds import to_settings
from chemeleon_cli.core.conditions.requests import Conditions
from chemeleon_cli.core.data.crystals import atom_mask
from chemeleon_cli.core.models.build import build, build_denoiser
from chemeleon_cli.core.models.diffusion import Schedule
from chemeleon_cli.core.models.generator import Generator, Sampling
from chemeleon_cli.core.models.prior import CrystalPrior, Sizes
from chemeleon_cli.errors import UserError


class LatentDiffusion(Generator):
    """An autoencoder, a denoiser of its standardised latents, and the prior of their training set.

    Args:
        vae: config of the autoencoder.
        denoiser: config of the denoiser, with the settings of the conditions of the model in `conditions`.
        diffusion: arguments of `Schedule.linear`.
        sizes: number of training crystals by their number of atoms (as text).
    """

    def __init__(
        self,
        vae: Mapping[str, Any],
        denoiser: Mapping[str, Any],
        diffusion: Mapping[str, Any],
        sizes: Sizes,
    ) -> None:
        super().__init__()
        self.vae = build("vae", vae).requires_grad_(False)
        self.denoiser = build_denoiser(denoiser)
        self.config = {
            "vae": self.vae.config,
            "denoiser": self.denoiser.config,
            "diffusion": dict(diffusion),
            "sizes": dict(sizes),
        }
        self.schedule = call(Schedule.linear, diffusion, "diffusion")
        self.register_buffer("latent_mean", torch.zeros(self.denoiser.config["latent_dim"]))
        self.register_buffer("latent_std", torch.ones(self.denoiser.config["latent_dim"]))
        embedding = self.denoiser.conditions
        self.conditions = {} if embedding is None else embedding.conditions
        self.prior = CrystalPrior(sizes, self.conditions)
        self.draw_weights = self.prior.weights  # registered here, by the name that it has in checkpoints

    @classmethod
    def fine_tuned_from(cls, base: Generator, conditions: Conditions, sizes: Mapping[str, int]) -> LatentDiffusion:
        """A generator with the weights of another one, for fine-tuning on other crystals.

        Before training it predicts the same noise. The weights of conditions that are `same_in_every_model` and of the
        prior are kept; those of values and categories are initialised anew.

        Args:
            base: the other generator.
            conditions: of the new generator.
            sizes: of the new crystals, as in the constructor.

        Raises:
            UserError: the other generator is a published one.
        """
        if not isinstance(base, cls):
            raise UserError(
                "train-ldm cannot fine-tune a published Chemeleon2 model",
                "train-rl can; or train a generator from nothing, with `vae` instead of `start`",
            )
        denoiser = {**base.denoiser.config, "conditions": to_settings(conditions)}
        model = cls(base.vae.config, denoiser, base.config["diffusion"], sizes).to(base.device)
        model.vae.load_state_dict(base.vae.state_dict())
        model.denoiser.start_from(base.denoiser)
        model.latent_mean.copy_(base.latent_mean)
        model.latent_std.copy_(base.latent_std)
        if model.prior.weights is not None and base.prior.weights is not None:
            model.prior.weights.data.copy_(base.prior.weights.data)
        return model

    def set_latent_statistics(self, posterior_means: Tensor) -> None:
        """Standardise each latent dimension by its mean and std over (A, D) atoms of the training set."""
        self.latent_mean.copy_(posterior_means.mean(0))
        self.latent_std.copy_(posterior_means.std(0, correction=0).clamp(min=1e-4))

    def loss(
        self, latents: Tensor, num_atoms: Tensor, generator: torch.Generator,
        conditions: ConditionBatch = NO_CONDITIONS,
    ) -> Tensor:  # fmt: skip
        """Mean squared error of the predicted noise over the atoms of a batch; arguments as in `Generator.loss`."""
        mask = atom_mask(num_atoms, latents.shape[1])
        x0 = (latents - self.latent_mean) / self.latent_std * mask.unsqueeze(-1)
        t = self.schedule.random_rows(len(x0), generator).to(x0.device)
        noise = torch.randn(x0.shape, generator=generator).to(x0.device) * mask.unsqueeze(-1)
        x_t = self.schedule.add_noise(x0, noise, t)
        return (self.denoiser(x_t, t, num_atoms, conditions) - noise)[mask].square().mean()

    def chain(self, sampling: Sampling) -> Schedule:
        """S evenly spaced rows of the training schedule, see `Schedule.respaced`."""
        return self.schedule.respaced(sampling.sampling_steps)

    def step(
        self, x: Tensor, index: int, num_atoms: Tensor, chain: Schedule, sampling: Sampling,
        conditions: ConditionBatch = NO_CONDITIONS,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The Gaussian of one reverse step: mean (B, N, D) and std (1, 1, 1)."""
        timestep = chain.timesteps[index].to(x.device).expand(len(x))
        noise = self.guided_noise(x, timestep, num_atoms, conditions, sampling.guidance)
        return chain.step(x, noise, index, sampling.sampler, sampling.eta)

    def guided_noise(
        self, x: Tensor, timestep: Tensor, num_atoms: Tensor, conditions: ConditionBatch, guidance: float
    ) -> Tensor:
        """(B, N, D) the noise in x by classifier-free guidance (Ho & Salimans 2022).

        null + guidance * (conditional - null), where null is the noise that is predicted without conditions.
        """
        if guidance == 1 or not conditions.values:
            return self.denoiser(x, timestep, num_atoms, conditions)
        empty = conditions.null().values
        both = ConditionBatch({name: torch.cat([value, empty[name]]) for name, value in conditions.values.items()})
        conditional, null = self.denoiser(x.repeat(2, 1, 1), timestep.repeat(2), num_atoms.repeat(2), both).chunk(2)
        return null + guidance * (conditional - null)
