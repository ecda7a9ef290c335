"""The crystal prior: what a generator samples before it denoises.

This is the number of atoms and, in a model that was trained with them, the oxidation state of each atom. Both are
sampled with their frequencies in the training set, which reinforcement learning may change for oxidation states.

Legend: B crystals, K combinations of oxidation states that occur in the training set.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from chemeleon_cli.core.arguments import PositiveInt
from chemeleon_cli.core.conditions.base import Request
from chemeleon_cli.core.conditions.composition import formula_unit
from chemeleon_cli.core.conditions.oxidation_states import STATE_CODES, OxidationStates, state_shares
from chemeleon_cli.core.conditions.requests import Conditions, requested_formula, resolve
from chemeleon_cli.errors import UserError

Sizes = Annotated[Mapping[Annotated[str, Field(pattern=r"^[1-9]\d{0,3}$")], PositiveInt], Field(min_length=1)]
"""Number of training crystals by their number of atoms, which is a text."""
GAIN = 100.0
"""Factor on the learned weights. Adam's steps are about as long as the learning rate; with this factor, a rate that
suits the denoiser also suits the prior."""


@dataclass(frozen=True)
class Proposal:
    """The sizes and conditions proposed for B crystals.

    Attributes:
        num_atoms: (B,).
        requests: what the denoiser is conditioned on, for each crystal.
        rows: (B,) indices of the sampled combinations of oxidation states, out of K; None if none were sampled, and
            the proposal then has no probability to learn from.
    """

    num_atoms: Tensor
    requests: list[Request]
    rows: Tensor | None = None


class CrystalPrior:
    """Samples numbers of atoms and oxidation states, and computes the probability of the latter.

    The probability of a combination of oxidation states is proportional to

        its count in the training set * exp(GAIN * sum over states of weight * share of atoms with that state)

    and the weights are zero unless reinforcement learning has changed them.

    Args:
        sizes: number of training crystals by their number of atoms (as text), or any other weights.
        conditions: those of the model, by name.

    Attributes:
        sizes: the numbers of atoms that can be proposed, with their weights.
        weights: (STATE_CODES,) learnable weights; None in a model without oxidation states. The prior is not a module:
            a generator registers this parameter as its own, so that checkpoints and optimisers include it.
    """

    def __init__(self, sizes: Mapping[str, float], conditions: Conditions) -> None:
        self.sizes = {int(n): float(weight) for n, weight in sizes.items()}
        self.conditions = conditions
        self.states = next((c for c in conditions.values() if isinstance(c, OxidationStates)), None)
        self.weights = None if self.states is None else nn.Parameter(torch.zeros(STATE_CODES), requires_grad=False)

    def propose(
        self, count: int, generator: torch.Generator, request: Request | None = None, z: int | None = None
    ) -> Proposal:
        """Propose sizes and conditions for `count` crystals with the same request.

        Oxidation states are sampled only for an empty request. With any other request they are not given, because the
        prior does not know which of them are compatible with it: a metal cannot have a band gap of 3 eV. They are not
        given either if the request names them with the value None.

        Args:
            count: B.
            generator: source of randomness, on the CPU.
            request: the request for all crystals.
            z: formula units of a requested composition in each crystal; None for any number.

        Raises:
            UserError: see `propose_sizes`.
        """
        request = request or {}
        own = resolve(self.conditions, request)
        if self.states is not None and z is None:
            if self.samples_states(request):
                rows = torch.multinomial(self.log_odds().detach().exp().cpu(), count, True, generator=generator)
                known = list(self.states.known)
                texts = [known[row] for row in rows.tolist()]
                num_atoms = torch.tensor([len(text.split()) for text in texts])
                return Proposal(num_atoms, [{**own, self.states.name: text} for text in texts], rows)
            if self.states.name in own:
                return Proposal(torch.full((count,), len(str(own[self.states.name]).split())), [own] * count)
        return Proposal(self.propose_sizes(count, generator, own, z), [own] * count)

    def propose_sizes(
        self, count: int, generator: torch.Generator, request: Request | None = None, z: int | None = None
    ) -> Tensor:
        """(B,) numbers of atoms, sampled with their frequencies in the training set; arguments as in `propose`.

        With a requested composition, only sizes that are whole multiples of its formula unit are sampled.

        Raises:
            UserError: the training set has no crystal of such a size, or the model does not have a condition.
        """
        formula = requested_formula(self.conditions, request or {})
        if z is not None and formula is None:
            raise UserError(f"z is {z}, but no composition is requested", "z is its number of formula units")
        unit = 1 if formula is None else len(formula_unit(formula))
        sizes, weights = torch.tensor(list(self.sizes)), torch.tensor(list(self.sizes.values()))
        fits = (sizes % unit == 0) if z is None else (sizes == z * unit)
        if not fits.any():
            units = "" if z is None else f" times z = {z}"
            found = f"composition: found {formula}, with {unit} atoms in a formula unit{units}"
            have = f"{int(sizes.min())} to {int(sizes.max())} atoms"
            raise UserError(f"{found}; the model was trained on crystals of {have}, and no such size fits")
        return sizes[fits][torch.multinomial(weights[fits], count, replacement=True, generator=generator)]

    def samples_states(self, request: Request) -> bool:
        """Whether oxidation states are sampled for this request: it is empty and does not name them."""
        return self.states is not None and self.states.name not in request and not resolve(self.conditions, request)

    # --- what reinforcement learning needs --------------------------------------------------------

    def learn(self) -> None:
        """Make the weights trainable, if there are any."""
        if self.weights is not None:
            self.weights.requires_grad_(True)

    def learns_from(self, request: Request) -> bool:
        """Whether a proposal for this request has a probability that is being trained."""
        return self.weights is not None and self.weights.requires_grad and self.samples_states(request)

    def log_odds(self) -> Tensor:
        """(K,) log-probability of each combination of oxidation states, in the order of `states.known`."""
        assert self.states is not None and self.weights is not None
        counts = torch.tensor(list(self.states.known.values()), device=self.weights.device)
        return (counts.log() + GAIN * self.shares.to(self.weights.device) @ self.weights).log_softmax(0)

    def log_prob_and_kl(self, proposal: Proposal, base: CrystalPrior) -> tuple[Tensor, Tensor]:
        """(B,) log-probability of a proposal, and () the divergence KL(self || base), both with gradient.

        Args:
            proposal: with `rows`.
            base: a prior with the same oxidation states; it gets no gradient.
        """
        assert proposal.rows is not None, "this proposal has no probability: no oxidation states were sampled"
        log_odds = self.log_odds()
        kl = (log_odds.exp() * (log_odds - base.log_odds().detach())).sum()
        return log_odds[proposal.rows.to(log_odds.device)], kl

    @functools.cached_property
    def shares(self) -> Tensor:
        """(K, STATE_CODES) share of the atoms with each state, for each combination."""
        assert self.states is not None
        return state_shares(self.states.known)
