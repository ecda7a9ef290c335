"""`fetch-data` on made sets: every figure of the manifest counted again, nothing lost, nothing half-written."""

import csv
import errno
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from rich.console import Console
from samples import make_predictor

from chemeleon_cli.commands import fetch_data
from chemeleon_cli.core.data.cif import cif_text, parse_cif
from chemeleon_cli.errors import UserError
from chemeleon_cli.recipe.models import FetchData
from chemeleon_cli.sources import data_folder, examine, picture
from chemeleon_cli.sources.records import Record

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


def fetch(source: Path, overwrite: bool = False, console: Console | None = None, **settings: Any) -> Path:
    recipe = FetchData.model_validate({"source": str(source), "out": str(source.parent / "data"), **settings})
    return fetch_data.run(recipe, console or Console(quiet=True), overwrite=overwrite)


def listening() -> Console:
    return Console(record=True, width=300, file=io.StringIO())


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
    assert manifest["left_out_columns"] == {
        "note": "text, such as 'x'", "mixed": "no number in 2 rows, the first 'seven' of m-0"
    }  # fmt: skip
    for name, entry in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"]
    assert set(manifest["files"]) | {"manifest.json", "picture.png"} == {p.name for p in folder.iterdir()}
    assert manifest["split"] == {"by": "formula", "fractions": [0.8, 0.1, 0.1], "seed": 42}
    assert manifest["source_files"] == {"my set.csv": {"sha256": hashlib.sha256(table.read_bytes()).hexdigest()}}


def test_predictors_take_the_statistics_that_the_manifest_has_for_train(table: Path) -> None:
    from chemeleon_cli.core.data.dataset import load_split
    from chemeleon_cli.core.models.predictor import labelled
    from chemeleon_cli.core.models.vae import VAE

    folder = fetch(table)
    train = load_split(str(folder), "train", 20)
    assert train is not None
    encoder = VAE(hidden_dim=8, num_heads=1, encoder_layers=1, decoder_layers=1, latent_dim=2, dropout=0.0).encoder
    targets = ["gap", "e_form"]
    model = make_predictor(encoder.config, targets)
    model.standardise(labelled(train, targets), [None, None], [None, None])
    for k, name in enumerate(targets):
        known = manifest_of(folder)["labels"][name]["splits"]["train"]
        assert float(model.mean[k]) == pytest.approx(known["mean"], rel=1e-6)
        assert float(model.std[k]) == pytest.approx(known["std"], rel=1e-6)


def test_a_cache_is_for_all_and_can_be_done_without(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chemeleon_cli.core.data.dataset import load_split
    from chemeleon_cli.core.models.vae import VAE
    from chemeleon_cli.core.scoring.loading import load_references

    folder = fetch(table)
    encoder = VAE(hidden_dim=8, num_heads=1, encoder_layers=1, decoder_layers=1, latent_dim=2, dropout=0.0).encoder
    first = load_split(folder, "train"), load_references(encoder, folder)
    kept = list(Path(os.environ["CHEMELEON_CACHE"]).rglob("*.safetensors"))
    (table.parent / "plain").touch()
    assert [path.stat().st_mode for path in kept] == [(table.parent / "plain").stat().st_mode] * 2
    monkeypatch.setenv("CHEMELEON_CACHE", str(table.parent / "plain"))  # nothing can be written below a file
    with pytest.warns(UserWarning, match="the cache could not be written"):
        again = load_split(folder, "train"), load_references(encoder, folder)
    assert first[0] is not None and again[0] is not None
    assert torch.equal(first[0].frac_coords, again[0].frac_coords)
    assert torch.equal(first[1].structure_features, again[1].structure_features)


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
    splits = data_folder.assign(groups, (1 - val - test, val, test), seed)
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


@pytest.mark.parametrize("inside", ["", "outer/mp_20/"])
def test_tables_in_an_archive_or_further_down_keep_their_splits_too(tmp_path: Path, inside: str) -> None:
    rows = rows_of_a_set()
    parts = {"train": rows[:50], "val": rows[50:60], "test": rows[60:70]}
    for split, part in parts.items():
        write_csv(tmp_path / "all" / inside / f"{split}.csv", part)
    with zipfile.ZipFile(tmp_path / "splits.zip", "w") as archive:
        for path in (tmp_path / "all").rglob("*.csv"):
            archive.write(path, path.relative_to(tmp_path / "all").as_posix())
    for source in (tmp_path / "splits.zip", tmp_path / "all"):
        console = listening()
        folder = fetch(source, console=console)
        assert [len(read_split(folder, s)) for s in parts] == [50, 10, 10]
        assert "the splits of the source are kept\n" in console.export_text()
    write_csv(tmp_path / "all" / inside / "more.csv", rows[70:80])
    by = "formula" if inside else "source"  # beside train.csv itself nothing else is read
    assert manifest_of(fetch(tmp_path / "all", name="more"))["split"]["by"] == by


def test_a_folder_is_known_again_by_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, console = own_splits(tmp_path / "mine"), listening()
    manifest = manifest_of(fetch(source, console=console))
    digests = {name: hashlib.sha256((source / name).read_bytes()).hexdigest() for name in ("train.csv", "val.csv.gz")}
    assert manifest["source_files"] == {name: {"sha256": digest} for name, digest in digests.items()}
    assert manifest["left_out_files"] == {".csv": 1}
    assert manifest["split"] == {"by": "source"}
    shown = console.export_text()
    assert "the splits of the source are kept; there is no test" in shown
    assert "files of the source that were not read, by suffix: 1 .csv" in shown
    monkeypatch.setattr(fetch_data, "MANY_FILES", 1)
    lines = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    assert manifest_of(fetch(source, name="again"))["source_files"] == {
        "mine/": {"files": 2, "sha256": hashlib.sha256(lines.encode()).hexdigest()}
    }


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
    assert manifest_of(folder)["columns"] == {"e_form": "formation_energy", "mixed": "seven"}
    assert manifest_of(folder)["not_numbers"] == {"mixed": "no number in 2 rows, the first 'seven' of m-0"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"e_frm": "x"}, "no column 'e_frm'"),
        ({"note": "x"}, "column 'note' contains no number"),
        ({"void": "x"}, "column 'void' contains no number"),
        ({"gap": "x", "e_form": "x"}, "'x' is given twice"),
        ({"gap": "cif"}, "'cif' is given twice or is a column of every table"),
    ],
)
def test_bad_label_names_are_errors(table: Path, labels: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fetch(table, labels=labels)
    assert not (table.parent / "data").exists()


def test_absurd_rows_cost_no_others(tmp_path: Path) -> None:
    cells = [salt("Li", "F"), salt("Li", "F", 1000), salt("Li", "F", 1e120), salt("Na", "F")]
    needle = Structure(Lattice([[2e4, 2e4, 2e4], [0.5, -0.5, 0], [0, 0.5, -0.5]]), ["Li"] * 20, np.zeros((20, 3)))
    rows = [{"id": str(n), "cif": cif_text(cell, "")} for n, cell in enumerate(cells)]
    rows += [{"id": "needle", "cif": json.dumps(needle.as_dict())}]
    folder = fetch(write_csv(tmp_path / "x.csv", rows))
    assert manifest_of(folder)["counts"]["accepted"] == 2
    assert list(manifest_of(folder)["rejected"]) == ["cell", "no_cell", "volume"]


def test_whatever_a_row_raises_is_its_reason(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(structure: Structure, identifier: str) -> str:
        if structure.composition.reduced_formula == "LiF":
            raise MemoryError("27 GB")
        return cif_text(structure, identifier)

    monkeypatch.setattr(examine, "cif_text", fails)
    folder = fetch(table)
    assert manifest_of(folder)["counts"]["accepted"] == 94
    assert "m-0,unreadable,MemoryError: 27 GB" in (folder / "rejected.csv").read_text()


def test_symmetry_is_not_looked_for_where_no_cell_is_small_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "_primitive", lambda structure: 1 / 0)
    huge = Structure(Lattice.cubic(30), ["Si"] * 62 + ["O"] * 63, np.indices((5, 5, 5)).reshape(3, -1).T / 5)
    found = examine.examine(("", Record("a", "cif", cif_text(huge, ""), {})), 20)
    assert found.reason == "too_many_atoms: 125 or more"


def test_a_label_beyond_all_measure_is_no_number(tmp_path: Path) -> None:
    rows = [{"id": i, "cif": cif_text(salt(i, "F"), ""), "x": x, "y": 1e30} for i, x in (("Li", 1.7e308), ("Na", 1))]
    manifest = manifest_of(fetch(write_csv(tmp_path / "x.csv", rows)))
    assert list(manifest["labels"]) == ["y"]
    assert manifest["labels"]["y"]["mean"] == 1e30
    why = "no number in 1 row, the first '1.7e+308' of Li; numbers beyond 1e+30 cannot be labels"
    assert manifest["left_out_columns"] == {"x": why}


def test_a_copy_of_a_renamed_crystal_is_found(tmp_path: Path) -> None:
    lengths = [5, 6, 6, 7, 5, 7]
    rows = [{"id": "a", "cif": cif_text(salt("Li", "F", length), "")} for length in lengths]
    folder = fetch(write_csv(tmp_path / "x.csv", rows))
    assert sorted(row["material_id"] for s in ("train", "val", "test") for row in read_split(folder, s)) == [
        "a", "a-2", "a-3"
    ]  # fmt: skip
    assert manifest_of(folder)["rejected"] == {"duplicate": 3}


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
    with pytest.raises(UserError, match="already exists"):
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
    with pytest.raises(UserError, match="contains the source"):
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
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(data_folder, "write_tables", fails)
    for name, overwrite in (("kept", True), ("new", False)):
        with pytest.raises(UserError, match=f"{name}: cannot be written: No space left on device"):
            fetch(table, name=name, overwrite=overwrite)
    assert [p.name for p in first.parent.iterdir()] == ["kept"]
    assert tree(first) == before


def test_a_bug_keeps_its_traceback_and_leaves_nothing(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_folder, "facts", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fetch(table)
    assert not (table.parent / "data").exists()


def test_a_picture_that_fails_does_not_cost_the_data(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "draw", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fetch(table)
    assert manifest_of(table.parent / "data" / "my-set")["counts"]["accepted"] == 96


def test_what_a_killed_run_left_behind_is_in_nobodys_way(table: Path) -> None:
    left = table.parent / "data" / f".my-set.{os.getpid()}"
    left.mkdir(parents=True)
    fetch(table)
    assert sorted(p.name for p in left.parent.iterdir()) == [left.name, "my-set"]


def test_overwrite_follows_a_link_and_leaves_it(table: Path) -> None:
    real = fetch(table, name="real")
    link = real.with_name("link")
    link.symlink_to(real)
    assert fetch(table, overwrite=True, name="link", split={"seed": 3}) == real
    assert link.is_symlink()
    assert manifest_of(link)["split"]["seed"] == 3
    assert sorted(p.name for p in real.parent.iterdir()) == ["link", "real"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"out": "my set.csv"}, "out: .*my set.csv is not a folder"),
        ({"out": "my set.csv/deep"}, "out: .*my set.csv is not a folder"),
        ({"out": "~nosuchuser/x"}, "~nosuchuser/x: no such path"),
        ({"name": "x" * 300}, "x{300}: cannot be written: File name too long"),
        ({"source": "~nosuchuser/x.csv"}, "~nosuchuser/x.csv: no such path"),
        ({"source": "y" * 300}, "y{300}: no such path: File name too long"),
        ({"labels_file": "~nosuchuser/x.csv"}, "~nosuchuser/x.csv: no such path"),
    ],
)
def test_places_that_cannot_be_are_errors(
    table: Path, settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(table.parent)
    recipe = {"source": table.name, **settings}
    with pytest.raises(UserError, match=message):
        fetch_data.run(FetchData.model_validate(recipe), Console(quiet=True))
    assert list(tree(table.parent)) == [table.name]


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    rows = [{"id": "a", "cif": cif_text(salt("Li", "F"), ""), "density [/nm3]": 1.0, "gap [eV]": 2.0, "[red]": "x 1"}]
    rows += [rows[0] | {"id": "b", "cif": cif_text(salt("Na", "F"), ""), "[red]": "3"}]
    console = listening()
    folder = fetch(write_csv(tmp_path / "x.csv", rows), console=console, name="[bold]", out=str(tmp_path / "[/i]"))
    shown = console.export_text()
    for text in ("density [/nm3]", "gap [eV]", "column '[red]'", str(folder)):
        assert text in shown


def test_a_source_that_breaks_off_leaves_nothing(table: Path) -> None:
    cut = table.with_suffix(".csv.gz")
    cut.write_bytes(gzip.compress(table.read_bytes())[:-200])
    with pytest.raises(UserError, match="is incomplete"):
        fetch(cut)
    assert not (table.parent / "data").exists()


def test_a_source_without_a_usable_crystal_says_why(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "x.csv", [{"id": "a", "cif": "data_x"}, {"id": "b", "cif": ""}])
    with pytest.raises(UserError, match=r"no usable crystal in 2 \(no_structure, unreadable\)") as error:
        fetch(source)
    assert error.value.hint.startswith("the first, a: unreadable")


def test_names_that_lead_elsewhere_are_refused(table: Path) -> None:
    for name in ("../x", "a/b", ".hidden", "a\\b"):
        with pytest.raises(UserError, match="is not a name for a folder"):
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
