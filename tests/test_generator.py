"""The contract of a generator: both layouts keep it, and what breaks it is found."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import diffusion
from test_conditions import SETTINGS, SMALL, make, make_published
from test_oxidation_states import STATES
from torch import Tensor

from chemeleon_cli.core.conditions.base import NO_CONDITIONS, ConditionBatch
from chemeleon_cli.core.data.crystals import Crystals
from chemeleon_cli.core.models import build
from chemeleon_cli.core.models.check import check_generator
from chemeleon_cli.core.models.generator import Generator, Sampling, Transition
from chemeleon_cli.core.models.latent_diffusion import LatentDiffusion
from chemeleon_cli.core.models.prior import CrystalPrior
from chemeleon_cli.core.training import checkpoint

SIZES = {"2": 6, "4": 3, "5": 1}
STARTER = Path(checkpoint.__file__).parents[2] / "starter" / "ldm"


@pytest.mark.parametrize("settings", [None, SETTINGS, STATES, {**SETTINGS, **STATES}])
@pytest.mark.parametrize(
    "sampling", [Sampling("ddim", 4, 1.0), Sampling("ddpm", 3, 1.0), Sampling("ddim", 2, 1.0, 2.0)]
)
def test_our_generators_keep_the_contract(settings: dict[str, Any] | None, sampling: Sampling):
    check_generator(make(settings, SIZES), sampling)


@pytest.mark.parametrize("sampling", [Sampling("ddim", 4, 1.0), Sampling("ddpm", 3, 1.0)])
def test_published_generators_keep_the_contract(sampling: Sampling):
    published = make_published()
    check_generator(published, sampling)
    config = {**published.config, "denoiser": {**published.config["denoiser"], "conditions": None}}
    check_generator(build.build("ldm", config).eval(), sampling)


def test_the_starter_keeps_the_contract():
    model, _ = checkpoint.load(STARTER, "ldm")
    assert isinstance(model, Generator)
    check_generator(model, Sampling("ddim", 2, 1.0))


def test_a_check_leaves_a_generator_as_it_was():
    model = make(STATES, SIZES)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    check_generator(model)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


# --- what breaks it ---------------------------------------------------------------------------------------------------


class Changed(LatentDiffusion):
    """A generator of ours with one thing changed; built by its config like any."""


class OtherConfig(Changed):
    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.config = {**self.config, "denoiser": {**self.config["denoiser"], "hidden_dim": 16}}


class LooseWeights(Changed):
    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.prior = CrystalPrior(config["sizes"], self.conditions)


class OtherSizes(Changed):
    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.prior.propose_sizes = lambda count, *_: torch.full((count,), 99)  # type: ignore[method-assign]


class RandomStep(Changed):
    def step(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        mean, std = super().step(*args, **kwargs)
        return mean + 1e-3 * torch.randn(len(mean), 1, 1) * (mean != 0), std


class SeesTheBatch(Changed):
    def step(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        mean, std = super().step(x, *args, **kwargs)
        return mean * (1 + 1e-3 * x.mean()), std


class SeesPadding(Changed):
    def step(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        mean, std = super().step(x, *args, **kwargs)
        return mean * (1 + 1e-3 * x.shape[1]), std


class NoGradient(Changed):
    def step(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        mean, std = super().step(*args, **kwargs)
        return mean.detach(), std


class NoisyEnd(Changed):
    def step(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        mean, std = super().step(*args, **kwargs)
        return mean, std + 0.01


class AlwaysConditional(Changed):
    def step(
        self, x: Tensor, index: int, num_atoms: Tensor, *args: Any, conditions: ConditionBatch = NO_CONDITIONS
    ) -> tuple[Tensor, Tensor]:
        *args_, told = args if len(args) == 3 else (*args, conditions)
        mean, std = super().step(x, index, num_atoms, *args_, told)
        return mean + (0.01 * (mean != 0) if told.values else 0), std


class ShortChain(Changed):
    def transitions(self, *args: Any, **kwargs: Any) -> Iterator[Transition]:
        yield from list(super().transitions(*args, **kwargs))[1:]


class Unbound(Changed):
    def decode(self, x: Tensor, num_atoms: Tensor, conditions: ConditionBatch = NO_CONDITIONS) -> Crystals:
        return super().decode(x, num_atoms)


class OutsideTheCell(Changed):
    def decode(self, *args: Any, **kwargs: Any) -> Crystals:
        crystals = super().decode(*args, **kwargs)
        return crystals.replace(frac_coords=crystals.frac_coords + 1)


class Thawed(Changed):
    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.vae.requires_grad_(True)


class NoLoss(Changed):
    def loss(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().loss(*args, **kwargs) * torch.nan


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (OtherConfig, "other weights"),
        (LooseWeights, "the weights of the prior are not a parameter"),
        (OtherSizes, "a size that is not among its sizes"),
        (RandomStep, "the same seed gave other crystals"),
        (SeesTheBatch, "padding or its neighbours changed a crystal's step"),
        (SeesPadding, "padding or its neighbours changed a crystal's step"),
        (NoGradient, "has no gradient"),
        (NoisyEnd, "std must be zero at the last step"),
        (AlwaysConditional, "conditions that are not given changed a step"),
        (ShortChain, "the steps of the chain are"),
        (Unbound, "do not have the composition"),
        (OutsideTheCell, r"coordinates must be in \[0, 1\)"),
        (Thawed, "the autoencoder is not frozen"),
        (NoLoss, "the loss is not one finite number"),
    ],
)
def test_what_breaks_the_contract_is_found(changed: type[Changed], words: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(build.CLASSES[build.OURS], "ldm", f"{__name__}:{changed.__name__}")
    settings = STATES if changed is LooseWeights else SETTINGS
    denoiser = {"latent_dim": 4, "hidden_dim": 32, "num_blocks": 1, "num_heads": 4, "conditions": settings}
    config = {"vae": SMALL, "denoiser": denoiser, "diffusion": diffusion(100), "sizes": SIZES}
    torch.manual_seed(0)
    model = build.build("ldm", config).eval()
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    with pytest.raises(AssertionError, match=words):
        check_generator(model)


def test_the_prior_stays_the_generators_own(tmp_path: Path):
    """The generator's parameter and the prior's weights are one tensor after copying, moving and loading."""
    import copy

    model = make(STATES, SIZES)
    torch.nn.init.normal_(model.prior.weights)  # type: ignore[arg-type]
    twin = copy.deepcopy(model)
    assert twin.prior.weights is twin.draw_weights and twin.prior.weights is not model.prior.weights
    moved = copy.deepcopy(model).to(torch.float64)
    assert moved.prior.weights is moved.draw_weights
    checkpoint.save(tmp_path / "ldm", "ldm", model.config, model.state_dict(), {})
    loaded, _ = checkpoint.load(tmp_path / "ldm", "ldm")
    assert isinstance(loaded, LatentDiffusion)
    assert loaded.prior.weights is loaded.draw_weights
    assert torch.equal(loaded.prior.log_odds(), model.prior.log_odds())
