"""The RL step: what is drawn, what is learned from it, and what the first update sees."""

import copy
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from samples import diffusion, rl_settings, train_settings
from torch import Tensor

from chemeleon_cli.core.data.crystals import Crystals
from chemeleon_cli.core.models.generator import Sampling
from chemeleon_cli.core.models.latent_diffusion import LatentDiffusion
from chemeleon_cli.core.rl import step
from chemeleon_cli.core.training.trainer import Run

SMALL = {"hidden_dim": 32, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 1, "latent_dim": 4, "dropout": 0.0}
SAMPLING = Sampling("ddim", 8, 1.0)
ONES = torch.ones(2)


@dataclass(frozen=True)
class Verdict:
    total: Tensor
    impossible: Tensor
    raw: dict[str, Tensor]

    @property
    def worst(self) -> Tensor:
        return self.impossible


def prefer_large_cells(crystals: Crystals) -> Verdict:
    """A reward that a decoder can be steered to: the volume per atom."""
    value = (crystals.lengths.prod(1) / crystals.num_atoms).log().nan_to_num(0.0)
    return Verdict(value, torch.zeros(len(value), dtype=torch.bool), {"volume": value})


@pytest.fixture
def model() -> LatentDiffusion:
    torch.manual_seed(0)
    denoiser = {"latent_dim": 4, "hidden_dim": 32, "num_blocks": 2, "num_heads": 4}
    model = LatentDiffusion(SMALL, denoiser, diffusion(100), {"3": 1, "6": 1})
    for parameter in model.denoiser.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


def make_run(folder: Path, model: LatentDiffusion, **changes) -> Run:
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    options = {"max_steps": 30, "learning_rate": 3e-3, "precision": "float32", "log_every": 1, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    return Run(folder, "ldm", model, train_settings(**options), fabric, 0, {}, "val/reward", "max")


def test_a_group_shares_its_size_and_its_decisions_are_scored_by_the_policy_that_drew_them(model: LatentDiffusion):
    settings = rl_settings(num_group_samples=5, trajectory_steps=4)
    group = step.rollout_group(model, copy.deepcopy(model), settings, SAMPLING, torch.Generator().manual_seed(0))
    assert group.num_atoms.unique().numel() == 1
    assert len(group.decisions) == 4
    for decision in group.decisions:
        drawn = decision.transition
        assert drawn.index > 0, "the last step is deterministic and has no log-probability"
        wanted = torch.distributions.Normal(drawn.mean, drawn.std).log_prob(drawn.x_next).sum((1, 2))
        assert torch.allclose(decision.log_prob, wanted, rtol=1e-5)
        assert torch.equal(decision.base_mean, drawn.mean), "the base model is still the policy itself"


def test_all_steps_but_the_last_are_decisions_when_trajectory_steps_is_null(model: LatentDiffusion):
    settings = rl_settings(num_group_samples=2, trajectory_steps=None)
    group = step.rollout_group(model, model, settings, SAMPLING, torch.Generator().manual_seed(0))
    assert sorted(d.transition.index for d in group.decisions) == list(range(1, 8))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_first_update_sees_ratios_of_one(tmp_path: Path, model: LatentDiffusion, precision: str):
    run = make_run(tmp_path, model, precision=precision)
    settings = rl_settings(groups_per_step=2, num_group_samples=6, num_inner_batch=1, trajectory_steps=4)
    numbers = step.train_step(run, model, copy.deepcopy(model), prefer_large_cells, settings, SAMPLING)
    assert numbers["log_ratio_first"] < 1e-4
    assert numbers["ratio_mean"] == pytest.approx(1.0, abs=1e-4)
    assert numbers["clip_fraction"] == 0


def test_gradient_is_that_of_the_advantage_weighted_log_probability(model: LatentDiffusion):
    settings = rl_settings(num_group_samples=6, trajectory_steps=3, kl_weight=0.0)
    group = step.rollout_group(model, model, settings, SAMPLING, torch.Generator().manual_seed(0))
    advantage = torch.randn(6, generator=torch.Generator().manual_seed(1))
    step.accumulate(model, group, advantage, settings, SAMPLING, share=1.0)
    weight = model.denoiser.head.weight
    assert weight.grad is not None
    got = weight.grad.clone()
    weight.grad = None
    chain, loss = model.chain(SAMPLING), torch.zeros(())
    for decision in group.decisions:
        drawn = decision.transition
        mean, std = model.step(drawn.x, drawn.index, group.num_atoms, chain, SAMPLING)
        log_prob = torch.distributions.Normal(mean, std).log_prob(drawn.x_next).sum((1, 2))
        loss = loss - (advantage * log_prob).mean() / len(group.decisions)
    loss.backward()
    assert torch.allclose(got, weight.grad, rtol=1e-3, atol=1e-5)


def test_a_reward_is_learned(tmp_path: Path, model: LatentDiffusion):
    run = make_run(tmp_path, model)
    base = copy.deepcopy(model).requires_grad_(False)
    settings = rl_settings(
        groups_per_step=2, num_group_samples=32, num_inner_batch=2, trajectory_steps=4, kl_weight=1e-4
    )
    rewards = []
    for _ in run.steps():
        rewards.append(step.train_step(run, model, base, prefer_large_cells, settings, SAMPLING)["reward/volume"])
    spread = prefer_large_cells(
        model.sample(torch.full((64,), 6), SAMPLING, torch.Generator().manual_seed(5))
    ).total.std()
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.5 * spread


def test_kl_holds_the_policy_to_the_base(tmp_path: Path, model: LatentDiffusion):
    distances = {}
    start = copy.deepcopy(model)
    for weight in (0.0, 10.0):
        policy = copy.deepcopy(start)
        run = make_run(tmp_path / str(weight), policy, max_steps=8)
        settings = rl_settings(groups_per_step=2, num_group_samples=16, trajectory_steps=4, kl_weight=weight)
        for _ in run.steps():
            numbers = step.train_step(run, policy, start, prefer_large_cells, settings, SAMPLING)
        distances[weight] = numbers["kl"]
    assert distances[10.0] < 0.3 * distances[0.0]


def test_no_number_never_stops_a_run_nor_reaches_the_weights(tmp_path: Path, model: LatentDiffusion):
    def nothing(crystals: Crystals) -> Verdict:
        nan = torch.full((len(crystals),), torch.nan)
        return Verdict(nan, torch.zeros(len(crystals), dtype=torch.bool), {"x": nan})

    before = {k: v.clone() for k, v in model.denoiser.state_dict().items()}
    run = make_run(tmp_path, model)
    settings = rl_settings(groups_per_step=2, num_group_samples=4, trajectory_steps=2)
    numbers = step.train_step(run, model, copy.deepcopy(model), nothing, settings, SAMPLING)
    assert numbers["unscored"] == 1
    assert all(torch.equal(v, before[k]) for k, v in model.denoiser.state_dict().items())


def test_raw_reward_counts_impossible_as_the_worst_and_leaves_out_unscored():
    nan = torch.nan
    impossible = torch.tensor([False, False, True, False])
    verdict = Verdict(torch.zeros(4), impossible, {"a": torch.tensor([1.0, 3.0, nan, nan]), "b": torch.ones(4)})
    assert step.raw_reward(verdict, [1.0, 2.0]) == pytest.approx((1 + 3 + 1) / 3 + 2 * 1.0)
    assert step.raw_reward(verdict, [-1.0, 2.0]) == pytest.approx(-(1 + 3 + 3) / 3 + 2 * 1.0)


def test_what_only_watches_does_not_take_the_raw_reward_away():
    verdict = Verdict(torch.zeros(2), torch.zeros(2, dtype=torch.bool), {"a": torch.full((2,), torch.nan), "b": ONES})
    assert step.raw_reward(verdict, [0.0, 2.0]) == 2
    assert math.isnan(step.raw_reward(verdict, [1.0, 2.0]))


def test_groups_are_the_same_however_many_ranks_draw_them(tmp_path: Path, model: LatentDiffusion):
    run = make_run(tmp_path, model)
    settings = rl_settings(num_group_samples=3, trajectory_steps=2)
    first = step.rollout_group(model, model, settings, SAMPLING, run.generator(4))
    step.rollout_group(model, model, settings, SAMPLING, run.generator(5))
    again = step.rollout_group(model, model, settings, SAMPLING, run.generator(4))
    assert torch.equal(first.crystals.lattice, again.crystals.lattice)
