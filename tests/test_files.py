"""Crystals in files: every format out and back, and everything that can be wrong with a file."""

import gzip
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Element, Lattice, Structure
from pymatgen.io.cif import CifWriter
from pymatgen.io.vasp import Poscar
from samples import rock_salt

from chemeleon_cli.core.data.cif import cif_text, parse_cif
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources import folders, streams
from chemeleon_cli.sources.files import Row, read_crystals, write_crystals
from chemeleon_cli.sources.formats.csv import csv_rows
from chemeleon_cli.sources.parallel import ordered_map

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SALT = rock_salt(5.64)
QUARTZ = Structure.from_spacegroup(
    "P3_221", Lattice.hexagonal(4.91, 5.4), ["Si", "O"], [[0.4697, 0, 2 / 3], [0.4133, 0.2672, 0.7855]]
)
SUFFIXES = (".cif", ".cif.gz", ".extxyz", ".extxyz.gz", ".csv", ".csv.gz", ".json", ".json.gz")


def read(path: Path) -> list[Row]:
    return list(read_crystals(path))


def codes(rows: list[Row]) -> list[str | None]:
    return [row.reason and row.reason.split(":")[0] for row in rows]


def assert_same(found: Structure | None, expected: Structure, tolerance: float = 1e-6) -> None:
    assert found is not None
    assert found.atomic_numbers == expected.atomic_numbers
    np.testing.assert_allclose(found.lattice.parameters, expected.lattice.parameters, atol=tolerance)
    np.testing.assert_allclose(found.frac_coords, expected.frac_coords, atol=tolerance)


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    """Any cell and any atoms, overlapping ones too: what a generator may come up with."""
    lengths = draw(st.lists(st.floats(1.0, 30.0), min_size=3, max_size=3))
    angles = draw(st.lists(st.floats(60.0, 115.0), min_size=3, max_size=3))
    count = draw(st.integers(1, 12))
    numbers = draw(st.lists(st.integers(1, 100), min_size=count, max_size=count))
    coordinates = draw(st.lists(st.floats(-0.5, 1.5), min_size=3 * count, max_size=3 * count))
    return Structure(Lattice.from_parameters(*lengths, *angles), numbers, np.reshape(coordinates, (count, 3)))


@settings(max_examples=40, deadline=None)
@given(crystals=st.lists(structures(), min_size=1, max_size=4), suffix=st.sampled_from(SUFFIXES))
def test_every_format_gives_back_what_was_written(
    crystals: list[Structure], suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("round") / f"crystals{suffix}"
    ids = [f"c-{i:03d}" for i in range(len(crystals))]
    gaps = [None if i == 1 else 0.1 + i for i in range(len(crystals))]
    write_crystals(path, crystals, ids, {"band_gap": gaps})
    rows = read(path)
    assert [row.id for row in rows] == ids
    for row, crystal, gap in zip(rows, crystals, gaps, strict=True):
        assert row.reason is None
        assert_same(row.structure, crystal)
        assert row.labels == ({} if gap is None else {"band_gap": gap})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_ids_that_look_like_numbers_stay_text(suffix: str, tmp_path: Path) -> None:
    ids = ["007", "1e5", "T", "mp-1/b"]
    write_crystals(tmp_path / f"x{suffix}", [SALT] * 4, ids)
    assert [row.id for row in read(tmp_path / f"x{suffix}")] == ids


def test_cif_keeps_ids_and_label_names_whatever_is_in_them(tmp_path: Path) -> None:
    ids = ["é 'x' \"y\"\n#", "mp-1", "a;b_data_z"]
    write_crystals(tmp_path / "x.cif", [SALT, QUARTZ, SALT], ids, {"gap (eV)": [1.5, float("nan"), None]})
    rows = read(tmp_path / "x.cif")
    assert [row.id for row in rows] == ids
    assert [row.labels for row in rows] == [{"gap (eV)": 1.5}, {}, {}]


def test_our_cif_is_read_alike_by_pymatgen(tmp_path: Path) -> None:
    write_crystals(tmp_path / "x.cif", [QUARTZ], ["q"])
    assert_same(Structure.from_file(tmp_path / "x.cif").get_sorted_structure(), QUARTZ.get_sorted_structure())


def test_overlapping_and_special_positions_survive_cif() -> None:
    crowd = Structure(Lattice.cubic(4), ["C", "C", "O"], [[0.33338, 0, 0], [0.33338, 0, 0], [0.66661, 0.5, 0.5]])
    assert_same(parse_cif(cif_text(crowd, "x")), crowd)


@pytest.mark.parametrize("crystal", [SALT, QUARTZ])
def test_symmetry_is_applied(crystal: Structure) -> None:
    text = str(CifWriter(crystal, symprec=0.01))
    assert "x, y, z" in text
    assert text.count("\n  ") < len(crystal) + 200
    found = parse_cif(text)
    assert found.composition == crystal.composition
    assert found.volume == pytest.approx(crystal.volume)
    assert found.matches(crystal)


def test_four_digit_thirds_do_not_split_a_site() -> None:
    text = """data_zinc
_cell_length_a 2.6649(3)
_cell_length_b 2.6649(3)
_cell_length_c 4.9468
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
_symmetry_space_group_name_H-M 'P 63/m m c'
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Zn1 0.3333 0.6667 0.25
"""
    assert len(parse_cif(text)) == 2


def test_a_folder_and_a_zip_give_the_same_rows(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    (folder / "deep").mkdir(parents=True)
    (folder / ".hidden.cif").write_text("no")
    (folder / "notes.txt").write_text("no")
    CifWriter(SALT).write_file(folder / "salt.cif")
    Poscar(QUARTZ).write_file(str(folder / "deep" / "quartz.vasp"))
    Poscar(SALT).write_file(str(folder / "POSCAR"))
    Poscar(SALT).write_file(str(folder / "deep" / "CONTCAR.gz"))
    (folder / "deep" / "CONTCAR.gz").write_bytes(gzip.compress(Poscar(SALT).get_str().encode()))
    write_crystals(folder / "two.extxyz", [SALT, QUARTZ], ["s", "q"], {"gap": [5.0, 6.0]})
    with zipfile.ZipFile(tmp_path / "mixed.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder).as_posix())
    rows, zipped = read(folder), read(tmp_path / "mixed.zip")
    expected = {
        "POSCAR": "NaCl",
        "deep/CONTCAR": "NaCl",
        "deep/quartz": "SiO2",
        "s": "NaCl",
        "q": "SiO2",
        "salt": "NaCl",
    }
    for found in (rows, zipped):
        assert {r.id: r.structure.reduced_formula for r in found if r.structure} == expected
        assert {r.id: r.labels for r in found if r.labels} == {"s": {"gap": 5.0}, "q": {"gap": 6.0}}


def test_parquet_and_the_other_names_of_the_cif_column(tmp_path: Path) -> None:
    import pandas as pd

    texts = [cif_text(SALT, ""), json.dumps(QUARTZ.as_dict()), None]
    for column in ("cif", "CIF", "cif_string", "structure"):
        frame = pd.DataFrame(
            {"mp_id": [1.0, 2.0, 3.0], column: texts, "gap": [1.0, float("nan"), 2], "good": [True, False, True]}
        )
        frame.to_parquet(tmp_path / "x.parquet")
        frame.to_csv(tmp_path / "x.csv")
        for name in ("x.parquet", "x.csv"):
            rows = read(tmp_path / name)
            assert [r.id for r in rows] in (["1", "2", "3"], ["1.0", "2.0", "3.0"])
            assert codes(rows) == [None, None, "no_structure"]
            assert_same(rows[1].structure, QUARTZ)
            assert [r.labels.get("gap") for r in rows] == [1.0, None, 2.0]
            assert rows[1].labels["good"] == 0.0


def test_json_of_several_shapes(tmp_path: Path) -> None:
    one, two = SALT.as_dict(), QUARTZ.as_dict() | {"properties": {"gap": 5.7, "note": "x"}}
    for content in (
        [one, two],
        {"a": one, "b": two},
        [{"material_id": "a", "structure": one}, {"material_id": "b", "structure": two}],
        [{"id": "a", "cif": cif_text(SALT, "")}, {"id": "b", "structure": json.dumps(two), "gap": 5.7}],
    ):
        (tmp_path / "x.json").write_text(json.dumps(content))
        rows = read(tmp_path / "x.json")
        assert [r.structure.reduced_formula for r in rows if r.structure] == ["NaCl", "SiO2"]
        assert rows[1].labels == {"gap": 5.7}
        assert [r.id for r in rows] == (["x-1", "x-2"] if content == [one, two] else ["a", "b"])


# What can be wrong with a row


def broken_cifs() -> dict[str, str]:
    good = cif_text(SALT, "")
    return {
        "": "no_structure",
        "   ": "no_structure",
        "hello": "unreadable",
        "data_x": "unreadable",
        good[: len(good) // 2]: "unreadable",
        good.replace("_cell_length_a   5.64000000", "_cell_length_a   ?"): "unreadable",
        good.replace("0.50000000", "nan"): "unreadable",
        good.replace("  Na  Na0", "  D  D0"): "element",
        good.replace("  Na  Na0", "  T  T0"): "element",
        good.replace("  Na  Na0", "  X  X0"): "element",
        good.replace("  Na  Na0", "  Md  Md0"): "element",
        good.replace("0.00000000  1\n  Na", "0.00000000  0.5\n  Na"): "disorder",
        str(CifWriter(Structure(SALT.lattice, [{"Na": 0.5, "K": 0.5}, "Cl"], [[0, 0, 0], [0.5] * 3]))): "disorder",
        good + "x" * 2_100_000: "unreadable",
    }


def test_bad_cifs_are_reasons_not_crashes(tmp_path: Path) -> None:
    cases = broken_cifs()
    good = cif_text(SALT, "")
    write_table(tmp_path / "x.csv", [{"material_id": str(i), "cif": text} for i, text in enumerate([*cases, good])])
    rows = read(tmp_path / "x.csv")
    assert codes(rows) == [*cases.values(), None]
    assert all((row.structure is None) == (row.reason is not None) for row in rows)
    assert all(len(row.reason or "") < 300 for row in rows)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_mangled_cif_never_crashes(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    text = cif_text(SALT, "x")
    start = data.draw(st.integers(0, len(text)))
    junk = data.draw(st.text(max_size=20))
    path = tmp_path_factory.mktemp("mangled") / "x.cif"
    path.write_text(text[:start] + junk + text[data.draw(st.integers(start, len(text))) :], encoding="utf-8")
    for row in read(path):
        assert (row.structure is None) == (row.reason is not None)


def test_nearly_full_sites_are_rounding() -> None:
    text = cif_text(SALT, "").replace("  1\n", "  0.999\n")
    assert_same(parse_cif(text), SALT)


def test_oxidation_states_and_site_properties_go(tmp_path: Path) -> None:
    dressed = SALT.copy()
    dressed.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    CifWriter(dressed).write_file(tmp_path / "a.cif")
    (tmp_path / "b.json").write_text(json.dumps([dressed.copy(site_properties={"magmom": [1.0] * 8}).as_dict()]))
    for name in ("a.cif", "b.json"):
        structure = read(tmp_path / name)[0].structure
        assert structure is not None
        assert {type(site.specie) for site in structure} == {Element}
        assert not structure.site_properties


def test_poscar_without_symbols_is_refused_not_guessed(tmp_path: Path) -> None:
    lines = Poscar(SALT).get_str().splitlines()
    (tmp_path / "POSCAR").write_text(
        "\n".join(["unknown", *lines[1:5], *lines[6:8], *(x.rsplit(" ", 1)[0] for x in lines[8:])])
    )
    assert codes(read(tmp_path / "POSCAR")) == ["element"]


@pytest.mark.parametrize("symbol", ["D", "T"])
def test_isotopes_are_named_in_every_format(symbol: str, tmp_path: Path) -> None:
    name = json.dumps(SALT.as_dict()).replace('"Na"', f'"{symbol}"')
    (tmp_path / "x.json").write_text(f"[{name}]")
    (tmp_path / "POSCAR").write_text(Poscar(SALT).get_str().replace("Na Cl", f"{symbol} Cl"))
    symmetric = str(CifWriter(SALT, symprec=0.01)).replace("  Na  Na0", f"  {symbol}  {symbol}0")
    (tmp_path / "x.cif").write_text(symmetric)
    for file in ("x.json", "POSCAR", "x.cif"):
        assert [row.reason for row in read(tmp_path / file)] == [f"element: {symbol}"]


def test_extxyz_that_is_not_a_crystal(tmp_path: Path) -> None:
    write_crystals(tmp_path / "good.extxyz", [SALT], ["a"])
    good = (tmp_path / "good.extxyz").read_text()
    path = tmp_path / "x.extxyz"
    path.write_text(good + good.replace("T T T", "T T F") + "1\n\nH 0 0 0\n" + good.replace("Na", "Qq") + good[:-60])
    assert codes(read(path)) == [None, "no_cell", "no_cell", "unreadable", "unreadable"]
    path.write_text("eight\n" + good)
    with pytest.raises(UserError, match="number of atoms"):
        read(path)


@pytest.mark.parametrize("start", ["²", "9" * 5000, "-1", "8.0"])
def test_an_extxyz_that_does_not_start_with_a_count_is_an_error(start: str, tmp_path: Path) -> None:
    (tmp_path / "x.extxyz").write_text(f"{start}\nLattice=x\nH 0 0 0\n")
    with pytest.raises(UserError, match="not with its number of atoms"):
        read(tmp_path / "x.extxyz")


def test_an_info_line_that_does_not_parse_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "x.extxyz").write_text("1\n=\nH 0 0 0\n")
    assert codes(read(tmp_path / "x.extxyz"))[0] in ("no_cell", "unreadable")


def test_the_id_column_counts_in_every_format(tmp_path: Path) -> None:
    write_crystals(tmp_path / "x.extxyz", [SALT], ["a"], {"uid": [7.0], "gap": [5.0]})
    (tmp_path / "x.json").write_text(json.dumps([SALT.as_dict() | {"properties": {"uid": 7.0, "gap": 5.0}}]))
    for name, expected in (("x.extxyz", "7.0"), ("x.json", "7")):
        (row,) = read_crystals(tmp_path / name, "uid")
        assert (row.id, row.labels) == (expected, {"gap": 5.0})
        with pytest.raises(UserError, match=r"no column 'uidd' \(id_column\)") as error:
            list(read_crystals(tmp_path / name, "uidd"))
        assert "'uid'" in error.value.hint


def test_a_label_in_a_cif_that_is_no_number_is_none(tmp_path: Path) -> None:
    text = cif_text(SALT, "a", {"gap": 1.5, "mass": 2.0})
    (tmp_path / "x.cif").write_text(text.replace("1.5", "?").replace("2.0", "-"))
    (row,) = read(tmp_path / "x.cif")
    assert (row.id, row.reason, row.labels) == ("a", None, {})


def test_a_row_with_missing_cells_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('material_id,cif,gap\na,"",1\nb,x\nc,"x",2,3\n')
    assert [(r.id, *codes([r])) for r in read(tmp_path / "x.csv")] == [
        ("a", "no_structure"), ("x-2", "unreadable"), ("x-3", "unreadable")
    ]  # fmt: skip


# What can be wrong with a file


def write_table(path: Path, rows: list[dict]) -> None:
    import pandas as pd

    pd.DataFrame(rows).to_csv(path, index=False)


def table(tmp_path: Path, count: int = 300) -> Path:
    path = tmp_path / "x.csv.gz"
    write_crystals(path, [SALT.copy().perturb(0.01 * i) for i in range(count)], [str(i) for i in range(count)])
    return path


def test_a_truncated_gzip_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = table(tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"x\.csv\.gz: is incomplete"):
        read(path)


def test_a_corrupted_gzip_is_an_error(tmp_path: Path) -> None:
    path = table(tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 50] = b"\xff" * 50
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.csv\.gz"):
        read(path)


def test_a_truncated_csv_is_an_error(tmp_path: Path) -> None:
    text = gzip.decompress(table(tmp_path, 3).read_bytes())
    (tmp_path / "y.csv").write_bytes(text[:-100])
    with pytest.raises(UserError, match="CSV"):
        read(tmp_path / "y.csv")


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.parquet", "x.json", "x.json.gz", "x.extxyz", "x.zip"])
def test_random_bytes_are_an_error(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(UserError, match=name):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["x.cif", "POSCAR"])
def test_random_bytes_in_a_file_of_one_crystal_are_a_reason(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(5000))
    assert codes(read(tmp_path / name)) == ["unreadable"]


def test_a_table_without_crystals_names_its_columns(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("id,formula\n1,NaCl\n")
    with pytest.raises(UserError, match="'id', 'formula'"):
        read(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(UserError, match="found nothing"):
        read(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("cif,gap,gap\n,1,2\n")
    with pytest.raises(UserError, match="twice"):
        read(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("cif,name\n,1\n")
    with pytest.raises(UserError, match="nme") as error:
        list(read_crystals(tmp_path / "x.csv", id_column="nme"))
    assert "did you mean 'name'" in error.value.hint


def test_missing_and_unknown_paths_say_what_is_there(tmp_path: Path) -> None:
    table(tmp_path, 1)
    (tmp_path / "empty").mkdir()
    for name, hint in (
        ("x.csv", "x.csv.gz"),
        ("empty", ".cif"),
        ("elsewhere/y.cif", "does not exist"),
        ("x.pdf", ".cif"),
    ):
        (tmp_path / "x.pdf").write_bytes(b"")
        with pytest.raises(UserError) as error:
            read(tmp_path / name)
        assert hint in error.value.hint


def test_a_zip_bomb_is_refused_unread(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.cif", b"\n" * 30_000_000)
    with pytest.raises(UserError, match="bomb"):
        read(tmp_path / "x.zip")


@pytest.mark.parametrize("name", ["x.zip", "x.parquet", "x.json", "x.json.gz", "x.extxyz.gz"])
def test_a_file_that_was_cut_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    import pandas as pd

    path = tmp_path / name
    if name == "x.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.cif", cif_text(SALT, ""))
    elif name == "x.parquet":
        pd.DataFrame({"cif": [cif_text(SALT, "")] * 20}).to_parquet(path)
    else:
        write_crystals(path, [SALT] * 20, [str(i) for i in range(20)])
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(UserError, match=rf"x\..*{name.rpartition('.')[2]}"):
        read(path)


def test_a_packing_that_is_not_known_or_damaged_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.cif", cif_text(SALT, ""))
    content = path.read_bytes()
    path.write_bytes(content[:60] + b"\xff" * 40 + content[100:])
    with pytest.raises(UserError, match=r"x\.zip: a\.cif"):
        read(path)
    path.write_bytes(content.replace(b"\x0e\x00", b"\x09\x00", 2).replace(b"\x0e\x00", b"\x09\x00"))
    with pytest.raises(UserError, match=r"a\.cif is compressed by an unsupported method \(9\)"):
        read(path)


def test_a_gz_bomb_of_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BOMB_SIZE", 1_000_000)
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"cif\n" + b"0\n" * 750_000))
    with pytest.raises(UserError, match=r"x\.csv\.gz unpacks to .* refused as a possible zip bomb"):
        for _ in csv_rows(next(folders.sources_of(tmp_path / "x.csv.gz")).open(), "x"):
            pass


def test_a_quote_that_is_not_closed_ends_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chemeleon_cli.sources.formats.csv.MAX_LINE", 1000)
    (tmp_path / "x.csv").write_text('cif\n""\n"\n' + "x\n" * 5000)
    with pytest.raises(UserError, match=r"x\.csv:3: not a readable CSV row: field larger than"):
        read(tmp_path / "x.csv")


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"cif\n" + b"0\n" * 10_000 + b"caf\xe9\n")
    with pytest.raises(UserError, match=r"x\.csv: not text in UTF-8: byte 20,007 is 0xe9"):
        read(tmp_path / "x.csv")


def test_files_that_are_not_read_are_counted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.cif", "Si_POSCAR", "x.cif.zst", "notes.res", "more.zip", ".hidden"):
        (tmp_path / "in" / name).write_text(cif_text(SALT, ""))
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for path in (tmp_path / "in").iterdir():
            archive.write(path, f"in/{path.name}")
    for path in (tmp_path / "in", tmp_path / "in.zip"):
        assert folders.left_out(path) == {"no suffix": 1, ".zst": 1, ".res": 1, ".zip": 1}
    assert not folders.left_out(tmp_path / "in" / "a.cif")


def test_a_bomb_inside_a_small_member_of_an_archive_is_stopped(tmp_path: Path) -> None:
    for name in ("POSCAR.gz", "x.csv.gz"):
        bomb = gzip.compress(b"cif\n" + b"0" * (streams.MAX_LINE + 10))
        assert len(bomb) < 20_000
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr(name, bomb)
        with pytest.raises(UserError, match=r"more than [\d,]+ (bytes|characters)"):
            read(tmp_path / "x.zip")


def test_a_huge_cif_is_a_reason_and_the_next_crystal_is_read(tmp_path: Path) -> None:
    huge = cif_text(SALT, "huge").rstrip("\n") + "\n" + "  Cl  Cl9  0.1  0.1  0.1  1\n" * 150_000
    (tmp_path / "x.cif").write_text(huge + cif_text(SALT, "small"))
    rows = read(tmp_path / "x.cif")
    assert [(row.id, *codes([row])) for row in rows] == [("huge", "unreadable"), ("small", None)]


def test_an_endless_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"cif\n" + b"0" * (streams.MAX_LINE + 10)))
    with pytest.raises(UserError, match="a line of more than"):
        read(tmp_path / "x.csv.gz")


def test_a_path_in_an_archive_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "x.zip", "w") as archive:
        archive.writestr("../../evil.cif", cif_text(SALT, ""))
    assert codes(read(tmp_path / "in" / "x.zip")) == [None]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["in", "x.zip"]


# Writing


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.cif"
    write_crystals(path, [SALT], ["old"])
    before = path.read_bytes()
    shared = Structure(SALT.lattice, [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])
    with pytest.raises(AttributeError):
        write_crystals(path, [SALT, shared], ["new", "impossible"])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.cif"]


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        for name in ("a", "b"):
            write_crystals(tmp_path / f"{name}{suffix}", [SALT, QUARTZ], ["s", "q"])
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("name", ["x.pdf", "x.xyz", "x", "x.parquet", "POSCAR"])
def test_other_suffixes_cannot_be_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        write_crystals(tmp_path / name, [SALT], ["a"])


def test_no_crystals_is_a_file_too(tmp_path: Path) -> None:
    write_crystals(tmp_path / "x.csv", [], [])
    assert read(tmp_path / "x.csv") == []


def test_ase_reads_our_extxyz(tmp_path: Path) -> None:
    from ase.io import read as ase_read

    write_crystals(tmp_path / "x.extxyz", [QUARTZ], ["q"], {"gap": [1.5]})
    atoms = ase_read(tmp_path / "x.extxyz")
    assert not isinstance(atoms, list)
    np.testing.assert_allclose(atoms.positions, QUARTZ.cart_coords, atol=1e-8)
    assert atoms.pbc.all()
    assert atoms.info["gap"] == 1.5


# Many at once


def test_workers_keep_the_order() -> None:
    assert list(ordered_map(abs, range(-500, 500), patience=0.0)) == [abs(i) for i in range(-500, 500)]


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = table(tmp_path, 5)
    whole = gzip.decompress(path.read_bytes())
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb") as file:
        file.write(whole)
    path.write_bytes(stream.getvalue()[:-20])
    assert next(iter(read_crystals(path))).id == "0"
