import itertools
import math
import random

import numpy as np
import pytest
from pymatgen.core import Composition, Element, Lattice, Structure
from samples import rock_salt

from chemeleon_cli.core.data import validity

SALT = rock_salt(5.6)


def test_a_real_crystal_has_no_problem() -> None:
    assert validity.problem(SALT) is None
    assert validity.problem(SALT.get_primitive_structure()) is None


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (None, "no structure"),
        (Structure(Lattice.cubic(3), [], []), "no structure"),
        (Structure(Lattice.cubic(3), ["Lr"], [[0, 0, 0]]), "element"),
        (Structure(Lattice.cubic(3), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]]), "element"),
        (Structure(Lattice([[math.nan] * 3] * 3), ["Fe"], [[0, 0, 0]]), "cell"),
        (Structure(Lattice.cubic(3), ["Fe"], [[0, math.inf, 0]]), "cell"),
        (Structure(Lattice([[3, 0, 0], [0, 3, 0], [0, 0, 0]]), ["Fe"], [[0, 0, 0]]), "cell"),
        (Structure(Lattice.from_parameters(6, 6, 6, 90, 90, 8), ["Fe"], [[0, 0, 0]]), "cell"),
        (Structure(Lattice([[3, 0, 0], [0, 3, 0], [2, 2, 0]]), ["Fe"], [[0, 0, 0]]), "volume"),
        (Structure(Lattice.cubic(1.5), ["Fe"], [[0, 0, 0]]), "volume"),
        (Structure(Lattice.cubic(5), ["Fe"], [[0, 0, 0]]), "volume"),
        (Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.99, 0, 0]]), "distance"),
        (Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0, 0, 0]]), "distance"),
        (Structure(Lattice.orthorhombic(0.4, 5, 5), ["Fe"], [[0, 0, 0]]), "distance"),
    ],
)
def test_every_problem_is_named(structure: Structure | None, reason: str) -> None:
    assert validity.problem(structure) == reason


def test_an_image_across_a_skew_cell_is_found() -> None:
    # b - 3a is 0.3 Å long, though no vector of the cell is
    lattice = Lattice([[4, 0, 0], [12, 0.3, 0], [0, 0, 12]])
    assert validity.any_closer(lattice.matrix, np.zeros((1, 3)), 0.5)
    assert not validity.any_closer(lattice.matrix, np.zeros((1, 3)), 0.2)


def test_distances_equal_pymatgens() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        lattice = Lattice.from_parameters(*rng.uniform(0.6, 8, 3), *rng.uniform(20, 160, 3))
        if not np.isfinite(lattice.matrix).all() or abs(lattice.volume) < 1:
            continue
        frac = rng.random((4, 3))
        near = Structure(lattice, ["H"] * 4, frac).get_neighbor_list(0.5, exclude_self=True)[3]
        found.append(validity.any_closer(lattice.matrix, frac, 0.5))
        assert found[-1] == bool((near < 0.5).any())
    assert 10 < sum(found) < len(found) - 10


@pytest.mark.parametrize(
    ("formula", "valid"),
    [("NaCl", True), ("Na2Cl", False), ("Fe2O3", True), ("FeNi3", True), ("Si", True), ("ArCl", False)],
)
def test_smact(formula: str, valid: bool) -> None:
    assert validity.smact_valid(Composition(formula)) is valid
    assert validity.smact_valid(Composition(formula) * 4) is valid


def test_counting_charges_agrees_with_trying_them_all() -> None:
    import smact
    from smact.screening import smact_validity

    rng = random.Random(0)
    symbols = [Element.from_Z(z).symbol for z in range(1, 95)]
    answers = []
    while len(answers) < 120:
        chosen = rng.sample(symbols, rng.choice([2, 3, 4]))
        counts = [rng.choice([1, 1, 2, 3]) for _ in chosen]
        divisor = math.gcd(*counts)
        if all(symbol in smact.metals for symbol in chosen):
            continue
        states = [validity._states().get(symbol, []) for symbol in chosen]
        found = validity.balanced(
            states, [n // divisor for n in counts], [smact.Element(s).pauling_eneg for s in chosen]
        )
        assert found == smact_validity("".join(f"{s}{n}" for s, n in zip(chosen, counts, strict=True)))
        answers.append(found)
    assert 10 < sum(answers) < 110


def test_twenty_elements_take_no_time() -> None:
    symbols = [Element.from_Z(z).symbol for z in itertools.chain(range(3, 9), range(19, 33))]
    states = math.prod(len(validity._states().get(s, [1])) for s in symbols)
    assert states > 1e12
    validity.smact_valid(Composition(dict.fromkeys(symbols, 1)))
