"""The interface of a generator of crystals: a prior, a chain of denoising steps, and a decoder, applied in this order.

Sampling, reinforcement learning and scoring rely on `Generator`. Our implementation is
`latent_diffusion.LatentDiffusion`, the published one `chemeleon2.latent_diffusion.LatentDiffusion`;
`check.check_generator` tests any implementation.

Legend: B crystals, N atoms padded, D latent width, S steps of the sampling chain.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from chemeleon_cli.core.conditions.base import NO_CONDITIONS, ConditionBatch, Request
from chemeleon_cli.core.conditions.requests import Conditions, encode_requests
from chemeleon_cli.core.data.crystals import Crystals, atom_mask
from chemeleon_cli.core.models.diffusion import Sampler, Schedule
from chemeleon_cli.core.models.prior import CrystalPrior
from chemeleon_cli.core.models.vae import VAE


@dataclass(frozen=True)
class Sampling:
    """Settings of the sampling of latents.

    Attributes:
        sampler: "ddim" or "ddpm".
        sampling_steps: S.
        eta: scale of the noise that DDIM adds, 0 for deterministic sampling.
        guidance: scale of classifier-free guidance; 1 uses the conditional model itself, more strengthens conditions.
    """

    sampler: Sampler
    sampling_steps: int
    eta: float
    guidance: float = 1.0


@dataclass(frozen=True)
class Transition:
    """One sampled reverse step: `x_next` from Normal(`mean`, `std`) given `x`.

    Attributes:
        index: row of the sampling chain, S - 1 in the first step and 0 in the last.
        x: (B, N, D) before the step.
        mean: (B, N, D).
        std: (1, 1, 1) or (B, N, D); zero in the last step and for eta 0.
        x_next: (B, N, D) after the step.
    """

    index: int
    x: Tensor
    mean: Tensor
    std: Tensor
    x_next: Tensor


class Generator(nn.Module, ABC):
    """Generates crystals: it samples the prior, denoises in the latent space of an autoencoder, and decodes.

    A subclass creates the attributes below in its constructor, which takes plain values, and defines the reverse steps
    (`chain`, `step`) and the loss of the denoiser (`loss`).

    Attributes:
        config: the arguments of the constructor and, if it is not ours, the `layout`, from which `build` rebuilds the
            model.
        vae: the autoencoder; frozen.
        prior: proposes numbers of atoms and oxidation states.
        conditions: the conditions that the model was trained with, by name.
        latent_mean: (D,) buffer, subtracted from the latents of the autoencoder for the denoiser.
        latent_std: (D,) buffer, by which they are then divided.
    """

    config: dict[str, Any]
    vae: VAE
    prior: CrystalPrior
    conditions: Conditions
    latent_mean: Tensor
    latent_std: Tensor

    learns_variance: ClassVar[bool] = False
    """Whether the std of a DDPM step is an output of the network. Reinforcement learning cannot use DDPM then, because
    its update assumes a fixed std."""

    @abstractmethod
    def chain(self, sampling: Sampling) -> Schedule:
        """The sampling chain, S rows of the training schedule.

        Raises:
            UserError: there is no chain of S steps.
        """

    @abstractmethod
    def step(
        self, x: Tensor, index: int, num_atoms: Tensor, chain: Schedule, sampling: Sampling,
        conditions: ConditionBatch = NO_CONDITIONS,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The Gaussian of one reverse step, with gradients with respect to the denoiser.

        Args:
            x: (B, N, D) zero at padding.
            index: row of the chain; 0 is the last step, whose std is zero.
            num_atoms: (B,).
            chain: see `chain`.
            sampling: settings of sampling.
            conditions: requested conditions.

        Returns:
            mean (B, N, D), and std (1, 1, 1) or (B, N, D).
        """

    @abstractmethod
    def loss(
        self, latents: Tensor, num_atoms: Tensor, generator: torch.Generator,
        conditions: ConditionBatch = NO_CONDITIONS,
    ) -> Tensor:  # fmt: skip
        """() training loss of a batch, at random diffusion steps with random noise.

        Args:
            latents: (B, N, D) posterior means of the autoencoder, see `latents.encode`.
            num_atoms: (B,).
            generator: source of randomness for steps and noise, on the CPU.
            conditions: those of the crystals, after some have been dropped.
        """

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.latent_mean.device

    @property
    def latent_dim(self) -> int:
        """D."""
        return len(self.latent_mean)

    def train(self, mode: bool = True) -> Self:
        """Training mode for the denoiser only; the autoencoder stays in evaluation mode."""
        super().train(mode)
        self.vae.eval()
        return self

    def encode_requests(self, requests: Sequence[Request], num_atoms: Tensor) -> ConditionBatch:
        """Encode the requests for B crystals of `num_atoms` (B,) atoms for the denoiser.

        Raises:
            UserError: the model does not have a condition or does not know a value.
        """
        return encode_requests(self.conditions, requests, num_atoms).to(self.device)

    def check_request(self, request: Request) -> None:
        """Raise a UserError if the model cannot fulfil this request."""
        proposal = self.prior.propose(1, torch.Generator(), request)
        self.encode_requests(proposal.requests, proposal.num_atoms)

    def decode(self, x: Tensor, num_atoms: Tensor, conditions: ConditionBatch = NO_CONDITIONS) -> Crystals:
        """Decode latents (B, N, D) of the denoiser; a requested composition is imposed on the crystals."""
        latents = (x * self.latent_std + self.latent_mean) * atom_mask(num_atoms, x.shape[1]).unsqueeze(-1)
        with torch.no_grad():
            return self.vae.decoder(latents, num_atoms).to_crystals(conditions.numbers)

    @torch.no_grad()
    def transitions(
        self,
        num_atoms: Tensor,
        sampling: Sampling,
        generator: torch.Generator,
        conditions: ConditionBatch = NO_CONDITIONS,
    ) -> Iterator[Transition]:
        """Sample latents from noise and yield each reverse step; the last `x_next` is the result.

        Args:
            num_atoms: (B,).
            sampling: settings of sampling.
            generator: source of all noise, on the CPU, so that every device samples the same.
            conditions: requested conditions.
        """
        chain = self.chain(sampling)
        num_atoms = num_atoms.to(self.device)
        shape = (len(num_atoms), int(num_atoms.max()), self.latent_dim)
        mask = atom_mask(num_atoms, shape[1]).unsqueeze(-1)
        x = torch.randn(shape, generator=generator).to(self.device) * mask
        for index in reversed(range(len(chain))):
            mean, std = self.step(x, index, num_atoms, chain, sampling, conditions)
            noise = torch.randn(shape, generator=generator).to(self.device) * mask
            x_next = mean + std * noise
            yield Transition(index, x, mean, std, x_next)
            x = x_next

    def sample(
        self,
        num_atoms: Tensor,
        sampling: Sampling,
        generator: torch.Generator,
        conditions: ConditionBatch = NO_CONDITIONS,
    ) -> Crystals:
        """Generate a crystal of each size in `num_atoms` (B,); arguments as in `transitions`."""
        x = torch.zeros(0)
        for transition in self.transitions(num_atoms, sampling, generator, conditions):
            x = transition.x_next
        return self.decode(x, num_atoms.to(self.device), conditions)


def sample_many(
    model: Generator,
    num_atoms: Tensor,
    sampling: Sampling,
    generator: torch.Generator,
    batch_size: int,
    requests: Sequence[Request],
) -> Iterator[tuple[Tensor, Crystals]]:
    """Generate crystals in batches of similar size, and yield (indices into `num_atoms`, crystals on the CPU).

    Args:
        model: the generator.
        num_atoms: (M,).
        sampling: settings of sampling.
        generator: source of all noise.
        batch_size: crystals per batch.
        requests: the request for each of the M crystals.
    """
    for rows in torch.argsort(num_atoms, stable=True).split(batch_size):
        conditions = model.encode_requests([requests[row] for row in rows.tolist()], num_atoms[rows])
        yield rows, model.sample(num_atoms[rows], sampling, generator, conditions).to("cpu")
