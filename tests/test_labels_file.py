"""Labels from a second table, joined by id."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure
from rich.console import Console

from chemeleon_cli.commands import fetch_data
from chemeleon_cli.core.data.cif import cif_text
from chemeleon_cli.errors import UserError
from chemeleon_cli.recipe.models import FetchData
from chemeleon_cli.sources import picture


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "draw", lambda path, manifest, labels: path.write_bytes(b""))


@pytest.fixture
def cifs(tmp_path: Path) -> Path:
    """A folder of four CIFs, a to d."""
    folder = tmp_path / "cifs"
    folder.mkdir()
    for name, cation in zip("abcd", ("Li", "Na", "K", "Rb"), strict=True):
        salt = Structure(Lattice.cubic(5), [cation, "Cl"], [[0, 0, 0], [0.5] * 3])
        (folder / f"{name}.cif").write_text(cif_text(salt, ""))
    return folder


def fetch(source: Path, table: str, **settings: Any) -> tuple[dict[str, dict[str, str]], dict[str, Any], str]:
    path = source.parent / "labels.csv"
    path.write_text(table)
    recipe = {"source": str(source), "out": str(source.parent / "data"), "labels_file": str(path), **settings}
    console = Console(record=True, width=200, file=(source.parent / "out.txt").open("w"))
    split = {"by": "random", "fractions": [1, 0, 0]}
    folder = fetch_data.run(FetchData.model_validate({"split": split} | recipe), console, overwrite=True)
    import gzip

    with gzip.open(folder / "train.csv.gz", "rt", newline="") as file:
        rows = {row["material_id"]: row for row in csv.DictReader(file)}
    return rows, json.loads((folder / "manifest.json").read_text()), console.export_text()


def test_labels_join_by_id_and_what_does_not_fit_is_counted(cifs: Path) -> None:
    rows, manifest, shown = fetch(cifs, "id,gap,note\nc,3.5,x\na,1.5,y\nzz,9,z\nb,,\n")
    assert {name: row["gap"] for name, row in rows.items()} == {"a": "1.5", "b": "", "c": "3.5", "d": ""}
    assert "note" not in rows["a"]
    assert manifest["labels"]["gap"]["mean"] == 2.5
    digest = hashlib.sha256((cifs.parent / "labels.csv").read_bytes()).hexdigest()
    assert manifest["labels_file"] == {
        "name": "labels.csv", "sha256": digest, "rows": 4, "crystals_without_row": 1, "rows_without_crystal": 1
    }  # fmt: skip
    assert "labels.csv: 4 rows; 1 crystals have none, 1 rows have no crystal" in shown


def test_columns_are_chosen_and_renamed_as_those_of_the_source(cifs: Path) -> None:
    rows, manifest, _ = fetch(
        cifs, "name,gap,mass\na,1,2\nb,3,4\nc,5,6\nd,7,8\n", id_column="name", labels={"gap": "g"}
    )
    assert [rows[name]["g"] for name in "abcd"] == ["1.0", "3.0", "5.0", "7.0"]
    assert list(manifest["labels"]) == ["g"]


def test_a_parquet_table_and_a_csv_source_with_other_labels(tmp_path: Path) -> None:
    import pandas as pd

    salt = cif_text(Structure(Lattice.cubic(5), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3]), "")
    pd.DataFrame({"material_id": ["a", "b"], "cif": [salt, salt], "mass": [1.0, 2.0]}).to_csv(tmp_path / "x.csv")
    pd.DataFrame({"material_id": ["b", "a"], "gap": [5, 4]}).to_parquet(tmp_path / "more.parquet")
    recipe = FetchData(
        source=str(tmp_path / "x.csv"), out=str(tmp_path / "d"), labels_file=str(tmp_path / "more.parquet")
    )
    manifest = json.loads((fetch_data.run(recipe, Console(quiet=True)) / "manifest.json").read_text())
    assert {name: known["mean"] for name, known in manifest["labels"].items()} == {"mass": 1.5, "gap": 4.5}


@pytest.mark.parametrize(
    ("table", "settings", "message", "hint"),
    [
        ("id,gap\na,high\n", {"labels": {"gap": "gap"}}, "column 'gap' contains no number", "the first 'high' of a"),
        ("id,gap\na,1\na,2\n", {}, "id 'a' has two different rows", "keep one"),
        ("id,gap\nA.cif,1\n", {}, "none of its 1 ids is that of one of the 4 crystals", "its ids look like 'A.cif'"),
        ("id,gap\na,1,2\n", {}, "row 1 has 3 cells, its header 2", "mend"),
        ("key,gap\nA,1\n", {}, "no column with ids; found 'key', 'gap'", "id_column"),
        ("key,other,gap\na,b,1\n", {}, "columns 'key', 'other' all contain ids of crystals", "--set id_column='key'"),
        ("id,gap\na,1\n", {"labels": {"gpa": "gap"}}, "no column 'gpa'", "did you mean 'gap'"),
        ("", {}, "none of its 0 ids", "nothing"),
        ('id,gap\nb,2\na,"1\n', {}, "labels.csv:3: not a readable CSV row", "quote"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit_are_errors(
    cifs: Path, table: str, settings: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        fetch(cifs, table, **settings)
    assert hint in error.value.hint
    assert not list((cifs.parent / "data").glob("*"))


def test_the_row_counts_of_two_pandas_tables_are_no_columns(tmp_path: Path) -> None:
    import pandas as pd

    salt = cif_text(Structure(Lattice.cubic(5), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3]), "")
    pd.DataFrame({"material_id": ["a", "b"], "cif": [salt, salt]}).to_csv(tmp_path / "x.csv")
    frame = pd.DataFrame({"material_id": ["b", "a", "a"], "gap": [5, 4, 4]})
    rows, manifest, _ = fetch(tmp_path / "x.csv", frame.to_csv())
    assert (rows["a"]["gap"], rows["b"]["gap"]) == ("4.0", "5.0")
    assert list(manifest["labels"]) == ["gap"]


def test_a_column_in_both_tables_and_a_missing_table_are_errors(cifs: Path, tmp_path: Path) -> None:
    from chemeleon_cli.sources.files import read_crystals, write_crystals

    structures = [row.structure for row in read_crystals(cifs)]
    write_crystals(tmp_path / "x.extxyz", structures, list("abcd"), {"gap": [1.0] * 4})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="column 'gap' is also in the source"):
        fetch(tmp_path / "x.extxyz", "id,gap\na,1\n")
    for name, message in (("none.csv", "no such file"), ("cifs", "is not a table"), ("x.extxyz", "is not a table")):
        recipe = FetchData(source=str(cifs), out=str(tmp_path / "d"), labels_file=str(tmp_path / name))
        with pytest.raises(UserError, match=message):
            fetch_data.run(recipe, Console(quiet=True))


def test_labels_stand_in_the_info_of_extxyz(tmp_path: Path) -> None:
    from ase import Atoms
    from ase.io import write

    atoms = Atoms("NaCl", scaled_positions=[[0, 0, 0], [0.5] * 3], cell=[5, 5, 5], pbc=True)
    atoms.info = {"material_id": "a", "gap": 5.0, "comment": "made by hand"}
    write(tmp_path / "x.extxyz", [atoms])
    rows, manifest, _ = fetch(tmp_path / "x.extxyz", "id,mass\na,58.4\n")
    assert (rows["a"]["gap"], rows["a"]["mass"]) == ("5.0", "58.4")
    assert list(manifest["labels"]) == ["gap", "mass"]
