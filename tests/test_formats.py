"""Formats whose files hold several crystals, or that other programs write; and what must not take all memory."""

import bz2
import json
import lzma
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.io.vasp import Poscar, Xdatcar
from samples import rock_salt

from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.examine import examine
from chemeleon_cli.sources.files import Row, read_crystals, read_records, write_crystals
from chemeleon_cli.sources.formats import FORMATS, format_of, stem_of

SALT, OTHER = rock_salt(5.64), rock_salt(6.28, "K")


def read(path: Path) -> list[Row]:
    return list(read_crystals(path))


def formulas(rows: list[Row]) -> dict[str, str | None]:
    return {row.id: row.structure.formula if row.structure else row.reason for row in rows}


def assert_same(found: Structure | None, expected: Structure) -> None:
    assert found is not None
    assert found.atomic_numbers == expected.atomic_numbers
    np.testing.assert_allclose(found.lattice.matrix, expected.lattice.matrix, atol=1e-8)
    np.testing.assert_allclose(found.frac_coords, expected.frac_coords, atol=1e-8)


def test_a_file_is_of_one_format_by_its_name() -> None:
    suffixes = [suffix for known in FORMATS.values() for suffix in known.suffixes]
    assert len(suffixes) == len(set(suffixes))
    names = {"a.cif": "cif", "A.CIF.gz": "cif", "x.json.bz2": "json", "x.csv.xz": "csv", "b.XYZ": "extxyz"}
    names |= {"POSCAR": "poscar", "CONTCAR_1.gz": "poscar", "XDATCAR": "poscar", "poscar.csv": "csv"}
    assert {name: format_of(name) for name in names} == names
    assert [format_of(name) for name in ("a.zip", "a.gz", "a.pdf", "cif", "my_poscar")] == [None] * 5
    stems = {"d/A.CIF.gz": "d/A", "v1.2": "v1.2", "x/POSCAR_a.bz2": "x/POSCAR_a", "b.tar.xz": "b.tar"}
    assert {name: stem_of(name) for name in stems} == stems


# POSCAR


@pytest.mark.parametrize("between", ["", "\n", "\n\n \n"])
@pytest.mark.parametrize("name", ["POSCARS", "two.vasp"])
def test_poscars_behind_each_other_are_several_crystals(between: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(between.join([Poscar(SALT).get_str(), Poscar(OTHER).get_str(), Poscar(SALT).get_str()]))
    rows = read(path)
    stem = name.removesuffix(".vasp")
    assert formulas(rows) == {f"{stem}-1": "Na4 Cl4", f"{stem}-2": "K4 Cl4", f"{stem}-3": "Na4 Cl4"}
    assert_same(rows[1].structure, OTHER)


def test_what_vasp_writes_behind_the_atoms_is_no_other_crystal(tmp_path: Path) -> None:
    speeds = np.random.default_rng(0).normal(size=(8, 3)).tolist()
    moving = Poscar(SALT, velocities=speeds, selective_dynamics=[[True, False, True]] * 8).get_str()
    numbers = "\n".join(" 0.10000000E+00 0.20000000E+00 0.30000000E+00" for _ in range(24))
    md = f"{moving}\n\n1\n  2.0\n 0.1 0.2 0.3 0.4\n{numbers}\n"
    changing = Poscar(SALT).get_str() + "Lattice velocities and vectors\n  1\n" + "  0.1 0.2 0.3\n" * 6 + "\n" + moving
    titled = Poscar(SALT).get_str() + "Cartesian\n" + "  0.1 0.2 0.3\n" * 8
    for text, count in ((moving, 1), (md, 1), (titled, 1), (md + md, 2), (changing, 2)):
        (tmp_path / "CONTCAR").write_text(text)
        rows = read(tmp_path / "CONTCAR")
        assert [row.structure and row.structure.formula for row in rows] == ["Na4 Cl4"] * count
        assert [row.id for row in rows] == (["CONTCAR"] if count == 1 else ["CONTCAR-1", "CONTCAR-2"])
        for row in rows:
            assert_same(row.structure, SALT)


def test_frames_of_an_xdatcar_are_several_crystals(tmp_path: Path) -> None:
    frames = [SALT, SALT.copy().perturb(0.1, seed=0), SALT.copy().perturb(0.2, seed=0)]
    (tmp_path / "fixed").mkdir()
    Poscar(SALT).write_file(str(tmp_path / "POSCAR"))
    head = Poscar(SALT).get_str().splitlines()[:7]
    text = "\n".join(head) + "\n"
    for n, frame in enumerate(frames, 1):
        places = "".join(f"  {x:.12f} {y:.12f} {z:.12f}\n" for x, y, z in frame.frac_coords)
        text += f"Direct configuration= {n:5d}\n{places}"
    (tmp_path / "XDATCAR").write_text(text)
    rows = read(tmp_path / "XDATCAR")
    assert [row.id for row in rows] == ["XDATCAR-1", "XDATCAR-2", "XDATCAR-3"]
    for row, frame, known in zip(rows, frames, Xdatcar(tmp_path / "XDATCAR").structures, strict=True):
        assert_same(row.structure, frame)
        assert_same(row.structure, known)
    with_cells = "".join(text.replace("configuration=     ", f"configuration= {n}") for n in range(2))
    (tmp_path / "XDATCAR").write_text(with_cells)  # a moving cell: the head is written again
    assert len(read(tmp_path / "XDATCAR")) == 6


def test_a_second_poscar_that_is_broken_is_no_silence(tmp_path: Path) -> None:
    good = Poscar(SALT).get_str()
    for bad, why in (
        (good.replace("5.6", "x", 1), "behind the atoms before it, 'x400000000000003"),
        ("some words\n", "behind the atoms before it, "),
        (good.replace("Na Cl", "Na Cl K"), "3 symbols, but 2 numbers of atoms"),
    ):
        (tmp_path / "POSCAR").write_text(good + bad)
        rows = read(tmp_path / "POSCAR")
        assert [row.id for row in rows] == ["POSCAR-1", "POSCAR-2"]
        assert rows[0].structure is not None
        assert (rows[1].reason or "").startswith("unreadable: ") and why[:20] in (rows[1].reason or "")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("4 4\n", "4 3\n"), "unreadable: more lines of coordinates than its 7 atoms"),
        (("4 4\n", "4 5\n"), "unreadable: ValueError: not a place for each of its 9 atoms"),
        (("4 4\n", "4 999999999\n"), "unreadable: 1,000,000,003 atoms in one crystal"),
        (("Na Cl\n", "Na Cx\n"), "unreadable: "),
        (("Na Cl\n", ""), "element: this POSCAR does not name its elements"),
        (("1.0\n", "one\n"), "unreadable: 'one' in the second line, where a POSCAR has its scale"),
        (("direct\n", "\n"), "unreadable: '' where a POSCAR says Direct or Cartesian"),
    ],
)
def test_a_poscar_that_contradicts_itself_is_a_reason(change: tuple[str, str], reason: str, tmp_path: Path) -> None:
    text = "salt\n1.0\n5.64 0 0\n0 5.64 0\n0 0 5.64\nNa Cl\n4 4\ndirect\n"
    text += "".join(f"{x} {y} {z}\n" for x, y, z in SALT.frac_coords)
    assert change[0] in text
    (tmp_path / "POSCAR").write_text(text.replace(*change, 1))
    (row,) = read(tmp_path / "POSCAR")
    assert (row.reason or "").startswith(reason)


@pytest.mark.parametrize(
    ("head", "mode", "places"),
    [
        ("x\n1.0\n4 0 0\n0 4 0\n0 0 5\nNa Cl\n1 1\n", "Direct", ["0 0 0", "0.5 0.5 0.5"]),
        ("x\n2.0\n2 0 0\n0 2 0\n0 0 2.5\nNa Cl\n1 1\n", "Cartesian", ["0 0 0", "1 1 1.25"]),
        ("x\n-80\n2 0 0\n0 2 0\n0 0 2.5\nNa Cl\n1 1\n", "Cartesian", ["0 0 0", "1 1 1.25"]),
        ("x\n4 4 5\n1 0 0\n0 1 0\n0 0 1\nNa Cl\n1 1\n", "Cartesian", ["0 0 0", ".5 .5 .5"]),
        ("x\n1.0 ! scale\n4 0 0 # a\n0 4 0\n0 0 5\nNa_pv/1f Cl/a2\n1 1\n", "fractional", ["0 0 0 Na", ".5 .5 .5 Cl"]),
        ("x\n1.0\n4 0 0\n0 4 0\n0 0 5\nNa\nCl\n1\n1\n", "Selective\nD", ["0 0 0 T T F", "5.D-1 0.5 0.5 F F F"]),
        ("\n1.0\n4 0 0\n0 4 0\n0 0 5\n1 1\n", "Direct", ["0 0 0 Na", "0.5 0.5 0.5 Cl"]),
        ("x\r\n1.0\r\n4 0 0\r\n0 4 0\r\n0 0 5\r\nNa Cl\r\n1 1\r\n", "Direct\r", ["0 0 0\r", "0.5 0.5 0.5\r"]),
    ],
)
def test_the_grammar_of_vasp(head: str, mode: str, places: list[str], tmp_path: Path) -> None:
    expected = Structure(Lattice.tetragonal(4, 5), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
    (tmp_path / "POSCAR").write_bytes("\n".join([head + mode, *places, ""]).encode())
    (row,) = read(tmp_path / "POSCAR")
    assert row.reason is None
    assert_same(row.structure, expected)


def test_an_empty_poscar_is_no_structure(tmp_path: Path) -> None:
    for text in ("", " \n\n"):
        (tmp_path / "POSCAR").write_text(text)
        assert formulas(read(tmp_path / "POSCAR")) == {"POSCAR": "no_structure: nothing there"}


# JSON of other programs


def optimade(**attributes: Any) -> dict[str, Any]:
    known = {
        "lattice_vectors": [[4, 0, 0], [0, 4, 0], [0, 0, 4]],
        "cartesian_site_positions": [[0, 0, 0], [2, 2, 2]],
        "species_at_sites": ["Na", "Cl1"],
        "species": [
            {"name": "Na", "chemical_symbols": ["Na"], "concentration": [1.0]},
            {"name": "Cl1", "chemical_symbols": ["Cl"], "concentration": [1.0]},
        ],
        "nsites": 2,
        "nelements": 2,
        "_exmpl_band_gap": 5.0,
        "last_modified": "2024-01-01T00:00:00Z",
    }
    return {"id": "x/1", "type": "structures", "attributes": known | attributes}


def test_optimade_is_read_with_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "answer.json"
    for content in ({"data": [optimade()], "meta": {}}, {"data": optimade(), "included": []}, [optimade()]):
        path.write_text(json.dumps(content))
        (row,) = read(path)
        assert (row.id, row.labels) == ("x/1", {"_exmpl_band_gap": 5.0})
        assert_same(row.structure, Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3]))


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"nperiodic_dimensions": 2}, "no_cell"),
        ({"lattice_vectors": [[4, 0, 0], [0, 4, 0], [None, None, None]]}, "no_cell"),
        ({"species": [{"name": "Na", "chemical_symbols": ["Na", "K"], "concentration": [0.5, 0.5]}]}, "disorder: Na"),
        ({"species": [{"name": "Na", "chemical_symbols": ["Na"], "concentration": [0.5]}]}, "disorder: Na"),
        ({"species_at_sites": ["Na", "D"]}, "element: D"),
        ({"species_at_sites": ["Na"]}, "unreadable"),
        ({"species": [{"name": "Na", "chemical_symbols": ["Na"], "attached": ["H"], "nattached": [1]}]}, "unreadable"),
    ],
)
def test_optimade_that_is_no_ordered_crystal_is_a_reason(
    attributes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"data": [optimade(**attributes)]}))
    (row,) = read(tmp_path / "x.json")
    assert (row.reason or "").startswith(reason)


@pytest.mark.parametrize(("suffix", "opened"), [("", open), (".bz2", bz2.open), (".xz", lzma.open)])
def test_entries_of_alexandria_are_read_with_their_data(suffix: str, opened: Any, tmp_path: Path) -> None:
    data = [{"mat_id": f"agm{n}", "e_above_hull": 0.1 * n, "spg": {"number": 225}} for n in range(2)]
    entries = [ComputedStructureEntry(s, -7.0 - n, data=data[n]).as_dict() for n, s in enumerate((SALT, OTHER))]
    path = tmp_path / f"alexandria_000.json{suffix}"
    with opened(path, "wt") as file:
        json.dump({"entries": entries}, file)
    rows = read(path)
    assert [row.id for row in rows] == ["agm0", "agm1"]
    assert [row.labels for row in rows] == [
        {"e_above_hull": 0.1 * n, "energy": -7.0 - n, "correction": 0.0} for n in range(2)
    ]
    assert_same(rows[1].structure, OTHER)


@pytest.mark.parametrize("orient", ["split", "columns", "index", "records", "table"])
def test_json_of_pandas_is_read_whatever_its_orient(orient: Any, tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"structure": [SALT.as_dict(), OTHER.as_dict()], "gap pbe": [5.0, 4.0]})
    for index in (None, ["mb-1", "mb-2"]):
        named = frame if index is None else frame.set_axis(index)
        named.to_json(tmp_path / "x.json", orient=orient, default_handler=str, double_precision=15)
        rows = read(tmp_path / "x.json")
        assert [row.labels["gap pbe"] for row in rows] == [5.0, 4.0]
        assert_same(rows[1].structure, OTHER)
        if index and orient in ("split", "columns", "index"):
            assert [row.id for row in rows] == index


def test_one_crystal_in_a_file_is_named_by_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(SALT.as_dict()))
    write_crystals(tmp_path / "b.extxyz", [SALT], [""])
    assert [row.id for row in read(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"made_by": "me"}, "an object with the keys 'made_by'"),
        ({}, "an empty object"),
        ([], "an empty list"),
        ([[1, 2], [3, 4]], "a list of 2, the first list"),
        ("text", "only 'text'"),
        ({"ids": [1], "nextid": 2, "1": {"cell": []}}, "a database of ASE"),
        ({"columns": ["gap"], "index": [0], "data": [[1.0]]}, "an object with the keys 'columns', 'index', 'data'"),
    ],
)
def test_json_without_crystals_says_what_it_is_and_what_to_do(content: Any, what: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="no crystals in this JSON") as error:
        read(tmp_path / "x.json")
    assert what in error.value.message
    assert "list of pymatgen Structures" in error.value.hint


# Separators


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_of_crystals_has_the_separator_of_its_header(separator: str, tmp_path: Path) -> None:
    write_crystals(tmp_path / "x.csv", [SALT], ["a"], {"gap, in eV; PBE": [1.0]})
    import csv

    with (tmp_path / "x.csv").open(newline="") as file, (tmp_path / "y.csv").open("w", newline="") as out:
        csv.writer(out, delimiter=separator).writerows(csv.reader(file))
    (row,) = read(tmp_path / "y.csv")
    assert (row.id, row.labels) == ("a", {"gap, in eV; PBE": 1.0})
    assert_same(row.structure, SALT)


# Memory


def peak_of_reading(path: Path) -> int:
    """Bytes that are taken at most; numpy's are among them."""
    read(path)  # what is imported and kept
    tracemalloc.start()
    try:
        for record in read_records(path):
            examine(("", record), 20)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("columns", ["forces:R:100000000", "forces:R:-3", "forces:R:x", "a:R:99999999999999999999"])
def test_columns_that_an_extxyz_only_announces_take_no_memory(columns: str, tmp_path: Path) -> None:
    cell = 'Lattice="4 0 0 0 4 0 0 0 4"'
    (tmp_path / "x.extxyz").write_text(f"1\n{cell} Properties=species:S:1:pos:R:3:{columns}\nNa 0 0 0\n")
    (row,) = read(tmp_path / "x.extxyz")
    assert (row.reason or "").startswith("unreadable")
    assert peak_of_reading(tmp_path / "x.extxyz") < 5_000_000


def test_counts_that_a_file_only_announces_take_no_memory(tmp_path: Path) -> None:
    (tmp_path / "x.extxyz").write_text("900000000\nLattice=x\nH 0 0 0\n")
    (tmp_path / "x.vasp").write_text("x\n1.0\n4 0 0\n0 4 0\n0 0 4\nNa\n300000\nDirect\n0 0 0\n")
    for name in ("x.extxyz", "x.vasp"):
        assert peak_of_reading(tmp_path / name) < 5_000_000


@pytest.mark.parametrize("value", ["-1e9", "1e300", "12345678.5"])
def test_a_coordinate_far_away_is_rejected_before_neighbours_are_looked_for(value: str, tmp_path: Path) -> None:
    from chemeleon_cli.core.data.cif import cif_text

    salt = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
    far = Structure(salt.lattice, salt.species, [[0, 0, 0], [0.5, 0.5, float(value)]])
    (tmp_path / "a.cif").write_text(cif_text(salt, "").replace("0.50000000  1\n", f"{value}  1\n"))
    (tmp_path / "b.json").write_text(json.dumps(far.as_dict()))
    (tmp_path / "c.vasp").write_text(Poscar(salt).get_str().replace("0.5000000000000000 Cl", f"{value} Cl"))
    (tmp_path / "d.extxyz").write_text(f'2\nLattice="4 0 0 0 4 0 0 0 4"\nNa 0 0 0\nCl 2 2 {value}\n')
    for name in ("a.cif", "b.json", "c.vasp", "d.extxyz"):
        (record,) = read_records(tmp_path / name)
        assert (examine(("", record), 20).reason or "").split(":")[0] in ("coordinates", "no_cell", "unreadable"), name
        assert read(tmp_path / name)[0].structure is None
    assert peak_of_reading(tmp_path / "d.extxyz") < 5_000_000
