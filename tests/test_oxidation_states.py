"""Oxidation states: of a formula, as a condition, and drawn where nothing is asked for."""

import copy
import math
from pathlib import Path
from typing import Literal, cast

import pytest
import torch
from pymatgen.core import Composition, Lattice, Structure
from samples import rock_salt, write_dataset
from test_conditions import SETTINGS, SMALL, make, seeded
from test_rl import Verdict, make_run

from chemeleon_cli.core.conditions.conditions import Said, encode, state_codes
from chemeleon_cli.core.data.crystals import Crystals
from chemeleon_cli.core.data.dataset import load_split
from chemeleon_cli.core.data.validity import oxidation_states
from chemeleon_cli.core.models.generator import DRAW_GAIN, LatentDiffusion, Sampling, sample_many
from chemeleon_cli.core.models.latents import encode as encode_table
from chemeleon_cli.core.models.latents import learn
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


def test_a_table_says_the_states_of_its_atoms(tmp_path: Path):
    pairs = (("Na", "Cl"), ("Mg", "O"), ("Ti", "Al"), ("Se", "F"), ("Na", "Cl"))
    crystals = [rock_salt(5.0, *pair) for pair in pairs]
    table = load_split(write_dataset(tmp_path / "data", crystals, {}, (1.0, 0)), "train")
    assert table is not None
    settings = learn(table, {"oxidation_states": "oxidation_states"})
    assert settings["oxidation_states"]["known"] == {"-2 2": 1, "0 0": 1, "1 -1": 2}, "what balances can be drawn"
    said = encode_table(VAE(**SMALL).eval(), table, 4, settings).said(torch.arange(5))
    by_formula = dict(zip(table.formulas, said.values["oxidation_states"].tolist(), strict=True))
    expected = {"NaCl": "1 -1", "MgO": "-2 2", "TiAl": "0 0", "SeF": "x x"}  # lightest element first
    assert by_formula == {formula: list(state_codes(text)) for formula, text in expected.items()}


def test_they_are_drawn_with_the_sizes_of_the_training_set():
    model = make(STATES, {"2": 6, "4": 3, "5": 1})
    sizes, asked = model.draw(4000, seeded())
    texts = [str(wanted["oxidation_states"]) for wanted in asked]
    for text, count in KNOWN.items():
        assert texts.count(text) / 4000 == pytest.approx(count / 10, abs=0.03)
    assert sizes.tolist() == [len(text.split()) for text in texts]
    said = model.say(asked[:50], sizes[:50]).values["oxidation_states"]
    assert [tuple(code for code in row if code) for row in said.tolist()] == [state_codes(text) for text in texts[:50]]
    drawn = list(sample_many(model, sizes[:9], Sampling("ddim", 2), seeded(), 4, asked[:9]))
    assert sorted(n for _, crystals in drawn for n in crystals.num_atoms.tolist()) == sorted(sizes[:9].tolist())


def test_beside_another_wish_they_stay_unsaid_and_a_model_without_them_draws_as_ever():
    model = make({**SETTINGS, **STATES})
    for wanted in ({"gap": 3.0}, {"composition": "NaCl"}):
        sizes, asked = model.draw(20, seeded(), wanted)
        assert asked == [wanted] * 20
        assert torch.equal(sizes, model.draw_sizes(20, seeded(), wanted))
    sizes, asked = model.draw(20, seeded(), {"gap": 1.0, "oxidation_states": "-1 1 -1 1"})
    assert sizes.tolist() == [4] * 20 and asked[0] == {"gap": 1.0, "oxidation_states": "-1 1 -1 1"}
    with pytest.raises(UserError, match="no crystal that the model was trained on has these oxidation states"):
        model.check({"oxidation_states": "-3 3"})
    with pytest.raises(UserError, match="no composition"):
        model.draw(1, seeded(), {}, z=3)
    with pytest.raises(UserError, match="oxidation_states: found 2 atoms; they do not fit a crystal of 4"):
        encode(STATES, [{"oxidation_states": "-1 1"}], torch.tensor([4]))
    plain = make()
    assert torch.equal(plain.draw(50, seeded(4))[0], plain.draw_sizes(50, seeded(4)))


def test_mixed_valence_is_whole_charges_that_balance(tmp_path: Path):
    spread = [[i / 7, (3 * i % 7) / 7, (5 * i % 7) / 7] for i in range(7)]
    magnetite = Structure(Lattice.cubic(7), ["Fe"] * 3 + ["O"] * 4, spread)
    table = load_split(write_dataset(tmp_path / "data", [magnetite], {}, (1.0, 0)), "train")
    assert table is not None
    (text,) = learn(table, {"oxidation_states": "oxidation_states"})["oxidation_states"]["known"]
    assert text == "-2 -2 -2 -2 2 3 3"


def test_null_leaves_them_open():
    model = make({**SETTINGS, **STATES})
    sizes, asked = model.draw(30, seeded(), {"oxidation_states": None})
    assert asked == [{}] * 30 and torch.equal(sizes, model.draw_sizes(30, seeded()))
    _, asked = model.draw(30, seeded(), {"gap": None})
    assert all(wanted["oxidation_states"] in KNOWN for wanted in asked)


def test_a_generator_that_goes_on_keeps_what_it_learned_of_them():
    source = make({**SETTINGS, **STATES})
    assert source.denoiser.conditions is not None
    torch.nn.init.normal_(source.denoiser.conditions.missing)
    x, t, n = torch.randn(2, 2, 4, generator=seeded()), torch.tensor([3, 60]), torch.tensor([2, 2])
    for settings in ({}, STATES, {"gap": SETTINGS["gap"], **STATES}):
        other = source.going_on(settings, {"2": 1})
        assert torch.allclose(other.denoiser(x, t, n), source.denoiser(x, t, n), atol=1e-5)
        if settings:
            wanted = [{"oxidation_states": "-1 1"}] * 2
            told, before = (m.denoiser(x, t, n, m.say(wanted, n)) for m in (other, source))
            assert torch.allclose(told, before, atol=1e-5)
            assert not torch.allclose(told, other.denoiser(x, t, n), atol=1e-3)


def test_a_group_has_one_draw_and_its_base_is_told_the_same():
    model = make(STATES, {"2": 6, "4": 3, "5": 1})
    settings = step.Settings(num_group_samples=3, trajectory_steps=2)
    texts = set()
    for seed in range(8):
        group = step.rollout_group(model, copy.deepcopy(model), settings, Sampling("ddim", 4), seeded(seed))
        (codes,) = {tuple(row) for row in group.said.values["oxidation_states"].tolist()}
        assert len(codes) == int(group.num_atoms[0])
        texts.add(codes)
        for decision in group.decisions:
            assert torch.equal(decision.base_mean, decision.transition.mean)
    assert 1 < len(texts) <= 3


def test_the_odds_are_those_of_the_training_set_times_what_was_learned():
    model = make(STATES)
    assert model.log_odds().exp().tolist() == pytest.approx([0.6, 0.3, 0.1])
    assert model.draw_weights is not None
    wanted = {-1: 0.02, 0: -0.03, 1: 0.01}
    for state, weight in wanted.items():
        model.draw_weights.data[state_codes(str(state))[0]] = weight
    odds = []
    for text, count in KNOWN.items():
        states = [int(word) for word in text.split()]
        odds.append(count * math.exp(DRAW_GAIN * sum(wanted[q] for q in states) / len(states)))
    assert model.log_odds().exp().tolist() == pytest.approx([odd / sum(odds) for odd in odds], rel=1e-5)
    texts = [asked["oxidation_states"] for asked in model.draw(4000, seeded())[1]]
    assert texts.count("-1 1") / 4000 == pytest.approx(odds[0] / sum(odds), abs=0.03)
    assert torch.equal(model.going_on(STATES, {"2": 1}).draw_weights, model.draw_weights)  # type: ignore[arg-type]
    assert make().going_on(STATES, {"2": 1}).log_odds().exp().tolist() == pytest.approx([0.6, 0.3, 0.1])


@pytest.mark.parametrize(("reduce", "count"), [("sum", 1), ("mean", 4 * 4)])
def test_the_gradient_of_a_draw_is_that_of_reinforce_and_of_the_kl(reduce: Literal["sum", "mean"], count: int):
    model = make(STATES)
    base = model.log_odds().detach()
    assert model.draw_weights is not None
    torch.nn.init.normal_(model.draw_weights, std=0.01)
    log_odds = model.log_odds().detach()
    model.draw_weights.requires_grad_(True)
    draw = step.Draw(1, log_odds[1], base)
    crystals = model.sample(torch.tensor([4]), Sampling("ddim", 2), seeded())
    group = step.Group(torch.tensor([4]), [], crystals, draw=draw)
    info = step.accumulate_draw(model, group, torch.tensor(0.7), step.Settings(kl_weight=0.3, log_prob=reduce), 0.5)
    p = log_odds.exp()
    assert info["draw_kl"] == pytest.approx((p * (log_odds - base)).sum().item(), rel=1e-4)
    centred = model.draw_shares - p @ model.draw_shares  # (K, C): the derivative of each log-probability
    of_kl = (p * (log_odds - base)) @ centred
    expected = step.DRAW_SCALE * DRAW_GAIN * 0.5 * (-0.7 * centred[1] + 0.3 * of_kl)
    assert model.draw_weights.grad is not None
    assert torch.allclose(model.draw_weights.grad, expected / count, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("conditions", "learnt", "learns"),
    [
        ([], True, True),
        ([], False, False),
        ([{"oxidation_states": "-1 1"}, {"oxidation_states": None}], True, False),
        ([None, {"oxidation_states": "-1 1"}], True, True),
    ],
)
def test_what_is_drawn_is_learned_and_what_is_asked_for_is_not(
    tmp_path: Path, conditions: list, learnt: bool, learns: bool
):
    model = make(STATES, {"2": 1, "4": 1})
    assert model.draw_weights is not None
    model.draw_weights.requires_grad_(learnt)
    base = copy.deepcopy(model).requires_grad_(False)
    run = make_run(tmp_path, model, max_steps=12)

    def prefer_metals(crystals: Crystals) -> Verdict:
        value = (crystals.num_atoms == 5).float()
        return Verdict(value, torch.zeros(len(value), dtype=torch.bool), {"metal": value})

    settings = step.Settings(groups_per_step=8, num_group_samples=2, trajectory_steps=1, conditions=conditions)
    for _ in run.steps():
        numbers = step.train_step(run, model, base, prefer_metals, settings, Sampling("ddim", 3))
    assert ("draw_kl" in numbers) is learns
    metals = model.log_odds().exp()[2].item()
    assert metals > 0.5 if learns else metals == pytest.approx(0.1)


def test_what_was_learned_of_the_draw_is_kept_in_the_checkpoint(tmp_path: Path):
    model = make(STATES)
    assert model.draw_weights is not None
    model.draw_weights.requires_grad_(True)
    run = make_run(tmp_path, model)
    torch.nn.init.normal_(model.draw_weights, std=0.01)
    run.save("last")
    loaded, _ = checkpoint.load(tmp_path / "checkpoints" / "last", "ldm")
    assert torch.equal(cast(LatentDiffusion, loaded).log_odds(), model.log_odds())
    odds = model.log_odds().detach()
    model.draw_weights.data.zero_()
    run.resume()
    assert torch.equal(model.log_odds(), odds)


def test_each_atom_learns_from_its_own_state():
    """Latents that are an atom's charge: told the charges, the model draws them atom by atom."""
    settings = {"oxidation_states": {"kind": "oxidation_states", "known": {"-1 1": 1, "1 -1": 1}}}
    model = make(settings, {"2": 1}, beta_end=0.2)  # noise at the end
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=3e-3)
    n, generator = torch.full((64,), 2), seeded(1)
    for _ in range(150):
        charge = (torch.randint(2, (64, 1), generator=generator) * 2 - 1) * torch.tensor([1, -1])
        x = charge.unsqueeze(-1) + 0.1 * torch.randn(64, 2, 4, generator=generator)
        codes = torch.tensor([state_codes(f"{a} {b}") for a, b in charge.tolist()])
        optimizer.zero_grad()
        model.loss(x, n, generator, Said({"oxidation_states": codes})).backward()
        optimizer.step()
    sizes, asked = model.draw(64, seeded())
    *_, last = model.transitions(sizes, Sampling("ddim", 20), seeded(2), model.say(asked, sizes))
    charge = torch.tensor([[int(q) for q in wanted["oxidation_states"].split()] for wanted in asked])
    assert ((last.x_next.mean(-1) > 0) == (charge > 0)).float().mean() > 0.9
