"""Labels in the folder or archive of the crystals, as people have them; and columns that are nearly labels."""

import csv
import gzip
import json
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

from chemeleon_cli.app import app
from chemeleon_cli.core.data.cif import cif_text
from chemeleon_cli.sources import picture
from chemeleon_cli.sources.files import read_crystals

CATIONS = ("Li", "Na", "K", "Rb", "Cs", "Ag")


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "draw", lambda path, manifest, labels: path.write_bytes(b""))


def cifs(folder: Path, names: str | list[str] = "abcd") -> Path:
    """A folder of CIFs with these names."""
    for name, cation in zip(names, CATIONS, strict=False):
        path = folder / f"{name}.cif"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(cif_text(Structure(Lattice.cubic(5), [cation, "Cl"], [[0, 0, 0], [0.5] * 3]), ""))
    return folder


def command(source: Path, *settings: str) -> Any:
    """What `chemeleon fetch-data` says, and the labels by crystal that it wrote."""
    arguments = ["fetch-data", "--source", str(source), "--out", str(source.parent / "data"), "--overwrite"]
    chosen = ["name=t", "split.by=random", "split.fractions=[1, 0, 0]", *settings]
    return CliRunner().invoke(app, [*arguments, *(word for setting in chosen for word in ("--set", setting))])


def fetch(source: Path, *settings: str) -> tuple[dict[str, dict[str, str]], dict[str, Any], str]:
    result = command(source, *settings)
    assert result.exit_code == 0, result.output
    folder = source.parent / "data" / "t"
    with gzip.open(folder / "train.csv.gz", "rt", newline="", encoding="utf-8") as file:
        rows = {row.pop("material_id"): row for row in csv.DictReader(file)}
    for row in rows.values():
        del row["cif"], row["pretty_formula"]
    return rows, json.loads((folder / "manifest.json").read_text(encoding="utf-8")), result.output


def refused(source: Path, *settings: str) -> str:
    result = command(source, *settings)
    assert result.exit_code == 2, result.output
    assert not (source.parent / "data").exists()
    return result.output


def labels(source: Path, *settings: str) -> dict[str, list[str]]:
    return {name: list(row.values()) for name, row in fetch(source, *settings)[0].items()}


# Which file holds the labels


def test_a_data_set_of_cgcnn_is_read_as_it_is(tmp_path: Path) -> None:
    folder = cifs(tmp_path / "cgcnn")
    (folder / "id_prop.csv").write_text("a,1.0\nb,2.0\nc,3.0\nzz,4.0\n")
    (folder / "atom_init.json").write_text('{"3": [0, 1], "17": [1, 0]}')
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "README.md").write_text("read me")
    rows, manifest, shown = fetch(folder, "labels={target: band_gap}")
    assert rows == {"a": {"band_gap": "1.0"}, "b": {"band_gap": "2.0"}, "c": {"band_gap": "3.0"}, "d": {"band_gap": ""}}
    assert "id_prop.csv: 4 rows; 1 crystals have none, 1 rows have no crystal" in shown
    assert set(manifest["source_files"]) >= {"id_prop.csv", "a.cif"}
    assert manifest["left_out_files"] == {".md": 1}
    assert manifest["unread_tables"] == {}


def test_a_table_about_something_else_does_not_compete_with_the_labels(tmp_path: Path) -> None:
    folder = cifs(tmp_path / "set", "ab")
    (folder / "labels.csv").write_text("id,gap\na,1.0\nb,2.0\n")
    (folder / "authors.csv").write_text("name,score\nCurie,3\nBragg,4\n")
    (folder / "measurements.csv").write_text("date,note\n1912,first,extra\n")
    rows, manifest, _ = fetch(folder)
    assert rows == {"a": {"gap": "1.0"}, "b": {"gap": "2.0"}}
    assert set(manifest["unread_tables"]) == {str(folder / "authors.csv"), str(folder / "measurements.csv")}


def test_a_number_as_python_writes_it_suggests_no_unit(tmp_path: Path) -> None:
    folder = cifs(tmp_path / "set", "ab")
    (folder / "labels.csv").write_text("id,gap\na,1_000\nb,2_000\n")
    assert "if the unit is" not in command(folder).output


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "id,target\na,1.0\nb,2.0\n"),
        ("any.csv", "a,1.0\nb,2.0\n"),
        ("any.csv", "a.cif;1.0\nb.cif;2.0\n"),
        ("any.tsv", "key\ttarget\na.cif\t1.0\nb.cif\t2.0\n"),
        ("any.csv", "id; target\n a; 1.0\n b; 2.0\n"),
        ("any.csv", "cif,target\na.cif,1.0\nb.cif,2.0\n"),
        ("any.csv", "file,id,target\na.cif,17,1.0\nb.cif,18,2.0\n"),
        ("metadata.json", '{"a": {"target": 1.0}, "b": {"target": 2.0}}'),
        ("metadata.json", '{"about": "mine", "a": {"target": 1.0}, "b": {"target": 2.0}}'),
        ("metadata.json", '{"a": 1.0, "b": 2.0}'),
        ("metadata.json", '[{"filename": "a.cif", "target": 1.0}, {"filename": "b.cif", "target": 2.0}]'),
        ("metadata.json", '{"target": {"a": 1.0, "b": 2.0}}'),
        ("metadata.json", '{"columns": ["target"], "index": ["a", "b"], "data": [[1.0], [2.0]]}'),
    ],
)
def test_a_table_in_the_folder_or_zip_is_found_by_what_is_in_it(tmp_path: Path, name: str, text: str) -> None:
    folder = cifs(tmp_path / "set", "ab")
    (folder / name).write_text(text)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"set/{path.name}")
    for source in (folder, tmp_path / "set.zip"):
        assert [row["target"] for row in fetch(source)[0].values()] == ["1.0", "2.0"]


def test_score_reads_the_crystals_and_not_the_table(tmp_path: Path) -> None:
    folder = cifs(tmp_path / "set")
    (folder / "labels.csv").write_text("id,gap\na,1.0\n")
    (folder / "more.csv").write_text("id,gap\nb,1.0\n")
    assert [row.id for row in read_crystals(folder)] == list("abcd")


def test_tables_of_which_any_could_be_meant_are_an_error(tmp_path: Path) -> None:
    folder = cifs(tmp_path / "set")
    for name in ("id_prop.csv", "labels.csv"):
        (folder / name).write_text("id,gap\na,1.0\n")
    shown = refused(folder)
    assert "id_prop.csv and labels.csv could both be the labels of its crystals" in shown
    assert "--set labels_file=FILE" in shown
    assert labels(folder, f"labels_file={folder / 'labels.csv'}")["a"] == ["1.0"]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("notes.json", '{"made_by": "me"}', "neither crystals nor labels by their ids"),
        ("notes.csv", "who,when\nme,now\n", "no column with ids; found 'who', 'when'"),
    ],
)
def test_what_is_neither_crystals_nor_labels_is_named(tmp_path: Path, name: str, text: str, why: str) -> None:
    folder = cifs(tmp_path / "set")
    (folder / name).write_text(text)
    rows, manifest, shown = fetch(folder)
    assert list(rows) == list("abcd")
    assert why in manifest["unread_tables"][str(folder / name)]
    assert f"{name}: {why}" in shown


def test_a_table_without_any_of_the_crystals_is_an_error(tmp_path: Path) -> None:
    folder = cifs(tmp_path / "set")
    (folder / "labels.csv").write_text("id,gap\nA,1.0\n")
    assert "none of its 1 ids is that of one of the 4 crystals" in refused(folder)


def test_a_folder_of_tables_only_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "labels.csv").write_text("id,gap\na,1.0\n")
    assert "no column with crystals; found 'id', 'gap'" in refused(tmp_path / "set")


# Which row belongs to which crystal


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["a", "b"], ["a.cif", "b.cif"]),
        (["x/a", "y/b"], ["a", "b"]),
        (["x/a", "y/b"], ["x/a.cif", "y\\b.cif"]),
        (["001", "004"], ["001", "004"]),
        (["001", "004"], ["1", "4"]),
        (["1", "4"], ["1.0", "4.0"]),
        ([unicodedata.normalize("NFD", "ä b"), "β"], [unicodedata.normalize("NFC", "ä b"), "β"]),
        ([unicodedata.normalize("NFC", "ä b"), "β"], [unicodedata.normalize("NFD", "ä b"), "β"]),
    ],
)
def test_ids_are_names_of_files_however_they_are_written(tmp_path: Path, names: list[str], ids: list[str]) -> None:
    folder = cifs(tmp_path / "set", names)
    for place in (folder / "labels.csv", tmp_path / "labels.csv"):
        place.write_text(f"id,gap\n{ids[0]},1.5\n{ids[1]},2.5\n", encoding="utf-8")
        found = labels(folder, *([] if place.parent == folder else [f"labels_file={place}"]))
        assert list(found.values()) == [["1.5"], ["2.5"]]
        place.unlink()


def test_a_column_of_numbers_is_not_taken_for_the_ids(tmp_path: Path) -> None:
    folder = cifs(tmp_path / "set", ["1", "2", "3"])
    (tmp_path / "labels.csv").write_text("id,gap\n1.0,3\n2.0,2\n3.0,1\n")
    assert labels(folder, f"labels_file={tmp_path / 'labels.csv'}") == {"1": ["3.0"], "2": ["2.0"], "3": ["1.0"]}


@pytest.mark.parametrize(
    ("names", "table", "message"),
    [
        (["x/a", "y/a"], "id,gap\na,1\n", "row 'a' could belong to 'x/a' or 'y/a'"),
        (["4", "004"], "id,gap\n04,1\n", "row '04' could belong to '004' or '4'"),
        (["a", "b"], "id,gap\nx/a,1\ny/a,2\n", "rows 'x/a' and 'y/a' could both belong to 'a'"),
        (["a", "b"], "id,gap\na,1\na,2\n", "id 'a' has two different rows"),
        (["a", "b"], "key,name2,gap\na,b,1\n", "columns 'key', 'name2' all contain ids of crystals"),
    ],
)
def test_what_could_belong_to_several_is_an_error(tmp_path: Path, names: list[str], table: str, message: str) -> None:
    folder = cifs(tmp_path / "set", names)
    (folder / "labels.csv").write_text(table)
    assert message in refused(folder).replace("\n", " ")


def test_names_that_differ_in_zeros_only_are_told_apart(tmp_path: Path) -> None:
    folder = cifs(tmp_path / "set", ["4", "004"])
    (folder / "labels.csv").write_text("id,gap\n4,1\n004,2\n")
    assert labels(folder) == {"004": ["2.0"], "4": ["1.0"]}


# Archives


@pytest.mark.parametrize("name", ["{}", "set/{}", "set\\{}"])
@pytest.mark.parametrize("table", ["labels.csv", "id_prop.csv"])
def test_an_archive_is_the_folder_that_was_packed(tmp_path: Path, name: str, table: str) -> None:
    folder = cifs(tmp_path / "set")
    (folder / table).write_text("id,gap\na,1\nd,2\n" if table == "labels.csv" else "a,1\nd,2\n")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in sorted(folder.iterdir()):
            info = zipfile.ZipInfo(file.name)
            info.filename = name.format(file.name)  # past what the class does to backslashes
            archive.writestr(info, file.read_bytes())
        archive.writestr("__MACOSX/set/._a.cif", "\0\5\x16\7")
        archive.writestr(name.format(".DS_Store"), "\0")
    inside, packed = labels(folder), labels(tmp_path / "set.zip")
    assert inside == packed == {"a": ["1.0"], "b": [""], "c": [""], "d": ["2.0"]}
    (folder / table).rename(tmp_path / table)
    assert labels(tmp_path / "set.zip", f"labels_file={tmp_path / table}") == inside


def test_deeper_folders_of_an_archive_stay_in_the_ids(tmp_path: Path) -> None:
    folder = cifs(tmp_path / "set", ["x/a", "y/a"])
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in folder.rglob("*.cif"):
            archive.write(file, f"set/{file.relative_to(folder).as_posix()}")
    assert list(labels(tmp_path / "set.zip")) == ["x/a", "y/a"]


# Columns that are nearly labels


def test_a_unit_is_taken_off_where_it_is_declared_and_only_there(tmp_path: Path) -> None:
    folder = cifs(tmp_path / "set", "abc")
    (folder / "labels.csv").write_text("id,gap (eV),mass\na,1.0 eV,2\nb,2.0eV,3\nc,3.0,4\n")
    rows, manifest, shown = fetch(folder)
    assert set(rows["a"]) == {"mass"}
    why = "no number in 2 rows, the first '1.0 eV' of a; if the unit is eV: --set 'units={gap (eV): eV}'"
    assert manifest["left_out_columns"] == {"gap (eV)": why}
    assert f"column 'gap (eV)' is not a label: {why}" in shown
    rows, manifest, _ = fetch(folder, "units={gap (eV): eV}")
    assert [row["gap (eV)"] for row in rows.values()] == ["1.0", "2.0", "3.0"]
    assert manifest["units"] == {"gap (eV)": "eV"}


def test_another_unit_than_the_declared_one_is_no_number(tmp_path: Path) -> None:
    folder = cifs(tmp_path / "set", "abc")
    (folder / "labels.csv").write_text("id,gap\na,1.0 eV\nb,2.0 meV\nc,eV\n")
    rows, manifest, _ = fetch(folder, "units={gap: eV}", "labels={gap: gap}")
    assert [row["gap"] for row in rows.values()] == ["1.0", "", ""]
    assert "no number in 2 rows, the first '2.0 meV' of b" in manifest["not_numbers"]["gap"]


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ('"1,5"', "no number in 1 row, the first '1,5' of a; write numbers with a decimal point"),
        ('"1,234.5"', "no number in 1 row, the first '1,234.5' of a; write numbers with a decimal point"),
        ("12 %", "if the unit is %: --set 'units={x: \"%\"}'"),
        ("5.64Å", "if the unit is Å: --set 'units={x: Å}'"),
        ("-1.5e-3 eV/atom", "--set 'units={x: eV/atom}'"),
        ("1e400", "numbers beyond 1e+30 cannot be labels"),
        ("cubic", "text, such as 'cubic'"),
        ("2024-01-02", "text, such as '2024-01-02'"),
    ],
)
def test_what_is_nearly_a_number_is_shown_with_what_makes_it_one(tmp_path: Path, cell: str, why: str) -> None:
    folder = cifs(tmp_path / "set", "ab")
    (folder / "labels.csv").write_text(f"id,x\na,{cell}\nb,\n", encoding="utf-8")
    _, manifest, shown = fetch(folder)
    assert why in manifest["left_out_columns"]["x"]
    assert (why.removeprefix("text, such as ")) in shown
    assert manifest["labels"] == {}


@pytest.mark.parametrize("empty", ["", "-", "–", "#N/A", "<NA>", "nan", "None", "?"])
def test_cells_that_say_nothing_are_empty(tmp_path: Path, empty: str) -> None:
    folder = cifs(tmp_path / "set", "abc")
    (folder / "labels.csv").write_text(f"id,x\na,1.0\nb,{empty}\nc,2.0\n", encoding="utf-8")
    assert labels(folder) == {"a": ["1.0"], "b": [""], "c": ["2.0"]}


def test_a_constant_label_is_remarked_on(tmp_path: Path) -> None:
    folder = cifs(tmp_path / "set", "abc")
    (folder / "labels.csv").write_text("id,x,y,z\na,7,1,3\nb,7,2,\nc,,3,\n")
    shown = fetch(folder)[2]
    assert "label 'x' is 7 for every crystal that has it: nothing to learn" in shown
    assert "label 'y'" not in shown and "label 'z'" not in shown


def test_units_of_a_column_that_is_not_there_are_an_error(tmp_path: Path) -> None:
    folder = cifs(tmp_path / "set", "ab")
    (folder / "labels.csv").write_text("id,gap\na,1.0 eV\n")
    shown = refused(folder, "units={gpa: eV}")
    assert "units: the source has no column 'gpa'" in shown and "did you mean 'gap'" in shown
    assert "labels of materials-project are chosen with `fields`" in refused(
        Path("materials-project"), "source=materials-project", "units={gap: eV}"
    )
