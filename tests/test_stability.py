"""Facts of energy and novelty, the rewards made of them, and the guards."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from levels import HULL, Levels, hull, relax_levels
from pymatgen.core import Lattice, Structure
from samples import body_centred, rock_salt, zinc_blende

from chemeleon_cli.core.potentials import relaxation
from chemeleon_cli.core.potentials.relaxation import Relaxed
from chemeleon_cli.core.rewards import (
    CreativityReward,
    EnergyReward,
    EnergySettings,
    ReinforceReward,
    Relaxation,
    check_reward,
)
from chemeleon_cli.core.rl import step
from chemeleon_cli.core.rl.grpo import group_advantage
from chemeleon_cli.core.scoring.candidates import Candidates
from chemeleon_cli.core.scoring.context import ScoringContext
from chemeleon_cli.core.scoring.loading import load_context
from chemeleon_cli.core.scoring.matching import Reference
from chemeleon_cli.core.scoring.novelty import Memory
from chemeleon_cli.errors import UserError

SALT = rock_salt(5.6)
CESIUM = body_centred(4.1, "Cs", "Cl")
BLENDE = zinc_blende(5.4)
IRON = body_centred(2.87, "Fe", "Fe")
ODD = Structure(Lattice.cubic(4.0), ["Na", "Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]])
FLUORIDE = body_centred(4.0, "Cs", "F")
MAGNESIA = rock_salt(4.2, "Mg", "O")
CRUSHED = Structure(Lattice.cubic(1.0), ["Fe"], [[0, 0, 0]])
NEAR = Structure(Lattice.cubic(5.0), ["Na", "Cl"], [[0, 0, 0], [0, 0, 0.05]])
ALL = [SALT, CESIUM, BLENDE, IRON, ODD, FLUORIDE, CRUSHED, NEAR, None, MAGNESIA]
LEVELS = {"NaCl": -1.9, "CsCl": -2.6, "ZnS": -0.8, "Fe": 0.0, "Na2Cl": -1.2, "CsF": -2.0}
BOTH = {"components": [{"type": "creativity"}, {"type": "energy"}]}


@pytest.fixture(autouse=True)
def _relaxing_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaxation, "relax", relax_levels)


def context(**changes: Any) -> ScoringContext:
    known: dict[str | None, Reference] = {None: Reference.from_structures([SALT, BLENDE])}
    return replace(ScoringContext(energy_model=Levels(LEVELS), hull=hull(), known=known), **changes)


def strain(s: Structure) -> float:
    return 0.1 * abs(s.volume / len(s) / 20 - 1)


def test_energies_and_distances_from_the_hull() -> None:
    candidates = Candidates(ALL, context())
    energies, above = candidates.energy_per_atom, candidates.e_above_hull
    assert energies.dtype == above.dtype == torch.float64
    assert energies[0].item() == pytest.approx(-1.9 + strain(SALT))
    assert above[0].item() == pytest.approx(0.1 + strain(SALT))
    assert above[2].item() == pytest.approx(0.2 + strain(BLENDE))
    assert above.isnan().tolist() == [False, True, False, False, False, True, True, True, True, True]
    notes = candidates.notes["e_above_hull"]
    assert notes.keys() == {1, 5, 9}
    assert notes[1].startswith("hole: 0.5")
    assert notes[5] == "sparse: no reference for F"
    assert notes[9] == "no energy of MgO"
    _ = candidates.e_above_hull, candidates.potential_hole
    assert candidates.context.energy_model.calls == 1  # type: ignore[union-attr]


def test_every_guard_has_a_name() -> None:
    guards = Candidates(ALL, context()).guards
    fired = {name: values.nonzero().flatten().tolist() for name, values in guards.items()}
    assert fired == {
        "too_close": [7],
        "bad_cell": [6],
        "charge_imbalance": [4],
        "single_element": [3],
        "sparse_hull": [5, 9],
        "uncharted_alloy": [],
        "potential_hole": [1],
    }
    without = Candidates(ALL, context(hull=None)).guards
    assert list(without) == ["too_close", "bad_cell", "charge_imbalance", "single_element"]


def test_what_is_missing_is_said() -> None:
    with pytest.raises(UserError, match="need a potential"):
        _ = Candidates([SALT]).energy_per_atom
    with pytest.raises(UserError, match="need a hull"):
        _ = Candidates([SALT], context(hull=None)).e_above_hull
    with pytest.raises(UserError, match="needs a reference set"):
        _ = Candidates([SALT]).unique
    with pytest.raises(UserError, match="relaxing needs"):
        _ = Candidates([SALT], context()).relaxed


def test_relaxed_crystals_are_candidates_and_what_is_lost_says_why() -> None:
    candidates = Candidates([SALT, None, IRON, BLENDE, CRUSHED], context(relax=Relaxation(steps=10)))
    relaxed = candidates.relaxed
    assert relaxed.e_above_hull.nan_to_num(9).tolist() == pytest.approx([0.1, 9, 9, 0.2, 9])
    assert candidates.e_above_hull[0].item() == pytest.approx(0.1 + strain(SALT))
    assert relaxed.notes["e_above_hull"] == {2: "relaxation: it fell apart"}
    assert candidates.notes["relaxation"] == {2: "it fell apart"}
    hasty = Candidates([SALT], context(relax=Relaxation(steps=3)))
    assert hasty.relaxed.valid.tolist() == [True]
    assert hasty.notes["relaxation"] == {0: "not converged in 3 steps"}


def test_the_energy_reward_is_clipped_and_of_relaxed_crystals_where_the_run_relaxes() -> None:
    far = context(energy_model=Levels({**LEVELS, "ZnS": 3.0, "NaCl": -2.3}))
    values = EnergyReward().compute(Candidates([SALT, BLENDE, FLUORIDE], far))
    assert values.nan_to_num(9).tolist() == [0, -1, 9]
    free = EnergyReward(clip_min=None, clip_max=None).compute(Candidates([SALT, BLENDE], far))
    assert free.tolist() == pytest.approx([0.3 - strain(SALT), -4.0 - strain(BLENDE)])
    candidates = Candidates([SALT, IRON], context(relax=Relaxation(steps=10)))
    assert EnergyReward().compute(candidates).nan_to_num(9).tolist() == pytest.approx([-0.1, 9])
    assert candidates.notes["energy"] == {1: "relaxation: it fell apart"}
    assert EnergyReward(clip_min=1, clip_max=0).check(lambda name, kind: Path(name))[0][0] == "clip_min"


def test_creativity_is_that_of_novelty_against_the_named_set() -> None:
    other = {"other": Reference.from_structures([CESIUM])}
    candidates = Candidates([SALT, SALT * (1, 1, 2), CESIUM, None], context(known={**context().known, **other}))
    values = CreativityReward().compute(candidates)
    assert values.nan_to_num(9).tolist() == pytest.approx([0, 0, 1, 9], abs=1e-6)
    assert sorted(candidates.unique[:2], key=bool) == [False, True]
    assert candidates.novel == [False, False, True, None]
    named = CreativityReward(reference_dataset="other").compute(candidates)
    assert sorted(named[:2].tolist()) == pytest.approx([0, 1], abs=1e-6)
    assert named[2].item() == pytest.approx(0, abs=1e-6)
    assert candidates.uniqueness.groups == [0, 0, 1, -1]
    assert CreativityReward(reference_dataset="nowhere").check(lambda n, k: Path(n))[0][0] == "reference_dataset"


def test_of_duplicates_the_one_of_lowest_energy_is_unique() -> None:
    swollen = SALT.copy()
    swollen.scale_lattice(SALT.volume * 1.05)
    better = strain(SALT) < strain(swollen)
    assert Candidates([SALT, swollen], context()).unique == [better, not better]
    assert Candidates([swollen, SALT], context()).unique == [not better, better]


def test_where_the_run_relaxes_creativity_is_of_the_relaxed_crystal(monkeypatch: pytest.MonkeyPatch) -> None:
    sheared = Structure(Lattice.from_parameters(4, 4, 4, 75, 80, 95), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.45, 0.4]])
    assert CreativityReward().compute(Candidates([sheared], context())).tolist() == [1]
    relaxing = context(relax=Relaxation(steps=10))
    with monkeypatch.context() as patch:
        healed = Relaxed(SALT.copy(), -1.9 * len(SALT), 0.01, 5, True)
        patch.setattr(relaxation, "relax", lambda potential, structures, fmax, steps: [healed for _ in structures])
        assert CreativityReward().compute(Candidates([sheared], relaxing)).item() < 1
    lost = Candidates([IRON], relaxing)
    assert CreativityReward().compute(lost).isnan().all()
    assert lost.notes["creativity"] == {0: "relaxation: no structure"}


def test_an_alloy_that_the_hull_does_not_know_can_be_guarded_against() -> None:
    alloy = body_centred(3.0, "Fe", "Zn")
    loaded = context(energy_model=Levels({**LEVELS, "ZnFe": -0.2}))
    candidates = Candidates([alloy, SALT, BLENDE], loaded)
    assert candidates.guards["uncharted_alloy"].tolist() == [True, False, False]
    assert candidates.e_above_hull[0] < 0
    open_handed = ReinforceReward.model_validate(BOTH)
    careful = ReinforceReward.model_validate({**BOTH, "guards": ["uncharted_alloy"]})
    assert open_handed(Candidates([alloy, SALT, BLENDE], loaded)).total.isnan().tolist() == [False, False, False]
    assert careful(candidates).total.isnan().tolist() == [True, False, False]
    assert candidates.notes["reward"] == {0: "uncharted_alloy"}
    diverse = {"components": [{"type": "composition_diversity"}], "guards": ["uncharted_alloy"]}
    (where, text), *_ = ReinforceReward.model_validate(diverse).check(find)
    assert where == ("guards",)
    assert "needs energy_model and hull" in text


def test_the_memory_of_a_run_makes_the_second_time_a_repetition() -> None:
    remembering = context(memory=Memory())
    first = Candidates([CESIUM, SALT], remembering)
    assert CreativityReward().compute(first)[0] == 1
    assert remembering.memory is not None
    remembering.memory.update(first.canonical, first.unique)
    second = Candidates([CESIUM * (2, 1, 1), FLUORIDE], remembering)
    assert second.unique == [False, True]
    assert CreativityReward().compute(second).tolist() == pytest.approx([0, 1], abs=1e-6)
    assert Candidates([CESIUM], context()).unique == [True]


@pytest.mark.parametrize("component", [CreativityReward(), EnergyReward(), EnergyReward(clip_min=None, clip_max=None)])
@pytest.mark.parametrize("relax", [None, Relaxation(steps=10)])
def test_the_rewards_keep_the_contract(component: Any, relax: Relaxation | None) -> None:
    check_reward(component, [SALT, CESIUM, BLENDE, IRON, SALT * (1, 1, 2)], context(relax=relax))


def test_guards_leave_a_crystal_unscored_and_can_be_switched_off() -> None:
    reward = ReinforceReward.model_validate(BOTH)
    candidates = Candidates(ALL, context())
    scores = reward(candidates)
    assert scores.impossible.nonzero().flatten().tolist() == [6, 7, 8]
    assert scores.total.isfinite().nonzero().flatten().tolist() == [0, 2]
    assert candidates.notes["reward"] == {4: "charge_imbalance", 3: "single_element"}
    assert scores.raw["creativity"].isnan()[[3, 4]].all()
    open_ = ReinforceReward.model_validate({**BOTH, "guards": []})(Candidates(ALL, context()))
    assert open_.total.isfinite().nonzero().flatten().tolist() == [0, 2, 3, 4]
    advantage = group_advantage(scores.total, scores.impossible, len(ALL))
    assert advantage.isfinite().all()
    assert advantage[6] == advantage[[0, 2]].min()
    assert advantage[4].item() == pytest.approx(0, abs=1e-6)


def test_what_is_refused_is_the_worst_of_its_group() -> None:
    refusing = {**BOTH, "guards": ["charge_imbalance"], "refused": ["single_element"]}
    candidates = Candidates(ALL, context())
    scores = ReinforceReward.model_validate(refusing)(candidates)
    assert scores.refused.nonzero().flatten().tolist() == [3]
    assert scores.worst.nonzero().flatten().tolist() == [3, 6, 7, 8]
    assert scores.total.isfinite().nonzero().flatten().tolist() == [0, 2]
    assert candidates.notes["reward"] == {4: "charge_imbalance", 3: "single_element"}
    advantage = group_advantage(scores.total, scores.worst, len(ALL))
    assert advantage[3] == advantage[6] == advantage[[0, 2]].min()
    guarded = ReinforceReward.model_validate(BOTH)(Candidates(ALL, context()))
    assert step.raw_reward(scores, [1, 1]) < step.raw_reward(guarded, [1, 1])
    (path, said), *_ = ReinforceReward.model_validate({**BOTH, "refused": ["single_element"]}).check(find)
    assert path == ("guards",)
    assert said.startswith("found single_element (by default), which is refused as well")
    lopsided = {"components": [{"type": "charge_balance"}], "guards": [], "refused": ["charge_imbalance"]}
    ((path, said),) = ReinforceReward.model_validate(lopsided).check(find)
    assert path == ("refused",)
    assert said.startswith("found charge_imbalance, which leaves unscored")


def find(name: str, kind: str) -> Path:
    return Path(name)


@pytest.mark.parametrize("broken", ["energies", "hull", "everything"])
def test_no_number_anywhere_never_stops_a_run(broken: str) -> None:
    model = Levels({} if broken != "hull" else LEVELS)
    poor = context(energy_model=model, hull=hull({"Xe": 0.0}))
    structures = [None, CRUSHED] if broken == "everything" else ALL
    scores = ReinforceReward.model_validate(BOTH)(Candidates(structures, poor))
    assert scores.total.isnan().all()
    advantage = group_advantage(scores.total, scores.impossible, len(structures))
    assert advantage.tolist() == [0] * len(structures)
    assert math.isnan(scores.raw_means()["energy"])


def write(folder: Path, scale: str = "PBE/MP2020") -> Path:
    from chemeleon_cli.core.scoring.hull import Hull

    folder.mkdir(exist_ok=True)
    Hull.from_entries(list(HULL), list(HULL.values()), list(HULL), "a test", scale).write(folder / "hull.csv.gz")
    return folder / "hull.csv.gz"


def test_a_potential_and_a_hull_are_looked_for(tmp_path: Path) -> None:
    file = write(tmp_path / "data")
    for name in (file, file.parent):
        assert EnergySettings(energy_model="chgnet", hull=str(name)).check_energies() == []
    (tmp_path / "mine.model").touch()

    def mistakes(**fields: Any) -> dict[str, str]:
        return dict(EnergySettings(**fields).check_energies())

    assert "did you mean 'chgnet'" in mistakes(energy_model="chgnt")["energy_model"]
    assert mistakes(energy_model="medium-mpa-0") == {}
    scales = mistakes(energy_model="medium-mpa-0", hull=str(file))["hull"]
    assert "PBE/MP-uncorrected" in scales
    assert "PBE/MP2020" in scales
    mine = str(tmp_path / "mine.model")
    assert "unknown" in mistakes(energy_model=mine, hull=str(file))["hull"]
    assert mistakes(energy_model=mine, hull=str(file), energy_scale="PBE/MP2020") == {}
    assert "leave this out" in mistakes(energy_model="chgnet", energy_scale="r2SCAN")["energy_scale"]
    assert "no such file or folder" in mistakes(hull=str(tmp_path / "none"))["hull"]
    assert "has no hull.csv.gz" in mistakes(hull=str(tmp_path))["hull"]
    assert "relax" in mistakes(relax={"steps": 5})
    (tmp_path / "data" / "hull.json").unlink()
    assert "hull.json: no such file" in mistakes(hull=str(file))["hull"]


def test_a_component_without_what_it_needs_is_a_mistake_in_its_place(tmp_path: Path) -> None:
    def mistakes(**fields: Any) -> list[Any]:
        return ReinforceReward.model_validate({**BOTH, **fields}).check(lambda name, kind: Path(name))

    ((where, text),) = mistakes()
    assert where == ("components", 1, "type")
    assert "needs energy_model and hull" in text
    ((_, text),) = mistakes(energy_model="chgnet")
    assert "needs hull" in text
    assert mistakes(energy_model="chgnet", hull=str(write(tmp_path))) == []


def test_checking_energies_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from chemeleon_cli.core.rewards import EnergySettings\n"
        f"assert not EnergySettings(energy_model='chgnet', hull={str(write(tmp_path))!r}).check_energies()\n"
        "assert not {'torch', 'pymatgen', 'numpy', 'chgnet', 'scipy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_context_brings_potential_hull_and_known_crystals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    loaded: list[tuple[str, str]] = []

    def load(name: str, device: str, scale: str | None) -> Levels:
        loaded.append((name, device))
        return Levels(LEVELS)

    monkeypatch.setattr("chemeleon_cli.core.scoring.loading.load_potential", load)
    pd.DataFrame({"cif": [s.to(fmt="cif") for s in (SALT, BLENDE)]}).to_csv(tmp_path / "train.csv", index=False)
    write(tmp_path)
    fields = {**BOTH, "energy_model": "chgnet", "hull": str(tmp_path), "relax": {"steps": 7}}
    reward = ReinforceReward.model_validate(fields)
    made = load_context(reward, reward.needs(), lambda name, kind: Path(name), training_data=tmp_path)
    assert loaded == [("chgnet", "cpu")]
    assert made.relax == Relaxation(steps=7)
    assert made.known[None].name == tmp_path.name
    assert len(made.known[None].sha256["train"]) == 64
    assert made.memory is None
    assert Candidates([SALT, CESIUM], made).novel == [False, True]
    with pytest.raises(UserError, match="does not record its training set"):
        load_context(reward, reward.needs(), lambda name, kind: Path(name))
    write(tmp_path, "r2SCAN")
    with pytest.raises(UserError, match="the hull's r2SCAN"):
        load_context(reward, reward.needs(), lambda name, kind: Path(name), training_data=tmp_path)
