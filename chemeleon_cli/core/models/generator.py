"""The generator: a frozen VAE and a denoiser of its latents (Rombach et al. 2022, per atom).

Legend: B crystals, N atoms padded, D latent width, S steps of the sampling chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chemeleon_cli.core.conditions.conditions import (
    NOTHING,
    STATE_CODES,
    Said,
    Settings,
    Wanted,
    assign_elements,
    encode,
    formula_of,
    formula_unit,
    resolve,
    state_shares,
    unsaid,
)
from chemeleon_cli.core.conditions.settings import Sizes
from chemeleon_cli.core.data.crystals import Crystals, atom_mask
from chemeleon_cli.core.models.build import build, call
from chemeleon_cli.core.models.denoiser import Denoiser
from chemeleon_cli.core.models.diffusion import Sampler, Schedule
from chemeleon_cli.core.models.vae import VAE
from chemeleon_cli.errors import UserError

STATES = "oxidation_states"
DRAW_GAIN = 100.0
"""So that learning rates that suit the denoiser suit the draw: Adam's steps are as long as the rate."""


@dataclass(frozen=True)
class Sampling:
    """How noise becomes latents.

    Attributes:
        sampler: "ddim" or "ddpm".
        sampling_steps: S.
        eta: the noise that DDIM adds, 0 for none.
        guidance: scale of classifier-free guidance; 1 is the condition alone, more exaggerates it.
    """

    sampler: Sampler = "ddim"
    sampling_steps: int = 50
    eta: float = 1.0
    guidance: float = 1.0


@dataclass(frozen=True)
class Transition:
    """One reverse step as it was drawn: `x_next` from Normal(`mean`, `std`) given `x`.

    Attributes:
        index: row of the sampling chain, S - 1 first and 0 last.
        x: (B, N, D) before.
        mean: (B, N, D).
        std: (1, 1, 1), zero at the last step and for eta 0.
        x_next: (B, N, D) after.
    """

    index: int
    x: Tensor
    mean: Tensor
    std: Tensor
    x_next: Tensor


class LatentDiffusion(nn.Module):
    """A VAE, a denoiser of its standardised latents and the sizes of crystals to draw.

    Args:
        vae: config of the VAE.
        denoiser: config of the denoiser.
        diffusion: arguments of `Schedule.linear`.
        sizes: how many training crystals had so many atoms, by the count as text.
    """

    def __init__(
        self,
        vae: Mapping[str, Any],
        denoiser: Mapping[str, Any],
        diffusion: Mapping[str, Any],
        sizes: Sizes,
    ) -> None:
        super().__init__()
        self.vae: VAE = build("vae", vae).requires_grad_(False)
        self.denoiser = call(Denoiser, denoiser, "denoiser")
        self.config = {
            "vae": self.vae.config,
            "denoiser": self.denoiser.config,
            "diffusion": dict(diffusion),
            "sizes": dict(sizes),
        }
        self.schedule = call(Schedule.linear, diffusion, "diffusion")
        self.register_buffer("latent_mean", torch.zeros(self.denoiser.config["latent_dim"]))
        self.register_buffer("latent_std", torch.ones(self.denoiser.config["latent_dim"]))
        self.latent_mean: Tensor
        self.latent_std: Tensor
        self.draw_weights: nn.Parameter | None = None
        if STATES in self.conditions:
            # only reinforcement learns them, where it is asked to
            self.draw_weights = nn.Parameter(torch.zeros(STATE_CODES), requires_grad=False)
            self.register_buffer("draw_shares", state_shares(self.conditions[STATES]["known"]), persistent=False)
            self.draw_shares: Tensor

    def going_on(self, conditions: Settings, sizes: Mapping[str, int]) -> LatentDiffusion:
        """A generator with these weights, to be trained on other crystals; it begins with the same noise predictions.

        Args:
            conditions: what it is to learn to be asked for. It goes on with those of CODED_ALIKE and with what it has
                learned to draw, and learns values and classes anew; conditions that it is not to have stay unsaid for
                ever.
            sizes: of the other crystals.
        """
        denoiser = {**self.denoiser.config, "conditions": conditions}
        other = LatentDiffusion(self.vae.config, denoiser, self.config["diffusion"], sizes).to(self.device)
        kept = {k: v for k, v in self.state_dict().items() if not k.startswith("denoiser.conditions.")}
        lacking, _ = other.load_state_dict(kept, strict=False)
        assert all(name.startswith(("denoiser.conditions.", "draw_weights")) for name in lacking), lacking
        if (old := self.denoiser.conditions) is not None:
            new = other.denoiser.conditions
            gone = set(old.settings) - (set() if new is None else new.take_over(old))
            other.denoiser.add_always(*old.add_when_unsaid(gone))
        return other

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.latent_mean.device

    @property
    def conditions(self) -> Settings:
        """What the model was trained to be asked for."""
        return self.denoiser.config.get("conditions") or {}

    def say(self, wanted: Sequence[Wanted], num_atoms: Tensor) -> Said:
        """What crystals with `num_atoms` (B,) atoms are asked to be, each of `wanted` for one of them.

        Raises:
            UserError: the model was not trained for it, or does not know the value.
        """
        return encode(self.conditions, wanted, num_atoms).to(self.device)

    def check(self, wanted: Wanted) -> None:
        """Whether a crystal can be asked to be this.

        Raises:
            UserError: it cannot.
        """
        sizes, asked = self.draw(1, torch.Generator(), wanted)
        self.say(asked, sizes)

    def train(self, mode: bool = True) -> LatentDiffusion:
        """Training mode for the denoiser only; the VAE stays as it is."""
        super().train(mode)
        self.vae.eval()
        return self

    def set_latent_statistics(self, posterior_means: Tensor) -> None:
        """Standardise each latent dimension by its mean and std over (A, D) atoms of the training set."""
        self.latent_mean.copy_(posterior_means.mean(0))
        self.latent_std.copy_(posterior_means.std(0, correction=0).clamp(min=1e-4))

    def decode(self, x: Tensor, num_atoms: Tensor, said: Said = NOTHING) -> Crystals:
        """The denoiser's latents (B, N, D) to crystals; a composition that was said is what they have."""
        latents = (x * self.latent_std + self.latent_mean) * atom_mask(num_atoms, x.shape[1]).unsqueeze(-1)
        with torch.no_grad():
            decoded = self.vae.decoder(latents, num_atoms)
        if said.numbers is None:
            return decoded.to_crystals()
        numbers = assign_elements(decoded.element_logits, said.numbers)
        assert torch.equal(numbers.sort(1).values, said.numbers.sort(1).values), "the composition is not what was asked"
        return decoded.to_crystals().replace(numbers=numbers)

    def loss(self, latents: Tensor, num_atoms: Tensor, generator: torch.Generator, said: Said = NOTHING) -> Tensor:
        """Mean squared error of the predicted noise over the atoms of a batch, at random steps.

        Args:
            latents: (B, N, D) posterior means of the VAE, see `latents.encode`.
            num_atoms: (B,).
            generator: of steps and noise.
            said: what the denoiser is told of the crystals.
        """
        mask = atom_mask(num_atoms, latents.shape[1])
        x0 = (latents - self.latent_mean) / self.latent_std * mask.unsqueeze(-1)
        t = self.schedule.draw(len(x0), generator).to(x0.device)
        noise = torch.randn(x0.shape, generator=generator).to(x0.device) * mask.unsqueeze(-1)
        x_t = self.schedule.add_noise(x0, noise, t)
        return (self.denoiser(x_t, t, num_atoms, said) - noise)[mask].square().mean()

    def chain(self, sampling: Sampling) -> Schedule:
        """The sampling chain, S rows of the training schedule."""
        return self.schedule.respaced(sampling.sampling_steps)

    def step(
        self, x: Tensor, index: int, num_atoms: Tensor, chain: Schedule, sampling: Sampling, said: Said = NOTHING
    ) -> tuple[Tensor, Tensor]:
        """The Gaussian of one reverse step: mean (B, N, D) and std (1, 1, 1). Gradients reach the denoiser."""
        timestep = chain.timesteps[index].to(x.device).expand(len(x))
        noise = self.noise(x, timestep, num_atoms, said, sampling.guidance)
        return chain.step(x, noise, index, sampling.sampler, sampling.eta)

    def noise(self, x: Tensor, timestep: Tensor, num_atoms: Tensor, said: Said, guidance: float) -> Tensor:
        """The noise in x (B, N, D) by classifier-free guidance (Ho & Salimans 2022): null + scale (told - null)."""
        if guidance == 1 or not said.values:
            return self.denoiser(x, timestep, num_atoms, said)
        nothing = unsaid(said.values)
        both = Said({name: torch.cat([value, nothing[name]]) for name, value in said.values.items()})
        told, null = self.denoiser(x.repeat(2, 1, 1), timestep.repeat(2), num_atoms.repeat(2), both).chunk(2)
        return null + guidance * (told - null)

    @torch.no_grad()
    def transitions(
        self, num_atoms: Tensor, sampling: Sampling, generator: torch.Generator, said: Said = NOTHING
    ) -> Iterator[Transition]:
        """Draw latents from noise, one reverse step after the other; the last `x_next` is the result.

        Args:
            num_atoms: (B,) sizes of the crystals wanted.
            sampling: how.
            generator: source of all noise, on the CPU so that every device draws the same.
            said: what the crystals are to be.
        """
        chain = self.chain(sampling)
        num_atoms = num_atoms.to(self.device)
        shape = (len(num_atoms), int(num_atoms.max()), self.denoiser.config["latent_dim"])
        mask = atom_mask(num_atoms, shape[1]).unsqueeze(-1)
        x = torch.randn(shape, generator=generator).to(self.device) * mask
        for index in reversed(range(len(chain))):
            mean, std = self.step(x, index, num_atoms, chain, sampling, said)
            noise = torch.randn(shape, generator=generator).to(self.device) * mask
            x_next = mean + std * noise
            yield Transition(index, x, mean, std, x_next)
            x = x_next

    def sample(
        self, num_atoms: Tensor, sampling: Sampling, generator: torch.Generator, said: Said = NOTHING
    ) -> Crystals:
        """Generate a crystal of each size in `num_atoms` (B,)."""
        x = torch.zeros(0)
        for transition in self.transitions(num_atoms, sampling, generator, said):
            x = transition.x_next
        return self.decode(x, num_atoms.to(self.device), said)

    def draw(
        self, count: int, generator: torch.Generator, wanted: Wanted | None = None, z: int | None = None
    ) -> tuple[Tensor, list[Wanted]]:
        """What `count` crystals are to be: (count,) atom counts as `draw_sizes` draws them, and `wanted` of each.

        Where nothing is wanted, a model that was trained with oxidation states draws those of a training crystal, by
        `log_odds`.
        Beside other wishes they stay unsaid, since a draw knows nothing of the wish: a metal cannot have a gap of 3 eV.
        They are unsaid, too, where `wanted` names them with None.

        Raises:
            UserError: as `draw_sizes`.
        """
        asked = resolve(self.conditions, wanted or {})
        if self.draws_states(wanted or {}) and z is None:
            texts, odds = list(self.conditions[STATES]["known"]), self.log_odds().detach().exp().cpu()
            rows = torch.multinomial(odds, count, replacement=True, generator=generator).tolist()
        elif STATES in asked and z is None:
            texts, rows = [str(asked[STATES])], [0] * count
        else:
            return self.draw_sizes(count, generator, asked, z), [asked] * count
        return torch.tensor([len(texts[row].split()) for row in rows]), [{**asked, STATES: texts[row]} for row in rows]

    def draws_states(self, wanted: Wanted) -> bool:
        """Whether `draw` draws oxidation states: the model has them, and nothing is asked for or left open."""
        return STATES in self.conditions and STATES not in wanted and not resolve(self.conditions, wanted)

    def log_odds(self) -> Tensor:
        """(K,) log-probability of each of the K oxidation states that are known to be drawn, in their order.

        As often as in the training set, times exp of what reinforcement learning has added for each state by the
        share of atoms that have it: zero unless it was learned.
        """
        assert self.draw_weights is not None
        counts = torch.tensor(list(self.conditions[STATES]["known"].values()), device=self.device)
        return (counts.log() + DRAW_GAIN * self.draw_shares @ self.draw_weights).log_softmax(0)

    def draw_sizes(
        self, count: int, generator: torch.Generator, wanted: Wanted | None = None, z: int | None = None
    ) -> Tensor:
        """(count,) atom counts with the frequencies of the training set.

        Args:
            count: how many.
            generator: of the draws.
            wanted: what is asked for; a composition in it leaves only the sizes that hold whole formula units.
            z: how many formula units; None: any number.

        Raises:
            UserError: no crystal of the training set had such a size, or the model has no such condition.
        """
        formula = formula_of(self.conditions, wanted or {})
        if z is not None and formula is None:
            raise UserError(f"z is {z}, and no composition is asked for", "z counts the formula units of a composition")
        unit = 1 if formula is None else len(formula_unit(formula))
        sizes = torch.tensor([int(n) for n in self.config["sizes"]])
        weights = torch.tensor([float(c) for c in self.config["sizes"].values()])
        fits = (sizes % unit == 0) if z is None else (sizes == z * unit)
        if not fits.any():
            units = "" if z is None else f" times z = {z}"
            found = f"composition: found {formula}, with {unit} atoms in a formula unit{units}"
            have = f"{int(sizes.min())} to {int(sizes.max())} atoms"
            raise UserError(f"{found}; the model was trained on crystals of {have}, and no such size fits")
        return sizes[fits][torch.multinomial(weights[fits], count, replacement=True, generator=generator)]


def sample_many(
    model: LatentDiffusion,
    num_atoms: Tensor,
    sampling: Sampling,
    generator: torch.Generator,
    batch_size: int,
    wanted: Sequence[Wanted],
) -> Iterator[tuple[Tensor, Crystals]]:
    """Generate crystals in batches of like sizes: (positions in `num_atoms`, crystals on the CPU).

    Args:
        model: the generator.
        num_atoms: (M,).
        sampling: how.
        generator: of all noise.
        batch_size: crystals at a time.
        wanted: what each crystal is asked to be.
    """
    for rows in torch.argsort(num_atoms, stable=True).split(batch_size):
        said = model.say([wanted[row] for row in rows.tolist()], num_atoms[rows])
        yield rows, model.sample(num_atoms[rows], sampling, generator, said).to("cpu")
