"""`fetch-data` on made sets: every figure of the manifest counted again, nothing lost, nothing half-written."""

import csv
import gzip
import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from rich.console import Console

from chemeleon_cli.commands import fetch_data
from chemeleon_cli.core.cif import cif_text, parse_cif
from chemeleon_cli.errors import UserError
from chemeleon_cli.recipe.models import FetchData
from chemeleon_cli.sources import crystals, picture

CATIONS, ANIONS = ("Li", "Na", "K", "Rb", "Mg", "Ca", "Sr", "Ba"), ("F", "Cl", "Br", "I", "O", "S")


def salt(cation: str, anion: str, length: float = 5.0) -> Structure:
    return Structure(Lattice.cubic(length), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


def rows_of_a_set() -> list[dict[str, Any]]:
    """96 good rows of 48 formulas, two of each, and some of every kind of bad one."""
    rows: list[dict[str, Any]] = []
    for i, (cation, anion) in enumerate((c, a) for c in CATIONS for a in ANIONS):
        for length in (5.0, 5.5):
            gap = "" if i % 3 == 0 else 0.1 * len(rows)
            cell = {"material_id": f"m-{len(rows)}", "cif": cif_text(salt(cation, anion, length), "")}
            rows.append(
                cell | {"gap": gap, "e_form": -len(rows), "note": "x", "mixed": "7" if i else "seven", "void": ""}
            )
    good = rows[0]["cif"]
    big = Structure(
        Lattice.cubic(12), ["Si"] * 27, np.random.default_rng(0).permutation(np.indices((3, 3, 3)).reshape(3, -1).T / 3)
    )
    big.translate_sites([0], [0.03, 0, 0])
    bad = {
        "too_many_atoms": cif_text(big, ""),
        "distance": cif_text(Structure(Lattice.cubic(6), ["H"] * 2, [[0, 0, 0], [0.01, 0, 0]]), ""),
        "volume": cif_text(salt("Li", "F", 1.5), ""),
        "cell": cif_text(Structure(Lattice.from_parameters(5, 5, 50, 90, 90, 5), ["Li"], [[0, 0, 0]]), ""),
        "disorder": good.replace("0.00000000  1\n", "0.00000000  0.5\n"),
        "element": good.replace("  Li  Li0", "  D  D0"),
        "unreadable": "data_broken _cell_length_a",
        "no_structure": "",
    }
    rows += [
        {"material_id": f"bad-{code}", "cif": cif, "gap": 99, "e_form": 99, "note": "y"} for code, cif in bad.items()
    ]
    return rows


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all the rest; test_picture.py does it."""
    monkeypatch.setattr(picture, "draw", lambda path, manifest, labels: path.write_bytes(b""))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "my set.csv", rows_of_a_set())


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def fetch(source: Path, overwrite: bool = False, **settings: Any) -> Path:
    recipe = FetchData.model_validate({"source": str(source), "out": str(source.parent / "data"), **settings})
    return fetch_data.run(recipe, Console(quiet=True), overwrite=overwrite)


def read_split(folder: Path, split: str) -> list[dict[str, str]]:
    path = folder / f"{split}.csv.gz"
    if not path.is_file():
        return []
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.DictReader(file))


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def test_every_figure_of_the_manifest_is_true(table: Path) -> None:
    folder = fetch(table)
    manifest = manifest_of(folder)
    assert folder.name == "my-set"
    splits = {s: read_split(folder, s) for s in ("train", "val", "test")}
    rows = [row for split in splits.values() for row in split]
    given_rows = {row["material_id"]: row for row in rows_of_a_set()}

    assert sorted(row["material_id"] for row in rows) == sorted(k for k in given_rows if not k.startswith("bad"))
    assert list(rows[0]) == ["material_id", "pretty_formula", "gap", "e_form", "cif"]
    for row in rows:
        before = given_rows[row["material_id"]]
        assert parse_cif(row["cif"]) == parse_cif(before["cif"])
        assert row["pretty_formula"] == parse_cif(row["cif"]).composition.reduced_formula
        assert row["gap"] == ("" if before["gap"] == "" else repr(float(before["gap"])))
        assert float(row["e_form"]) == before["e_form"]

    counts = {"read": len(given_rows), "rejected": 8, "accepted": len(rows), **{s: len(r) for s, r in splits.items()}}
    assert manifest["counts"] == counts
    assert manifest["rejected"] == dict.fromkeys(sorted(k[4:] for k in given_rows if k.startswith("bad")), 1)
    for name in ("gap", "e_form"):
        for known, part in [
            (manifest["labels"][name], rows),
            *((manifest["labels"][name]["splits"][s], r) for s, r in splits.items()),
        ]:
            values = np.array([float(row[name]) for row in part if row[name]])
            assert known["count"] == len(values)
            assert known["share_present"] == pytest.approx(len(values) / len(part))
            for key in ("mean", "std", "min", "max"):
                assert known[key] == pytest.approx(getattr(values, key)())
    structures = [parse_cif(row["cif"]) for row in rows]
    assert manifest["sizes"] == {str(n): c for n, c in sorted(Counter(map(len, structures)).items())}
    assert manifest["elements"] == dict(sorted(Counter(str(e) for s in structures for e in s.elements).items()))
    assert manifest["licence"] is None
    assert manifest["left_out_columns"] == {"mixed": "not a number in 2 rows, the first m-0"}
    for name, entry in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"]
    assert set(manifest["files"]) | {"manifest.json", "picture.png"} == {p.name for p in folder.iterdir()}
    assert manifest["source_files"] == {"my set.csv": {"sha256": hashlib.sha256(table.read_bytes()).hexdigest()}}


def test_predictors_take_the_statistics_that_the_manifest_has_for_train(table: Path) -> None:
    from chemeleon_cli.commands.train_predictor import set_statistics, with_labels
    from chemeleon_cli.core.dataset import load_split
    from chemeleon_cli.core.predictor import Predictor
    from chemeleon_cli.core.vae import VAE
    from chemeleon_cli.recipe.models import TrainPredictor

    folder = fetch(table)
    train = load_split(str(folder), "train", 20)
    assert train is not None
    encoder = VAE(hidden_dim=8, num_heads=1, encoder_layers=1, decoder_layers=1, latent_dim=2).encoder
    targets = ["gap", "e_form"]
    model = Predictor(encoder.config, targets)
    recipe = TrainPredictor.model_validate({"data": {"path": str(folder)}, "vae": "x", "targets": targets})
    set_statistics(model, recipe, with_labels(train, targets))
    for k, name in enumerate(targets):
        known = manifest_of(folder)["labels"][name]["splits"]["train"]
        assert float(model.mean[k]) == pytest.approx(known["mean"], rel=1e-6)
        assert float(model.std[k]) == pytest.approx(known["std"], rel=1e-6)


def test_rejected_rows_are_listed_with_reason_and_detail(table: Path) -> None:
    with (fetch(table) / "rejected.csv").open(newline="") as file:
        rejected = list(csv.DictReader(file))
    assert [row["id"] for row in rejected] == [f"bad-{row['reason']}" for row in rejected]
    assert len(rejected) == 8
    assert all(row["detail"] for row in rejected)


def test_a_supercell_is_kept_as_its_primitive_cell(tmp_path: Path) -> None:
    rows = [
        {"id": "big", "cif": cif_text(salt("Li", "F") * (3, 3, 2), "")},
        {"id": "small", "cif": cif_text(salt("Na", "F"), "")},
    ]
    folder = fetch(write_csv(tmp_path / "x.csv", rows))
    assert manifest_of(folder)["sizes"] == {"2": 2}
    folder = fetch(tmp_path / "x.csv", max_atoms=None, name="all")
    assert manifest_of(folder)["sizes"] == {"2": 1, "36": 1}


# Splits


def formulas(folder: Path) -> dict[str, set[str]]:
    return {s: {row["pretty_formula"] for row in read_split(folder, s)} for s in ("train", "val", "test")}


def test_no_formula_is_in_two_splits(table: Path) -> None:
    folder = fetch(table)
    found = formulas(folder)
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 48
    assert manifest_of(folder)["formulas_in_several_splits"] == 0
    assert [manifest_of(folder)["counts"][s] for s in ("train", "val", "test")] == [76, 10, 10]


def test_the_split_does_not_depend_on_the_order_of_rows(table: Path, tmp_path: Path) -> None:
    rows = rows_of_a_set()
    turned = [dict.fromkeys(rows[0], "") | row for row in rows[::-1]]
    first = fetch(table)
    second = fetch(write_csv(tmp_path / "turned.csv", turned))
    assert formulas(first) == formulas(second)
    assert formulas(fetch(table, name="other", split={"seed": 1})) != formulas(first)


def test_a_random_split_has_its_shares_and_is_seeded(table: Path) -> None:
    split = {"by": "random", "fractions": [0.5, 0.25, 0.25]}
    folder = fetch(table, name="one", split=split)
    assert [manifest_of(folder)["counts"][s] for s in ("train", "val", "test")] == [48, 24, 24]
    assert manifest_of(folder)["formulas_in_several_splits"] > 0
    assert (folder / "val.csv.gz").read_bytes() == (fetch(table, name="two", split=split) / "val.csv.gz").read_bytes()


@settings(max_examples=200, deadline=None)
@given(
    groups=st.lists(st.sampled_from([f"g{i}" for i in range(12)]), min_size=1, max_size=60),
    val=st.floats(0, 0.4),
    test=st.floats(0, 0.4),
    seed=st.integers(0, 5),
)
def test_groups_stay_together_and_no_split_stays_empty(groups: list[str], val: float, test: float, seed: int) -> None:
    splits = crystals.assign(groups, (1 - val - test, val, test), seed)
    assert len(set(zip(groups, splits, strict=True))) == len(set(groups))
    assert "train" in splits
    wanted = {"train"} | {s for s, f in (("val", val), ("test", test)) if f > 0}
    assert set(splits) <= wanted
    if len(set(groups)) >= 3:
        assert set(splits) == wanted


def own_splits(folder: Path) -> Path:
    rows = rows_of_a_set()
    write_csv(folder / "train.csv", rows[:50])
    (folder / "val.csv.gz").write_bytes(gzip.compress(write_csv(folder / "val.csv", rows[50:60]).read_bytes()))
    (folder / "val.csv").unlink()
    write_csv(folder / "other.csv", rows[60:70])
    return folder


def test_a_folder_that_is_split_stays_so(tmp_path: Path) -> None:
    source = own_splits(tmp_path / "mine")
    folder = fetch(source)
    assert manifest_of(folder)["split"]["by"] == "source"
    assert [row["material_id"] for row in read_split(folder, "train")] == [f"m-{i}" for i in range(50)]
    assert [row["material_id"] for row in read_split(folder, "val")] == [f"m-{i}" for i in range(50, 60)]
    assert not (folder / "test.csv.gz").exists()
    again = fetch(source, name="again", split={"by": "formula"})
    assert manifest_of(again)["counts"]["accepted"] == 60
    assert manifest_of(again)["counts"]["test"] == 6


def test_a_source_without_splits_cannot_be_split_by_them(table: Path, tmp_path: Path) -> None:
    for source in (table, tmp_path):
        with pytest.raises(UserError, match="no splits of its own"):
            fetch(source, split={"by": "source"}, name="x")


# Labels and ids


def test_labels_are_chosen_and_renamed(table: Path) -> None:
    folder = fetch(table, labels={"e_form": "formation_energy", "mixed": "seven"})
    rows = read_split(folder, "train")
    assert list(rows[0]) == ["material_id", "pretty_formula", "formation_energy", "seven", "cif"]
    assert manifest_of(folder)["labels"]["seven"]["count"] == 94


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"e_frm": "x"}, "no column 'e_frm'"),
        ({"gap": "x", "e_form": "x"}, "'x' is given twice"),
        ({"gap": "cif"}, "'cif' is given twice or is a column of every table"),
    ],
)
def test_bad_label_names_are_errors(table: Path, labels: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fetch(table, labels=labels)
    assert not list((table.parent / "data").iterdir())


def test_ids_stay_unique_and_copies_go(tmp_path: Path) -> None:
    cells = [salt("Li", "F"), salt("Li", "F"), salt("Li", "F", 6), salt("Na", "F"), salt("Na", "F")]
    ids = ["a", "a", "a", "a-2", "b"]
    rows = [{"name": i, "cif": cif_text(s, ""), "x": n} for n, (i, s) in enumerate(zip(ids, cells, strict=True))]
    folder = fetch(
        write_csv(tmp_path / "x.csv", rows), id_column="name", split={"by": "random", "fractions": [1, 0, 0]}
    )
    assert [(r["material_id"], r["x"]) for r in read_split(folder, "train")] == [
        ("a", "0.0"), ("a-2", "2.0"), ("a-2-2", "3.0"), ("b", "4.0")
    ]  # fmt: skip
    assert manifest_of(folder)["rejected"] == {"duplicate": 1}
    assert manifest_of(folder)["renamed_ids"] == 2


# Nothing lost, nothing half-written


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_existing_folder_is_left_alone_without_overwrite(table: Path) -> None:
    folder = fetch(table)
    before = tree(folder)
    with pytest.raises(UserError, match="is there already"):
        fetch(table, split={"seed": 3})
    assert tree(folder) == before
    assert fetch(table, overwrite=True, split={"seed": 3}) == folder
    assert tree(folder) != before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_overwrite_spares_what_is_no_data_folder_and_the_source(table: Path) -> None:
    folder = table.parent / "data" / "thesis"
    folder.mkdir(parents=True)
    (folder / "chapter.txt").write_text("years of work")
    with pytest.raises(UserError, match="not a data folder"):
        fetch(table, overwrite=True, name="thesis")
    (folder / "manifest.json").write_text("{}")
    shutil.copy(table, folder / "raw.csv")
    with pytest.raises(UserError, match="is where the source is"):
        fetch_data.run(
            FetchData(source=str(folder / "raw.csv"), out=str(folder.parent), name="thesis"),
            Console(quiet=True),
            overwrite=True,
        )
    assert (folder / "chapter.txt").read_text() == "years of work"


def test_a_failure_in_the_middle_leaves_nothing(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fetch(table, name="kept")
    before = tree(first)

    def fails(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(crystals, "write_tables", fails)
    for name, overwrite in (("kept", True), ("new", False)):
        with pytest.raises(OSError, match="disk full"):
            fetch(table, name=name, overwrite=overwrite)
    assert [p.name for p in first.parent.iterdir()] == ["kept"]
    assert tree(first) == before


def test_a_source_that_breaks_off_leaves_nothing(table: Path) -> None:
    cut = table.with_suffix(".csv.gz")
    cut.write_bytes(gzip.compress(table.read_bytes())[:-200])
    with pytest.raises(UserError, match="ends before its time"):
        fetch(cut)
    assert not list((table.parent / "data").iterdir())


def test_a_source_without_a_usable_crystal_says_why(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "x.csv", [{"id": "a", "cif": "data_x"}, {"id": "b", "cif": ""}])
    with pytest.raises(UserError, match=r"no usable crystal in 2 \(no_structure, unreadable\)") as error:
        fetch(source)
    assert error.value.hint.startswith("the first, a: unreadable")


def test_names_that_lead_elsewhere_are_refused(table: Path) -> None:
    for name in ("../x", "a/b", ".hidden", "a\\b"):
        with pytest.raises(UserError, match="is not the name of a folder"):
            fetch(table, name=name)


def test_the_same_source_gives_the_same_tables(table: Path) -> None:
    one, two = (manifest_of(fetch(table, name=name))["files"] for name in ("one", "two"))
    assert one == two


def test_torch_is_not_imported(table: Path) -> None:
    code = (
        "import sys; from rich.console import Console\n"
        "from chemeleon_cli.commands import fetch_data; from chemeleon_cli.recipe.models import FetchData\n"
        f"fetch_data.run(FetchData(source={str(table)!r}, out={str(table.parent / 'data')!r}), Console())\n"
        "assert 'torch' not in sys.modules"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "e_form" in shown.stdout
    assert "rejected: too_many_atoms" in shown.stdout
    assert not shown.stderr


def test_other_formats_are_sources_too(tmp_path: Path) -> None:
    from chemeleon_cli.sources.files import write_crystals

    cells = [salt(c, a) for c in CATIONS[:3] for a in ANIONS[:3]]
    for name in ("x.cif", "x.extxyz", "x.json.gz"):
        write_crystals(tmp_path / name, cells, [f"c{i}" for i in range(9)], {"gap": [0.5 * i for i in range(9)]})
        folder = fetch(tmp_path / name, name=name.replace(".", "-"))
        assert manifest_of(folder)["counts"]["accepted"] == 9
        assert manifest_of(folder)["labels"]["gap"]["mean"] == 2.0
