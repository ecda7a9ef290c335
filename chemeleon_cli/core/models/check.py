"""A test of any generator against what sampling, training and reinforcement learning rely on.

Legend: B crystals, N atoms padded, D latent width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from chemeleon_cli.core.conditions.base import NO_CONDITIONS, ConditionBatch
from chemeleon_cli.core.data.crystals import Crystals, atom_mask
from chemeleon_cli.core.data.limits import MAX_Z
from chemeleon_cli.core.models.build import build
from chemeleon_cli.core.models.generator import Generator, Sampling, Transition

CRYSTALS = 6
TOLERANCE = 1e-5
"""Relative to the largest number of a tensor, or to 1: float32 in another order of summation."""


def check_generator(model: Generator, sampling: Sampling | None = None) -> None:
    """Test a generator, yours or ours.

    Its config must build it again; its prior must propose sizes and requests that it can encode, and register what it
    learns; sampling must give the shapes of `Transition` and the same crystals from the same seed; a step must repeat
    its numbers, so that the first update of reinforcement learning sees probability ratios of one, and let gradients
    reach the denoiser but not the autoencoder; neither padding nor the other crystals of a batch may change a result;
    conditions that are not given must count as no conditions; and decoded tensors must be those of crystals, with the
    composition that was asked for.

    Args:
        model: the generator, with any weights, in evaluation mode or not; it is left as it was.
        sampling: a short chain that it can take; None: DDIM of 4 steps.

    Raises:
        AssertionError: it does not keep the contract; the message says where.
    """
    sampling = sampling or Sampling("ddim", 4, 1.0)
    was_training = model.training
    model.eval()
    try:
        _check_config(model)
        num_atoms, conditions = _check_prior(model)
        transitions = _check_sampling(model, num_atoms, conditions, sampling)
        _check_step(model, num_atoms, conditions, transitions, sampling)
        _check_padding(model, conditions, num_atoms, transitions[0].x, sampling)
        _check_missing(model, num_atoms, transitions[0].x, sampling)
        _check_decoding(model, num_atoms, transitions[-1].x_next)
        _check_loss(model, num_atoms, conditions, transitions[-1].x_next)
    finally:
        model.train(was_training)


def _check_config(model: Generator) -> None:
    plain = json.loads(json.dumps(model.config))
    copy = build("ldm", plain)
    assert copy.config == model.config, "the model that its config builds has another config"
    weights = model.state_dict()
    assert _shapes(copy.state_dict()) == _shapes(weights), "the model that its config builds has other weights"
    for name in ("conditions", "latent_dim"):
        assert getattr(copy, name) == getattr(model, name), f"the model that its config builds has other {name}"


def _check_prior(model: Generator) -> tuple[Tensor, ConditionBatch]:
    prior = model.prior
    proposal, again = (prior.propose(CRYSTALS, _seeded()) for _ in range(2))
    num_atoms = proposal.num_atoms
    assert num_atoms.shape == (CRYSTALS,) and len(proposal.requests) == CRYSTALS, "the prior proposed another number"
    assert set(num_atoms.tolist()) <= set(prior.sizes), "the prior proposed a size that is not among its sizes"
    assert torch.equal(num_atoms, again.num_atoms), "the prior proposed something else from the same seed"
    if prior.weights is not None:
        own = any(p is prior.weights for p in model.parameters())
        assert own, "the weights of the prior are not a parameter of the generator, so no checkpoint would hold them"
        log_prob, kl = prior.log_prob_and_kl(proposal, prior)
        assert log_prob.shape == (CRYSTALS,) and (log_prob <= 0).all(), "a log-probability of the prior is above 0"
        assert kl.abs() < TOLERANCE, "the prior diverges from itself"
    return num_atoms.to(model.device), model.encode_requests(proposal.requests, num_atoms)


def _check_sampling(
    model: Generator, num_atoms: Tensor, conditions: ConditionBatch, sampling: Sampling
) -> list[Transition]:
    shape = (len(num_atoms), int(num_atoms.max()), model.latent_dim)
    padding = ~atom_mask(num_atoms, shape[1])
    transitions, again = (list(model.transitions(num_atoms, sampling, _seeded(), conditions)) for _ in range(2))
    steps = [t.index for t in transitions]
    assert steps == list(reversed(range(sampling.sampling_steps))), f"the steps of the chain are {steps}"
    for t in transitions:
        for name in ("x", "mean", "x_next"):
            values = getattr(t, name)
            assert values.shape == shape, f"{name} has the shape {tuple(values.shape)}, expected {shape}"
            assert values.isfinite().all(), f"{name} is not finite"
            assert not values[padding].any(), f"{name} is not zero at padding"
        assert t.std.shape in ((1, 1, 1), shape), f"std has the shape {tuple(t.std.shape)}"
        zero = (t.std[~padding] if t.std.shape == shape else t.std) == 0
        assert zero.all() if t.index == 0 else not zero.any(), "std must be zero at the last step and nowhere else"
    assert torch.equal(transitions[-1].x_next, again[-1].x_next), "the same seed gave other crystals"
    return transitions


def _check_step(
    model: Generator,
    num_atoms: Tensor,
    conditions: ConditionBatch,
    transitions: list[Transition],
    sampling: Sampling,
) -> None:
    chain = model.chain(sampling)
    for t in transitions:
        with torch.enable_grad():
            mean, std = model.step(t.x, t.index, num_atoms, chain, sampling, conditions)
        same = torch.equal(mean, t.mean) and torch.equal(std, t.std)
        assert same, "a step gave another Gaussian than in sampling, so probability ratios would not be one"
    denoiser = [p for name, p in model.named_parameters() if p.requires_grad and p is not model.prior.weights]
    if denoiser:
        assert mean.requires_grad, "the mean of a step has no gradient"
        gradients = torch.autograd.grad(mean.square().sum(), denoiser, allow_unused=True)
        assert any(g is not None and g.any() for g in gradients), "the gradient of a step reaches no parameter"
    assert not any(p.requires_grad for p in model.vae.parameters()), "the autoencoder is not frozen"


def _check_padding(
    model: Generator, conditions: ConditionBatch, num_atoms: Tensor, x: Tensor, sampling: Sampling
) -> None:
    chain = model.chain(sampling)
    index = len(chain) - 1
    small, large = min(model.prior.sizes), max(model.prior.sizes)
    sizes = torch.tensor([small, large], device=model.device)
    noise = torch.randn(2, large, model.latent_dim, generator=_seeded()).to(model.device)
    noise = noise * atom_mask(sizes, large).unsqueeze(-1)
    for batch, counts, own in ((x, num_atoms, conditions), (noise, sizes, NO_CONDITIONS)):
        with torch.no_grad():
            together, _ = model.step(batch, index, counts, chain, sampling, own)
            decoded = model.decode(together, counts, own)
            for b, count in enumerate(counts.tolist()):
                alone, _ = model.step(
                    batch[[b], :count], index, counts[[b]], chain, sampling, _row(model, own, b, count)
                )
                _assert_close(alone[0], together[b, :count], "padding or its neighbours changed a crystal's step")
                crystal = model.decode(together[[b], :count], counts[[b]], _row(model, own, b, count))
                _assert_close(crystal.lattice[0], decoded.lattice[b], "padding or its neighbours changed a lattice")


def _check_missing(model: Generator, num_atoms: Tensor, x: Tensor, sampling: Sampling) -> None:
    chain = model.chain(sampling)
    empty = {n: c.batch([None] * len(num_atoms), num_atoms.cpu()) for n, c in model.conditions.items()}
    with torch.no_grad():
        given, _ = model.step(x, len(chain) - 1, num_atoms, chain, sampling, ConditionBatch(empty).to(model.device))
        none, _ = model.step(x, len(chain) - 1, num_atoms, chain, sampling)
    _assert_close(given, none, "conditions that are not given changed a step")


def _check_decoding(model: Generator, num_atoms: Tensor, x: Tensor) -> None:
    mask = atom_mask(num_atoms, x.shape[1])
    crystals = model.decode(x, num_atoms)
    assert torch.equal(crystals.num_atoms, num_atoms), "decoded crystals have other sizes"
    assert crystals.lattice.shape == (len(num_atoms), 3, 3), f"the lattices have shape {tuple(crystals.lattice.shape)}"
    _check_atoms(crystals, mask)
    symmetric = torch.where(mask, crystals.numbers[:, :1], 0)  # one element in each crystal
    numbers = model.decode(x, num_atoms, ConditionBatch(numbers=symmetric)).numbers
    assert torch.equal(numbers, symmetric), "decoded crystals do not have the composition that was asked for"


def _check_atoms(crystals: Crystals, mask: Tensor) -> None:
    numbers, frac = crystals.numbers, crystals.frac_coords
    assert numbers.dtype == torch.int64 and numbers.shape == mask.shape, "atomic numbers must be (B, N) int64"
    assert ((numbers >= 1) & (numbers <= MAX_Z))[mask].all(), f"atomic numbers must be 1 to {MAX_Z}"
    assert frac.shape == (*mask.shape, 3), f"the coordinates have shape {tuple(frac.shape)}"
    assert ((frac >= 0) & (frac < 1)).all(), "fractional coordinates must be in [0, 1)"
    assert not numbers[~mask].any() and not frac[~mask].any(), "there are atoms at padding"


def _check_loss(model: Generator, num_atoms: Tensor, conditions: ConditionBatch, x: Tensor) -> None:
    loss = model.loss(x * model.latent_std + model.latent_mean, num_atoms, _seeded(), conditions)
    assert loss.shape == () and loss.isfinite(), "the loss is not one finite number"


def _row(model: Generator, batch: ConditionBatch, b: int, count: int) -> ConditionBatch:
    """The conditions of one crystal of a batch, without padding."""
    values = {
        name: value[[b], :count] if model.conditions[name].per_atom else value[[b]]
        for name, value in batch.values.items()
    }
    return ConditionBatch(values, None if batch.numbers is None else batch.numbers[[b], :count])


def _assert_close(a: Tensor, b: Tensor, message: str) -> None:
    scale = max(1.0, b.nan_to_num().abs().max().item())
    assert torch.allclose(a, b, rtol=0, atol=TOLERANCE * scale, equal_nan=True), message


def _shapes(weights: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value.shape) for name, value in weights.items()}


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
