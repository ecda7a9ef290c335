"""The datum and the standard form."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from samples import known_structures, random_structures

from chemeleon_cli.core.data.crystals import (
    Crystals,
    canonical,
    lattice_from_parameters,
    origin_atoms,
    shift_to_atom,
    wrap,
)


def shifted(structure: Structure, seed: int) -> Structure:
    """The same crystal: another origin, another orientation, another order."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    order = rng.permutation(len(structure))
    frac = structure.frac_coords[order] + rng.random(3)
    return Structure(Lattice(structure.lattice.matrix @ rotation), [structure[int(i)].specie for i in order], frac % 1)


def test_round_trip_keeps_the_cell_it_is_given(structures):
    crystals = Crystals.from_structures(structures)
    for before, after in zip(structures, crystals.to_structures(), strict=True):
        assert np.abs(before.lattice.matrix - after.lattice.matrix).max() < 1e-4
        assert np.abs(before.cart_coords - after.cart_coords).max() < 1e-4
        assert before.atomic_numbers == after.atomic_numbers


def test_computed_properties_equal_pymatgen(structures):
    crystals = Crystals.from_structures(structures)
    for b, s in enumerate(structures):
        assert np.allclose(crystals.lengths[b], s.lattice.abc, atol=1e-4)
        assert np.allclose(crystals.angles[b], s.lattice.angles, atol=1e-3)
        assert crystals.volume[b].item() == pytest.approx(s.volume, rel=1e-5)
        assert np.allclose(crystals.cart_coords[b, : len(s)], s.cart_coords, atol=1e-4)
        assert crystals.mask[b].sum() == len(s)


def test_lattice_from_parameters_equals_pymatgen(structures):
    crystals = Crystals.from_structures(structures)
    made = lattice_from_parameters(crystals.lengths, crystals.angles)
    for b, s in enumerate(structures):
        assert np.allclose(made[b], Lattice.from_parameters(*s.lattice.parameters).matrix, atol=1e-3)


def test_a_cell_that_cannot_exist_is_nan():
    assert lattice_from_parameters(torch.ones(1, 3), torch.tensor([[30.0, 30.0, 170.0]])).isnan().any()


def test_cat_and_index(structures):
    labels = [float(i) for i in range(len(structures))]
    crystals = Crystals.from_structures(structures, {"x": labels})
    joined = Crystals.cat([crystals[[2]], crystals[5:7], crystals[torch.tensor([0])]])
    assert joined.properties["x"].tolist() == [2.0, 5.0, 6.0, 0.0]
    assert joined.numbers.shape[1] == int(joined.num_atoms.max())
    assert joined.to_structures()[0] == crystals.to_structures()[2]


@given(st.floats(-3, 3, width=32))
def test_wrap_is_below_one(x):
    wrapped = wrap(torch.tensor([x, -1e-9]))
    assert (wrapped >= 0).all()
    assert (wrapped < 1).all()


@pytest.mark.parametrize("index", range(6))
def test_canonical_is_the_same_crystal(index):
    structure = known_structures()[index]
    form = canonical(structure)
    assert StructureMatcher(scale=False, stol=0.01).fit(structure, form)
    assert len(form) == len(structure.get_primitive_structure())
    assert form.lattice.volume > 0
    assert np.linalg.det(form.lattice.matrix) > 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 11), st.integers(0, 10_000))
def test_canonical_of_a_moved_copy_has_the_same_description(index, seed):
    structure = random_structures(12, seed=1)[index]
    a, b = canonical(structure), canonical(shifted(structure, seed))
    assert np.allclose(a.lattice.parameters, b.lattice.parameters, atol=1e-4)
    assert a.atomic_numbers == b.atomic_numbers
    # the origin is one of the rarest element's atoms: one of them gives equal coordinates, up to inversion of axes
    crystals = Crystals.from_structures([b])
    candidates = origin_atoms(crystals)[0].nonzero().flatten().tolist()
    distances = []
    for atom in candidates:
        moved = shift_to_atom(crystals, torch.tensor([[atom]])).to_structures()[0]
        distances.append(_mismatch(a, moved))
    assert min(distances) < 2e-3


def _mismatch(a: Structure, b: Structure) -> float:
    """Largest distance (Å) of an atom of `a` to the nearest of its kind in `b`, over signs that keep the cell."""
    best = np.inf
    for signs in np.array(np.meshgrid(*[[1, -1]] * 3)).reshape(3, -1).T:
        matrix = a.lattice.matrix * signs[:, None]
        if not np.allclose(matrix @ matrix.T, a.lattice.matrix @ a.lattice.matrix.T, atol=1e-3):
            continue
        distances = a.lattice.get_all_distances(a.frac_coords, b.frac_coords * signs)
        distances[np.not_equal.outer(a.atomic_numbers, b.atomic_numbers)] = 99
        best = min(best, distances.min(axis=1).max())
    return float(best)


def test_canonical_of_a_supercell_is_the_primitive_cell():
    for structure in known_structures() + random_structures(4, seed=3, max_atoms=6):
        supercell = structure.copy()
        supercell.make_supercell([[2, 0, 0], [0, 1, 0], [1, 0, 1]])
        a, b = canonical(structure), canonical(supercell)
        assert a.atomic_numbers == b.atomic_numbers
        assert np.allclose(a.lattice.parameters, b.lattice.parameters, atol=1e-3)


def test_canonical_refuses_what_is_no_cell():
    flat = Structure(Lattice([[3, 0, 0], [0, 3, 0], [3, 3, 1e-9]]), ["Li"], [[0, 0, 0]])
    with pytest.raises(ValueError, match=r"primitive|Niggli"):
        canonical(flat)
    broken = Structure(Lattice(np.full((3, 3), np.nan)), ["Li"], [[0, 0, 0]])
    with pytest.raises(ValueError, match="finite"):
        canonical(broken)


def test_origin_atoms_are_the_rarest_elements():
    crystals = Crystals.from_structures([canonical(s) for s in known_structures()])
    chosen = crystals.numbers.masked_fill(~origin_atoms(crystals), 0)
    assert chosen.max(1).values.tolist() == [11, 16, 22, 22, 14, 12]
