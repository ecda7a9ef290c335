"""Structure prediction: what counts as found."""

import io
import math

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from rich.console import Console
from samples import known_structures

from chemeleon_cli.commands import score_against
from chemeleon_cli.core.scoring import matching
from chemeleon_cli.core.scoring.comparison import MatchSettings
from chemeleon_cli.core.scoring.csp import pair, predict
from chemeleon_cli.sources.files import Row

CRYSTALS = known_structures()


def moved(structure: Structure, distance: float, seed: int = 0) -> Structure:
    return structure.copy().perturb(distance, seed=seed)


def test_found_crystals_are_those_that_the_matcher_takes():
    references = [CRYSTALS[i] for i in (0, 2, 1, 3)]  # moved atoms leave a primitive cell as it is
    near = [moved(s, 0.1 * i, i) for i, s in enumerate(references)]
    wrong = Structure(Lattice.cubic(4), ["Sr", "Ti", "O", "O", "O"], np.random.default_rng(0).random((5, 3)))
    candidates = [[near[0]], [near[1], moved(references[1], 0.25, 7)], [wrong], [None]]
    found = predict(candidates, references)
    assert found.rms[0] == pytest.approx(0, abs=1e-6)
    matcher = StructureMatcher(stol=0.5, ltol=0.3, angle_tol=10)
    distances = [matcher.get_rms_dist(s, references[1])[0] for s in candidates[1]]  # type: ignore[index]
    assert found.rms[1] == pytest.approx(min(distances)), "the best of several"
    assert found.rms[2:] == [None, None]
    assert found.match_rate == 0.5
    assert found.rmse == pytest.approx(min(distances) / 2, abs=1e-6)
    assert found.candidates == [1, 2, 1, 1]
    assert found.right_formulas == pytest.approx(3 / 5), "another formula is not right, and no structure neither"


def test_a_cell_twice_as_large_is_found_and_another_formula_is_not():
    salt, blende = CRYSTALS[:2]
    double = salt.copy()
    double.make_supercell([2, 1, 1])
    found = predict([[double], [salt]], [salt, blende])
    assert found.rms[0] == pytest.approx(0, abs=1e-6)
    assert (found.rms[1], found.right_formulas) == (None, 0.5)


def test_what_cannot_be_a_crystal_matches_nothing():
    salt = CRYSTALS[0]
    flat = Structure(Lattice.from_parameters(4, 4, 4, 90, 90, 179.9), salt.species, salt.frac_coords)
    dense = Structure(Lattice.cubic(1.0), salt.species, salt.frac_coords)  # the matcher would scale it
    found = predict([[flat, dense]], [salt])
    assert (found.match_rate, found.right_formulas) == (0.0, 1.0)
    assert np.isnan(found.rmse)


def test_a_comparison_without_end_is_no_match_and_is_counted():
    thin = Lattice.tetragonal(1.9, 80)
    rng = np.random.default_rng(0)
    heights = (np.arange(20) + 0.2 * rng.random(20)) / 20
    slow = [Structure(thin, ["C"] * 20, np.column_stack([rng.random((20, 2)), heights])) for _ in range(2)]
    found = predict([[slow[0]], [CRYSTALS[0]]], [slow[1], CRYSTALS[0]], MatchSettings(0.3, 0.5, 10.0, time_limit=0.5))
    assert (found.rms[0], found.timed_out) == (None, 1)
    assert found.match_rate == 0.5


def test_the_report_says_how_many_comparisons_ran_out_of_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("chemeleon_cli.core.scoring.csp.rms_pairs", lambda pairs, settings: [math.nan] * len(pairs))
    console = Console(file=io.StringIO(), width=200)
    rows = [Row("a", CRYSTALS[0], None, {}), Row("b", CRYSTALS[1], None, {})]
    found = score_against.figures("known.csv", (["a", "b"], CRYSTALS[:2]), rows, console)
    assert (found["timed_out"], found["match_rate"], found["matcher"]["time_limit"]) == (2, 0.0, 10.0)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2 candidates took longer than 10 s to compare and count as no match" in said


def test_a_crystal_without_a_niggli_cell_is_no_match(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise ValueError("can't find niggli")

    monkeypatch.setattr(StructureMatcher, "get_rms_dist", fail)
    found = predict([[CRYSTALS[0]]], [CRYSTALS[0]])
    assert (found.rms, found.right, found.timed_out) == ([None], 1, 0)
    assert matching.rms(CRYSTALS[0], CRYSTALS[0]) is None


def test_candidates_find_their_references():
    references = CRYSTALS[:3]
    names = ["mp-1", "mp-2", "mp-3"]
    shuffled = [references[2], references[0], references[0]]
    by_id, how = pair(["mp-3-0", "mp-1-0", "mp-1-1"], shuffled, names, references)
    assert how == "id"
    assert [len(c) for c in by_id] == [2, 0, 1]
    exact, how = pair(["mp-3", "mp-1", "mp-2"], [references[2], references[0], None], names, references)
    assert (how, [c[0] for c in exact]) == ("id", [references[0], None, references[2]])
    ordered, how = pair(["a", "b", "c"], [references[0], None, references[2]], names, references)
    assert (how, ordered) == ("order", [[references[0]], [None], [references[2]]])
    by_formula, how = pair(["a", "b", "c"], shuffled, names, references)
    assert (how, [len(c) for c in by_formula]) == ("formula", [2, 0, 1])
    # a reference may be named as a candidate of another would be: one reading for all
    likewise, how = pair(["a-0", "a-1", "a-2", "a-2-0", "a-2-1", "a-2-2"], [None] * 6, ["a", "a-2"], references[:2])
    assert (how, [len(c) for c in likewise]) == ("id", [3, 3])
