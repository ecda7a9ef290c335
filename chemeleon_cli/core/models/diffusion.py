"""The noise schedule and one step of the reverse chain, without a model.

The forward process turns data x0 into noise (Ho et al. 2020, "Denoising Diffusion Probabilistic Models"),

    x_t = sqrt(ab_t) x0 + sqrt(1 - ab_t) noise,        ab_t = prod_{s <= t} (1 - beta_s),

and a network learns to predict `noise` from (x_t, t). Sampling goes back along a chain of steps t_{S-1} > ... > t_0,
which are all T training steps or some of them, and then to the clean data, where ab = 1.

Legend: B crystals, T training steps, S steps of a chain. An *index* counts the rows of a chain from the least noisy, 0;
`timesteps[index]` is the training step that the network gets as input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from chemeleon_cli.errors import UserError

Sampler = Literal["ddim", "ddpm"]
NOISE_MEAN, NOISE_STD = -0.5, 1.2
ANYWHERE = 0.2
Index = int | Tensor


@dataclass(frozen=True, eq=False)
class Schedule:
    """A chain of noise levels: all those of training, or some of them for sampling.

    Levels are float64, because 1 - ab loses four digits in float32 near the clean data. Results are float32.

    Attributes:
        timesteps: (S,) int64, ascending, the training step of each row.
        alphas_cumprod: (S,) float64, the remaining share ab of the signal variance at each row.
    """

    timesteps: Tensor
    alphas_cumprod: Tensor

    @classmethod
    def linear(cls, timesteps: int, beta_start: float, beta_end: float) -> Schedule:
        """The full chain of `timesteps` steps with linearly increasing betas (Ho et al. 2020, section 4)."""
        betas = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
        return cls(torch.arange(timesteps), (1 - betas).cumprod(0))

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def alphas_cumprod_prev(self) -> Tensor:
        """(S,) float64, ab of the row that a step leads to; 1 (clean data) for row 0."""
        return torch.cat([self.alphas_cumprod.new_ones(1), self.alphas_cumprod[:-1]])

    def take(self, rows: Tensor) -> Schedule:
        """The chain of the given rows only, (S',) int64 ascending; every row keeps its noise level."""
        return Schedule(self.timesteps[rows], self.alphas_cumprod[rows])

    def respaced(self, steps: int) -> Schedule:
        """A chain of `steps` evenly spaced rows, floor(T k / S) - 1 for k = 1..S, including the noisiest one.

        This is the "trailing" spacing of Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are
        Flawed". Sampling starts from pure noise, so its first step must be the noisiest one of training, which a fixed
        stride from 0 leaves out. It also keeps RL stable: in a chain with row 0, the step to almost clean data has so
        small a std that its log-ratio dominates all others.

        Raises:
            UserError: `steps` is not in 1..T.
        """
        total = len(self)
        if not 1 <= steps <= total:
            raise UserError(
                f"sampling_steps is {steps}, but the model was trained with {total} diffusion steps",
                f"choose sampling_steps between 1 and {total}",
            )
        rows = torch.arange(1, steps + 1, device=self.timesteps.device) * total // steps - 1
        return self.take(rows)

    def random_rows(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) int64 random rows for training, most of them at noise levels that determine elements and positions.

        Four in five have a noise-to-signal ratio sqrt((1 - ab) / ab) whose logarithm is Normal(-0.5, 1.2), as in EDM
        (Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", table 1, for data of
        unit variance). One in five is uniform over all rows, because EDM hardly covers the last third of a linear
        chain, where sampling begins. If all were uniform, two thirds would be almost pure noise.
        """
        ratio = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt().log()
        levels = NOISE_MEAN + NOISE_STD * torch.randn(count, generator=generator, dtype=torch.float64)
        rows = torch.searchsorted(ratio, levels.to(ratio.device)).clamp(max=len(self) - 1)
        anywhere = torch.randint(len(self), (count,), generator=generator)
        return torch.where(torch.rand(count, generator=generator) < ANYWHERE, anywhere, rows)

    def add_noise(self, x0: Tensor, noise: Tensor, index: Index) -> Tensor:
        """A sample of q(x_t | x0): sqrt(ab) x0 + sqrt(1 - ab) noise.

        Args:
            x0: (B, ...) clean data.
            noise: (B, ...) standard normal.
            index: (B,) int64 rows of this chain, one for each crystal, or one int for all.
        """
        ab = _rows(self.alphas_cumprod, index, x0)
        return ab.sqrt().float() * x0 + (1 - ab).sqrt().float() * noise

    def predict_x0(self, x_t: Tensor, eps: Tensor, index: Index) -> Tensor:
        """The clean data (x_t - sqrt(1 - ab) eps) / sqrt(ab), if `eps` is the noise in `x_t`."""
        ab = _rows(self.alphas_cumprod, index, x_t)
        return (x_t - (1 - ab).sqrt().float() * eps) / ab.sqrt().float()

    def step(
        self, x_t: Tensor, eps: Tensor, index: Index, sampler: Sampler = "ddim", eta: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """One reverse step: mean and std of the Gaussian from which the next x is sampled.

        Song et al. 2021, "Denoising Diffusion Implicit Models", equations 12 and 16, with x0 from `predict_x0`:

            mean = sqrt(ab_prev) x0 + sqrt(1 - ab_prev - std^2) eps
            std  = eta sqrt((1 - ab_prev) / (1 - ab)) sqrt(1 - ab / ab_prev)

        With eta = 0 the chain is deterministic. With eta = 1 it is DDPM: mean and std are those of the posterior
        q(x_prev | x_t, x0), and std^2 is the beta-tilde of Ho et al. 2020, equation 7. The step of row 0 leads to clean
        data: its std is 0 for any eta, and it has no log-probability.

        Args:
            x_t: (B, ...) noisy data.
            eps: (B, ...) noise predicted by the network.
            index: (B,) int64 rows of this chain, which may differ, or one int for all.
            sampler: "ddim", or "ddpm", which sets eta to 1.
            eta: 0..1, scale of the noise that is added.

        Returns:
            mean, of the shape of x_t, and std, (B, 1, ...), or (1, 1, ...) if index is an int.

        Raises:
            ValueError: eta is not in 0..1.
        """
        if sampler == "ddpm":
            eta = 1.0
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be between 0 and 1, not {eta}")
        ab = _rows(self.alphas_cumprod, index, x_t)
        ab_prev = _rows(self.alphas_cumprod_prev, index, x_t)
        variance = eta**2 * (1 - ab_prev) / (1 - ab) * (1 - ab / ab_prev)
        x0 = self.predict_x0(x_t, eps, index)
        mean = ab_prev.sqrt().float() * x0 + (1 - ab_prev - variance).sqrt().float() * eps
        return mean, variance.sqrt().float()


def _rows(values: Tensor, index: Index, like: Tensor) -> Tensor:
    """values[index] as (B, 1, ...) or (1, 1, ...), with as many dimensions as `like`."""
    chosen = values[torch.as_tensor(index, device=values.device)]
    return chosen.reshape(-1, *[1] * (like.ndim - 1)).to(like.device)
