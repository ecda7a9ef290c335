"""Structure prediction: what counts as found."""

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from samples import known_structures

from chemeleon_cli.core.csp import pair, predict

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
