"""Oxidation states: of a formula, as a condition, and in the prior."""

import copy
import math
from pathlib import Path
from typing import Literal, cast

import pytest
import torch
from pymatgen.core import Composition, Lattice, Structure
from samples import rl_settings, rock_salt, write_dataset
from test_conditions import SETTINGS, SMALL, make, seeded
from test_rl import Verdict, make_run

from chemeleon_cli.core.conditions.base import ConditionBatch
from chemeleon_cli.core.conditions.kinds import fit_conditions, from_settings
from chemeleon_cli.core.conditions.oxidation_states import state_codes
from chemeleon_cli.core.conditions.requests import encode_requests
from chemeleon_cli.core.data.crystals import Crystals
from chemeleon_cli.core.data.dataset import load_split
from chemeleon_cli.core.data.validity import oxidation_states
from chemeleon_cli.core.models.generator import Generator, Sampling, sample_many
from chemeleon_cli.core.models.latent_diffusion import LatentDiffusion
from chemeleon_cli.core.models.latents import encode
from chemeleon_cli.core.models.prior import GAIN, Proposal
from chemeleon_cli.core.models.vae import VAE
from chemeleon_cli.core.rl import step
from chemeleon_cli.core.training import checkpoint
from chemeleon_cli.errors import UserError

KNOWN = {"-1 1": 6, "-1 1 -1 1": 3, "0 0 0 0 0": 1}
STATES = {"oxidation_states": {"kind": "oxidation_states", "known": KNOWN}}


@pytest.mark.parametrize(
    ("formula", "states"),
    [
        ("NaCl", {"Na": 1, "Cl": -1}),
        ("Sr2Ti2O6", {"Sr": 2, "Ti": 4, "O": -2}),
        ("MgAl2O4", {"Mg": 2, "Al": 3, "O": -2}),
        ("GaN", {"Ga": 3, "N": -3}),
        ("Fe3O4", {"Fe": pytest.approx(8 / 3), "O": -2}),
        ("TiAl3", {"Ti": 0, "Al": 0}),
        ("Si", {"Si": 0}),
        ("SeF", None),
        ("C72H88Zn4O13", None),  # too many ways to try
    ],
)
def test_states_of_well_known_compounds(formula: str, states: dict[str, float] | None):
    assert oxidation_states(Composition(formula)) == states


def test_states_as_codes_leave_none_out_and_stay_in_bounds():
    assert state_codes("-2 -2 4 x") == (5, 5, 11, 1)
    assert state_codes("-9 9") == state_codes("-5 8")
    assert len({state_codes(str(q)) for q in range(-5, 9)} | {state_codes("x")}) == 15


def test_a_table_knows_the_states_of_its_atoms(tmp_path: Path):
    pairs = (("Na", "Cl"), ("Mg", "O"), ("Ti", "Al"), ("Se", "F"), ("Na", "Cl"))
    crystals = [rock_salt(5.0, *pair) for pair in pairs]
    table = load_split(write_dataset(tmp_path / "data", crystals, {}, (1.0, 0)), "train")
    assert table is not None
    conditions = fit_conditions(table, {"oxidation_states": "oxidation_states"})
    known = conditions["oxidation_states"].settings["known"]
    assert known == {"-2 2": 1, "0 0": 1, "1 -1": 2}, "what balances can be proposed"
    batch = encode(VAE(**SMALL).eval(), table, 4, conditions).conditions_of(torch.arange(5))
    by_formula = dict(zip(table.formulas, batch.values["oxidation_states"].tolist(), strict=True))
    expected = {"NaCl": "1 -1", "MgO": "-2 2", "TiAl": "0 0", "SeF": "x x"}  # lightest element first
    assert by_formula == {formula: list(state_codes(text)) for formula, text in expected.items()}


def test_they_are_proposed_with_the_sizes_of_the_training_set():
    model = make(STATES, {"2": 6, "4": 3, "5": 1})
    proposal = model.prior.propose(4000, seeded())
    sizes, requests = proposal.num_atoms, proposal.requests
    texts = [str(request["oxidation_states"]) for request in requests]
    assert proposal.rows is not None and [list(KNOWN)[row] for row in proposal.rows.tolist()] == texts
    for text, count in KNOWN.items():
        assert texts.count(text) / 4000 == pytest.approx(count / 10, abs=0.03)
    assert sizes.tolist() == [len(text.split()) for text in texts]
    codes = model.encode_requests(requests[:50], sizes[:50]).values["oxidation_states"]
    assert [tuple(code for code in row if code) for row in codes.tolist()] == [state_codes(text) for text in texts[:50]]
    drawn = list(sample_many(model, sizes[:9], Sampling("ddim", 2, 1.0), seeded(), 4, requests[:9]))
    assert sorted(n for _, crystals in drawn for n in crystals.num_atoms.tolist()) == sorted(sizes[:9].tolist())


def test_beside_another_request_they_are_not_given():
    model = make({**SETTINGS, **STATES})
    for request in ({"gap": 3.0}, {"composition": "NaCl"}):
        proposal = model.prior.propose(20, seeded(), request)
        assert proposal.requests == [request] * 20 and proposal.rows is None
        assert torch.equal(proposal.num_atoms, model.prior.propose_sizes(20, seeded(), request))
    both = {"gap": 1.0, "oxidation_states": "-1 1 -1 1"}
    proposal = model.prior.propose(20, seeded(), both)
    assert proposal.num_atoms.tolist() == [4] * 20 and proposal.requests[0] == both and proposal.rows is None
    with pytest.raises(UserError, match="no crystal that the model was trained on has these oxidation states"):
        model.check_request({"oxidation_states": "-3 3"})
    with pytest.raises(UserError, match="no composition"):
        model.prior.propose(1, seeded(), {}, z=3)
    with pytest.raises(UserError, match="oxidation_states: found 2 atoms; they do not fit a crystal of 4"):
        encode_requests(from_settings(STATES), [{"oxidation_states": "-1 1"}], torch.tensor([4]))
    plain = make().prior
    assert torch.equal(plain.propose(50, seeded(4)).num_atoms, plain.propose_sizes(50, seeded(4)))


def test_mixed_valence_is_whole_charges_that_balance(tmp_path: Path):
    spread = [[i / 7, (3 * i % 7) / 7, (5 * i % 7) / 7] for i in range(7)]
    magnetite = Structure(Lattice.cubic(7), ["Fe"] * 3 + ["O"] * 4, spread)
    table = load_split(write_dataset(tmp_path / "data", [magnetite], {}, (1.0, 0)), "train")
    assert table is not None
    condition = fit_conditions(table, {"oxidation_states": "oxidation_states"})["oxidation_states"]
    (text,) = condition.settings["known"]
    assert text == "-2 -2 -2 -2 2 3 3"


def test_null_leaves_them_open():
    prior = make({**SETTINGS, **STATES}).prior
    proposal = prior.propose(30, seeded(), {"oxidation_states": None})
    assert proposal.requests == [{}] * 30 and torch.equal(proposal.num_atoms, prior.propose_sizes(30, seeded()))
    requests = prior.propose(30, seeded(), {"gap": None}).requests
    assert all(request["oxidation_states"] in KNOWN for request in requests)


def test_fine_tuning_keeps_what_was_learned_of_them():
    source = make({**SETTINGS, **STATES})
    assert source.denoiser.conditions is not None
    torch.nn.init.normal_(source.denoiser.conditions.missing)
    x, t, n = torch.randn(2, 2, 4, generator=seeded()), torch.tensor([3, 60]), torch.tensor([2, 2])
    for settings in ({}, STATES, {"gap": SETTINGS["gap"], **STATES}):
        other = LatentDiffusion.fine_tuned_from(source, from_settings(settings), {"2": 1})
        assert torch.allclose(other.denoiser(x, t, n), source.denoiser(x, t, n), atol=1e-5)
        if settings:
            requests = [{"oxidation_states": "-1 1"}] * 2
            told, before = (m.denoiser(x, t, n, m.encode_requests(requests, n)) for m in (other, source))
            assert torch.allclose(told, before, atol=1e-5)
            assert not torch.allclose(told, other.denoiser(x, t, n), atol=1e-3)


def test_a_group_shares_its_states_and_its_base_is_told_the_same():
    model = make(STATES, {"2": 6, "4": 3, "5": 1})
    settings = rl_settings(num_group_samples=3, trajectory_steps=2)
    texts = set()
    for seed in range(8):
        group = step.rollout_group(model, copy.deepcopy(model), settings, Sampling("ddim", 4, 1.0), seeded(seed))
        (codes,) = {tuple(row) for row in group.conditions.values["oxidation_states"].tolist()}
        assert len(codes) == int(group.num_atoms[0])
        texts.add(codes)
        for decision in group.decisions:
            assert torch.equal(decision.base_mean, decision.transition.mean)
    assert 1 < len(texts) <= 3


def test_the_odds_are_those_of_the_training_set_times_what_was_learned():
    model = make(STATES)
    prior = model.prior
    assert prior.log_odds().exp().tolist() == pytest.approx([0.6, 0.3, 0.1])
    assert prior.weights is not None
    weights = {-1: 0.02, 0: -0.03, 1: 0.01}
    for state, weight in weights.items():
        prior.weights.data[state_codes(str(state))[0]] = weight
    odds = []
    for text, count in KNOWN.items():
        states = [int(word) for word in text.split()]
        odds.append(count * math.exp(GAIN * sum(weights[q] for q in states) / len(states)))
    assert prior.log_odds().exp().tolist() == pytest.approx([odd / sum(odds) for odd in odds], rel=1e-5)
    texts = [request["oxidation_states"] for request in prior.propose(4000, seeded()).requests]
    assert texts.count("-1 1") / 4000 == pytest.approx(odds[0] / sum(odds), abs=0.03)
    other, new = (LatentDiffusion.fine_tuned_from(m, from_settings(STATES), {"2": 1}).prior for m in (model, make()))
    assert torch.equal(other.log_odds(), prior.log_odds())
    assert new.log_odds().exp().tolist() == pytest.approx([0.6, 0.3, 0.1])


@pytest.mark.parametrize(("reduce", "count"), [("sum", 1), ("mean", 4 * 4)])
def test_the_gradient_of_the_prior_is_that_of_reinforce_and_of_the_kl(reduce: Literal["sum", "mean"], count: int):
    model = make(STATES)
    frozen, prior = copy.deepcopy(model), model.prior
    base = prior.log_odds().detach()
    assert prior.weights is not None
    torch.nn.init.normal_(prior.weights, std=0.01)
    log_odds = prior.log_odds().detach()
    prior.learn()
    proposal = Proposal(torch.tensor([4]), [{"oxidation_states": "-1 1 -1 1"}], torch.tensor([1]))
    decision = step.PriorDecision(proposal, log_odds[[1]])
    crystals = model.sample(torch.tensor([4]), Sampling("ddim", 2, 1.0), seeded())
    group = step.Group(torch.tensor([4]), [], crystals, prior_decision=decision)
    settings = rl_settings(kl_weight=0.3, log_prob=reduce)
    info = step.accumulate_prior(model, frozen, group, torch.tensor(0.7), settings, 0.5)
    p = log_odds.exp()
    assert info["prior_kl"] == pytest.approx((p * (log_odds - base)).sum().item(), rel=1e-4)
    centred = prior.shares - p @ prior.shares  # (K, C): the derivative of each log-probability
    of_kl = (p * (log_odds - base)) @ centred
    expected = step.PRIOR_SCALE * GAIN * 0.5 * (-0.7 * centred[1] + 0.3 * of_kl)
    assert prior.weights.grad is not None
    assert torch.allclose(prior.weights.grad, expected / count, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("conditions", "learnt", "learns"),
    [
        ([], True, True),
        ([], False, False),
        ([{"oxidation_states": "-1 1"}, {"oxidation_states": None}], True, False),
        ([None, {"oxidation_states": "-1 1"}], True, True),
    ],
)
def test_the_prior_learns_from_what_it_samples_and_not_from_requests(
    tmp_path: Path, conditions: list, learnt: bool, learns: bool
):
    model = make(STATES, {"2": 1, "4": 1})
    base = copy.deepcopy(model).requires_grad_(False)
    if learnt:
        model.prior.learn()
    run = make_run(tmp_path, model, max_steps=12)

    def prefer_metals(crystals: Crystals) -> Verdict:
        value = (crystals.num_atoms == 5).float()
        return Verdict(value, torch.zeros(len(value), dtype=torch.bool), {"metal": value})

    settings = rl_settings(groups_per_step=8, num_group_samples=2, trajectory_steps=1, conditions=conditions)
    for _ in run.steps():
        numbers = step.train_step(run, model, base, prefer_metals, settings, Sampling("ddim", 3, 1.0))
    assert ("prior_kl" in numbers) is learns
    metals = model.prior.log_odds().exp()[2].item()
    assert metals > 0.5 if learns else metals == pytest.approx(0.1)


def test_what_the_prior_has_learned_is_kept_in_the_checkpoint(tmp_path: Path):
    model = make(STATES)
    prior = model.prior
    prior.learn()
    run = make_run(tmp_path, model)
    assert prior.weights is not None
    torch.nn.init.normal_(prior.weights, std=0.01)
    run.save("last")
    loaded, _ = checkpoint.load(tmp_path / "checkpoints" / "last", "ldm")
    assert torch.equal(cast(Generator, loaded).prior.log_odds(), prior.log_odds())
    odds = prior.log_odds().detach()
    prior.weights.data.zero_()
    run.resume()
    assert torch.equal(prior.log_odds(), odds)


def test_each_atom_learns_from_its_own_state():
    """Latents that are an atom's charge: told the charges, the model samples them atom by atom."""
    settings = {"oxidation_states": {"kind": "oxidation_states", "known": {"-1 1": 1, "1 -1": 1}}}
    model = make(settings, {"2": 1}, beta_end=0.2)  # noise at the end
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=3e-3)
    n, generator = torch.full((64,), 2), seeded(1)
    for _ in range(150):
        charge = (torch.randint(2, (64, 1), generator=generator) * 2 - 1) * torch.tensor([1, -1])
        x = charge.unsqueeze(-1) + 0.1 * torch.randn(64, 2, 4, generator=generator)
        codes = torch.tensor([state_codes(f"{a} {b}") for a, b in charge.tolist()])
        optimizer.zero_grad()
        model.loss(x, n, generator, ConditionBatch({"oxidation_states": codes})).backward()
        optimizer.step()
    proposal = model.prior.propose(64, seeded())
    batch = model.encode_requests(proposal.requests, proposal.num_atoms)
    *_, last = model.transitions(proposal.num_atoms, Sampling("ddim", 20, 1.0), seeded(2), batch)
    charge = torch.tensor([[int(q) for q in request["oxidation_states"].split()] for request in proposal.requests])
    assert ((last.x_next.mean(-1) > 0) == (charge > 0)).float().mean() > 0.9
