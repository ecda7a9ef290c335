"""Unique, novel, creativity and the memory of a run, against the matcher itself and by brute force."""

import math
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Element, Lattice, Structure
from safetensors.torch import load_file, save_file
from samples import body_centred, known_structures, random_structures, rock_salt

from chemeleon_cli.core.scoring import matching, metrics, novelty
from chemeleon_cli.core.scoring.comparison import Cell, OutOfTime, at_most
from chemeleon_cli.core.scoring.matching import Reference
from chemeleon_cli.core.scoring.novelty import CAP, PER_FORMULA, Memory, creativity, find_novel
from chemeleon_cli.core.scoring.settings import DEFAULT_MATCHING, Matching
from chemeleon_cli.core.scoring.uniqueness import find_duplicates, representatives

SALT = rock_salt(5.6)
CESIUM = body_centred(3.5, "Na", "Cl")
SLOW = Structure(Lattice.tetragonal(2.5, 9.1), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.4]])
NOTHING = Reference.from_structures([])
HASTY = Matching(time_limit=0.2)


def shaken(structure: Structure, seed: int, distance: float = 0.05) -> Structure:
    rng = np.random.default_rng(seed)
    moves = rng.normal(size=(len(structure), 3))
    moves *= distance / np.linalg.norm(moves, axis=1, keepdims=True)
    moved = structure.cart_coords + moves
    return Structure(structure.lattice, structure.species, moved, coords_are_cartesian=True)


def compare(
    batch: Sequence[Structure | None],
    reference: Reference,
    memory: Memory | None = None,
    energies: Sequence[float] | None = None,
    settings: Matching = DEFAULT_MATCHING,
) -> SimpleNamespace:
    """Unique, novel and creativity, as candidates put them together."""
    uniqueness, novelty = find_duplicates(batch, memory, energies, settings), find_novel(batch, reference, settings)
    values = creativity(batch, uniqueness, novelty, settings)
    return SimpleNamespace(values=values, unique=uniqueness.unique, novel=novelty.novel)


def displacement(original: Structure, copy: Structure) -> float:
    found = StructureMatcher().get_rms_dist(original, copy)
    assert found is not None
    return found[0] / 0.3


@pytest.fixture
def _odd_pairs_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    fit, rms = StructureMatcher.fit, StructureMatcher.get_rms_dist

    def hang(a: Structure, b: Structure) -> None:
        while any(abs(s.volume - SLOW.volume) < 0.01 for s in (a, b)):
            pass

    def slow_fit(self, a, b, **settings):
        hang(a, b)
        return fit(self, a, b, **settings)

    def slow_rms(self, a, b):
        hang(a, b)
        return rms(self, a, b)

    monkeypatch.setattr(StructureMatcher, "fit", slow_fit)
    monkeypatch.setattr(StructureMatcher, "get_rms_dist", slow_rms)


def remembered(state: dict[str, torch.Tensor]) -> Memory:
    memory = Memory()
    memory.load(state)
    return memory


def test_groups_are_the_connected_components_of_all_pairs() -> None:
    base = [SALT, CESIUM, *known_structures()[:4], *random_structures(2, seed=3, max_atoms=6)]
    structures = [shaken(s, seed=10 * i + k, distance=0.04 * k) for i, s in enumerate(base) for k in range(3)]
    structures += [SALT * (1, 1, 2), CESIUM * (2, 1, 1)]
    order = list(range(len(structures)))
    random.Random(0).shuffle(order)
    structures = [structures[i] for i in order]
    matcher = StructureMatcher()
    label = list(range(len(structures)))
    for i, a in enumerate(structures):
        for j, b in enumerate(structures[:i]):
            if matcher.fit(b, a):
                label = [label[j] if x == label[i] else x for x in label]
    numbers = {x: k for k, x in enumerate(dict.fromkeys(label))}
    assert matching.matcher_groups(structures)[0] == [numbers[x] for x in label]
    assert 1 < len(numbers) < len(structures)


def test_the_representative_has_the_lowest_energy() -> None:
    structures = [SALT, shaken(SALT, 1), CESIUM, None, shaken(SALT, 2)]
    groups = matching.matcher_groups(structures)[0]
    assert groups == [0, 0, 1, -1, 0]
    assert representatives(structures, groups, [-1, -3, 5, math.nan, -2]) == [False, True, True, False, False]
    assert representatives(structures, groups, [math.nan, 3, math.nan, 0, 4])[1]
    chosen = representatives(structures, groups)
    assert sum(chosen) == 2
    again = representatives(structures[::-1], groups[::-1])
    assert again[::-1] == chosen


@pytest.mark.usefixtures("_odd_pairs_hang")
def test_a_comparison_that_runs_out_of_time_is_unknown() -> None:
    structures = [CESIUM, shaken(CESIUM, 0), SLOW, known_structures()[1], SALT, SALT]
    groups = matching.matcher_groups(structures, HASTY)[0]
    known = [groups[i] for i in (0, 1, 3, 4, 5)]
    assert groups[2] == -1
    assert known.count(-1) <= 1  # the one that it was compared with
    assert groups[3] >= 0
    reference = Reference.from_structures([SALT])
    assert find_novel(structures, reference, HASTY).novel == [True, True, None, True, False, False]
    assert math.isnan(matching.rms(SLOW, SALT, HASTY) or 0)
    found = compare(structures, reference, settings=HASTY)
    assert math.isnan(found.values[2])
    assert (found.unique[2], found.novel[2]) == (None, None)
    assert found.values[3] == 1


@pytest.mark.usefixtures("_odd_pairs_hang")
def test_reports_leave_what_is_unknown_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching.rms, "__defaults__", (HASTY,))
    monkeypatch.setattr(matching.rms_pairs, "__defaults__", (HASTY,))
    report = metrics.reconstruction_report([SLOW, CESIUM], [SLOW, CESIUM])
    assert report["match_rate"] == 0.5
    assert report["rms"] == pytest.approx(0, abs=1e-6)


def test_the_time_limit_counts_processor_time_and_ends() -> None:
    def spin() -> None:
        while True:
            pass

    start = time.process_time()
    with pytest.raises(OutOfTime), at_most(0.1):
        spin()
    assert time.process_time() - start < 5
    with at_most(0.1):
        time.sleep(0.3)
    while time.process_time() - start < 0.5:
        pass  # nothing is raised after the block


def test_beside_the_main_thread_it_is_the_same() -> None:
    found: list[list[int]] = []
    thread = threading.Thread(target=lambda: found.append(matching.matcher_groups([SALT, CESIUM, SALT * (1, 1, 2)])[0]))
    thread.start()
    thread.join()
    assert found == [[0, 1, 0]]


def test_a_references_cells_are_reduced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reduce = StructureMatcher._get_reduced_structure
    seen: list[str] = []

    def counted(structure, *args):
        seen.append(structure.composition.reduced_formula)
        return reduce(structure, *args)

    reference = Reference.from_structures([SALT, CESIUM, *known_structures()])
    monkeypatch.setattr(StructureMatcher, "_get_reduced_structure", counted)
    assert find_novel([SALT * (1, 1, 2)], reference).novel == [False]
    assert Counter(seen) == {"NaCl": 4}  # three references and the crystal itself
    find_novel([SALT], reference)
    assert Counter(seen) == {"NaCl": 5}


def test_creativity_of_each_kind() -> None:
    zinc, perovskite = known_structures()[1:3]
    near = shaken(perovskite, 0, 0.1)
    rutile = known_structures()[3]
    twin = shaken(rutile, 1, 0.1)
    reference = Reference.from_structures([zinc, perovskite])
    batch = [SALT, zinc * (1, 1, 2), near, rutile, twin, None, shaken(zinc, 5, 0.05)]
    energies = [0, -1, 0, -2, -1, math.nan, 0]
    found = compare(batch, reference, energies=energies)
    assert found.unique == [True, True, True, True, False, None, False]
    assert found.novel == [True, False, False, True, True, None, False]
    assert found.values[0] == found.values[3] == 1
    assert found.values[1] == pytest.approx(0, abs=1e-5)  # a copy, in another cell
    assert found.values[2] == pytest.approx(displacement(perovskite, near))
    assert 0.05 < found.values[2] < CAP
    assert found.values[4] == pytest.approx(displacement(rutile, twin))
    assert math.isnan(found.values[5])
    assert found.values[6] == 0  # neither
    other = compare(batch, reference, energies=[0, 0, 0, -1, -2, 0, 0])
    assert (other.values[4], other.unique[3]) == (1, False)


def test_creativity_does_not_depend_on_order() -> None:
    base = [SALT, CESIUM, *known_structures()[:3]]
    batch = [shaken(s, 7 * k, 0.06 * k) for s in base for k in range(3)]
    reference = Reference.from_structures(known_structures()[1:2])
    expected = compare(batch, reference).values
    assert 0 < sum(0 < value < 1 for value in expected) < len(expected)
    for seed in range(3):
        order = list(range(len(batch)))
        random.Random(seed).shuffle(order)
        values = compare([batch[i] for i in order], reference).values
        assert values == pytest.approx([expected[i] for i in order], abs=1e-9)


def test_of_two_references_the_nearer_counts() -> None:
    far, near = shaken(SALT, 1, 0.5), shaken(SALT, 2, 0.1)
    found = compare([SALT], Reference.from_structures([far, near]))
    assert found.novel == [False]
    assert found.values[0] == pytest.approx(displacement(near, SALT))


def test_what_was_generated_before_is_not_unique() -> None:
    memory = Memory()
    first = [SALT, known_structures()[3], None]
    step = compare(first, NOTHING, memory)
    assert step.values[:2] == [1, 1]
    assert len(memory) == 0  # scoring changes nothing
    memory.update(first, step.unique)
    assert len(memory) == 2
    copy = shaken(SALT, 3, 0.1)
    again = compare([copy, CESIUM, SALT], NOTHING, memory)
    assert again.unique == [False, True, False]
    assert again.values[0] == pytest.approx(min(displacement(SALT, copy), displacement(copy, SALT)), abs=1e-6)
    assert again.values[1] == 1
    assert again.values[2] == pytest.approx(0, abs=1e-5)
    memory.update([copy, CESIUM, SALT], again.unique)
    assert len(memory) == 3


def test_a_group_that_touches_memory_holds_nothing_unique() -> None:
    # a row of crystals of which neighbours match and the ends do not
    row = [Structure(Lattice.tetragonal(4, c), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]) for c in (4, 4.6, 5.3, 6.1)]
    memory = Memory()
    memory.update(row[:1], [True])
    found = compare(row[1:], NOTHING, memory)
    assert found.unique == [False, False, False]
    assert all(value < 1 for value in found.values)


def test_steps_with_a_memory_find_as_many_as_one_batch() -> None:
    base = [SALT, CESIUM, *known_structures()[1:], *random_structures(4, seed=5, max_atoms=6)]
    crystals = [shaken(s, 11 * k, 0.05 * k) for k in range(3) for s in base]
    random.Random(1).shuffle(crystals)
    memory, unique = Memory(), 0
    for k in range(0, len(crystals), 7):
        step = crystals[k : k + 7]
        found = compare(step, NOTHING, memory)
        unique += found.unique.count(True)
        memory.update(step, found.unique)
    assert unique == len(memory) == len(set(matching.matcher_groups(crystals)[0])) == len(base)


def test_a_memory_is_saved_and_restored(tmp_path) -> None:
    crystals = [SALT, CESIUM, *known_structures()[1:]]
    memory, shuffled = Memory(), Memory()
    memory.update(crystals, [True] * len(crystals))
    shuffled.update(crystals[::-1], [True] * len(crystals))
    save_file(memory.state(), tmp_path / "memory.safetensors")
    again = remembered(load_file(tmp_path / "memory.safetensors"))
    for other in (again, shuffled):
        assert len(other) == len(crystals)
        state = other.state()
        assert all(torch.equal(state[name], tensor) for name, tensor in memory.state().items())
    batch = [shaken(s, 1) for s in crystals]
    assert compare(batch, NOTHING, again) == compare(batch, NOTHING, memory)
    empty = remembered(Memory().state())
    assert len(empty) == 0
    assert "NaCl" not in empty


def test_a_memory_keeps_the_latest_of_a_formula() -> None:
    memory = Memory()
    for k in range(PER_FORMULA + 5):
        memory.update([Structure(Lattice.cubic(3 + k / 100), ["Na", "Cl"], CESIUM.frac_coords)], [True])
    kept = [cell.lattice[0, 0] for cell in memory.cells("NaCl")]
    assert len(memory) == len(kept) == PER_FORMULA
    assert kept[0] == pytest.approx(3.05)
    assert kept[-1] == pytest.approx(3 + (PER_FORMULA + 4) / 100)


def test_a_full_memory_forgets_the_formulas_that_nothing_new_came_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(novelty, "TOTAL", 4)
    memory = Memory()
    for k, symbol in enumerate(["Na", "K", "Rb", "Na", "Cs"]):
        memory.update([Structure(Lattice.cubic(3 + k / 2), [symbol, "Cl"], CESIUM.frac_coords)], [True])
    assert [len(memory.cells(f"{symbol}Cl")) for symbol in ("Na", "K", "Rb", "Cs")] == [2, 0, 1, 1]
    assert len(memory) == 4
    again = remembered(memory.state())
    for other in (memory, again):  # what is forgotten next is the same after a resume
        other.update([Structure(Lattice.cubic(6), ["Li", "Cl"], CESIUM.frac_coords)], [True])
        assert "RbCl" not in other and len(other) == 4


def test_a_crystal_without_a_niggli_cell_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_):
        raise ValueError("no Niggli cell")

    monkeypatch.setattr(StructureMatcher, "_get_reduced_structure", refuse)
    assert Cell.of(SALT).reduced is None
    assert matching.matcher_groups([SALT, CESIUM, *known_structures()[1:3]])[0] == [-1, -1, 0, 1]
    assert find_novel([SALT], Reference.from_structures([CESIUM])).novel == [None]


@pytest.mark.slow
def test_a_step_against_a_memory_of_50_000_takes_less_than_a_second() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 20, 50_000)
    numbers = rng.integers(1, 90, int(sizes.sum()))
    state = {
        "numbers": torch.from_numpy(numbers.astype(np.uint8)),
        "frac_coords": torch.from_numpy(rng.random((len(numbers), 3))),
        "lattice": torch.from_numpy(np.eye(3) * (15 * sizes)[:, None, None] ** (1 / 3)),
        "num_atoms": torch.from_numpy(sizes),
    }
    memory = remembered(state)
    rows = rng.choice(50_000, 26, replace=False)  # a tenth was there before
    cells = [cell for formula in memory._cells for cell in memory.cells(formula)]
    batch = [cells[row].structure() for row in rows]
    for s in random_structures(230, seed=1):
        swap = {
            e: Element.from_Z(int(z)) for e, z in zip(s.elements, rng.choice(90, 6, replace=False) + 1, strict=False)
        }
        s.replace_species(swap)  # type: ignore[arg-type]
        batch.append(s)
    start = time.process_time()
    found = compare(batch, NOTHING, memory)
    memory.update(batch, found.unique)
    took = time.process_time() - start
    print(f"\n256 crystals against {len(cells)}: {took:.2f} s")
    assert found.unique[:26] == [False] * 26
    assert took < 1
