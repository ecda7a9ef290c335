"""Sets by name, downloaded from a server on this machine: whole, cut, wrong, and not at all."""

import csv
import gzip
import hashlib
import io
import json
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from file_server import FileServer, publish, serving
from pymatgen.core import Lattice, Structure
from rich.console import Console
from typer.testing import CliRunner

from chemeleon_cli.app import app
from chemeleon_cli.commands import fetch_data
from chemeleon_cli.core.data.cif import cif_text
from chemeleon_cli.core.paths import cache_folder
from chemeleon_cli.errors import UserError
from chemeleon_cli.recipe.models import FetchData
from chemeleon_cli.sources import picture, published

IONS = ("Li", "Na", "K", "Rb", "Cs", "Ca", "Sr", "Ba")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "draw", lambda path, manifest, labels: path.write_bytes(b""))
    monkeypatch.setattr(published, "PAUSES", (0.001,) * 3)
    monkeypatch.setattr(published, "PIECE", 100)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as served:
        yield served


def table(rows: range, columns: dict[str, float | str]) -> bytes:
    """A CSV as CDVAE's are: an unnamed count, ids, columns, CIF."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["", "material_id", *columns, "cif"])
    for n in rows:
        salt = Structure(Lattice.cubic(4 + 0.1 * n), [IONS[n], "Cl"], [[0, 0, 0], [0.5] * 3])
        writer.writerow(
            [n, f"mp-{n}", *(v if isinstance(v, str) else v * n for v in columns.values()), cif_text(salt, "")]
        )
    return out.getvalue().encode()


MP20 = {"formation_energy_per_atom": -0.1, "band_gap": 0.5, "e_above_hull": 0.01, "elements": "['Cl']"}


@pytest.fixture
def mp20(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    columns = {**MP20, "spacegroup.number": 1.0}
    parts = {"train": range(5), "val": range(5, 7), "test": range(7, 8)}
    contents = {f"{split}.csv": table(rows, columns) for split, rows in parts.items()}
    publish(server, monkeypatch, "mp-20", contents)
    return contents


def fetch(tmp_path: Path, source: str = "mp-20", **settings: Any) -> tuple[Path, dict[str, Any], str]:
    console = Console(record=True, width=300, file=io.StringIO())
    recipe = FetchData.model_validate({"source": source, "out": str(tmp_path / "data"), **settings})
    folder = fetch_data.run(recipe, console)
    return folder, json.loads((folder / "manifest.json").read_text()), console.export_text()


def ids(folder: Path, split: str) -> list[str]:
    with gzip.open(folder / f"{split}.csv.gz", "rt", newline="") as file:
        return [row["material_id"] for row in csv.DictReader(file)]


def test_a_set_comes_with_its_splits_labels_and_licence(
    server: FileServer, mp20: dict[str, bytes], tmp_path: Path
) -> None:
    folder, manifest, shown = fetch(tmp_path)
    assert folder == tmp_path / "data" / "mp-20"
    assert [ids(folder, s) for s in ("train", "val", "test")] == [
        [f"mp-{n}" for n in range(5)], ["mp-5", "mp-6"], ["mp-7"]
    ]  # fmt: skip
    assert list(manifest["labels"]) == ["formation_energy_per_atom", "band_gap", "e_above_hull", "spacegroup.number"]
    assert manifest["labels"]["band_gap"]["splits"]["train"]["mean"] == 1.0
    assert manifest["split"]["by"] == "source"
    assert "CC BY 4.0" in manifest["licence"]
    assert "Jain" in manifest["credit"]
    assert "CC BY 4.0" in shown
    for name, content in mp20.items():
        entry = manifest["source_files"][name]
        assert entry == {"address": f"{server.url}/mp-20/{name}", "sha256": hashlib.sha256(content).hexdigest()}
        assert (cache_folder() / "published" / "mp-20" / name).read_bytes() == content


def test_the_second_time_it_is_in_the_cache(server: FileServer, mp20: dict[str, bytes], tmp_path: Path) -> None:
    fetch(tmp_path)
    assert [path for path, _ in server.asked] == [f"/mp-20/{name}" for name in mp20]
    server.files.clear()
    _, manifest, _ = fetch(tmp_path, name="again", split={"by": "formula", "fractions": [0.5, 0.25, 0.25]})
    assert len(server.asked) == 3
    assert [manifest["counts"][s] for s in ("train", "val", "test")] == [4, 2, 2]


def test_a_download_that_was_cut_goes_on(server: FileServer, mp20: dict[str, bytes], tmp_path: Path) -> None:
    server.faults = [("cut", 1000), ("cut", 500)]
    _, manifest, shown = fetch(tmp_path)
    assert manifest["counts"]["accepted"] == 8
    assert [range_ for _, range_ in server.asked[:3]] == [None, "bytes=1000-", "bytes=1500-"]
    assert "next attempt in" in shown
    assert not list(cache_folder().rglob("*.part"))


def test_a_command_that_was_given_up_goes_on_the_next_time(
    server: FileServer, mp20: dict[str, bytes], tmp_path: Path
) -> None:
    server.faults = [("cut", 1000), 503, 503, 429]
    with pytest.raises(UserError, match="status 429") as error:
        fetch(tmp_path)
    assert "run the command again to continue" in error.value.hint
    assert not (tmp_path / "data").exists()
    _, manifest, _ = fetch(tmp_path)
    assert manifest["counts"]["accepted"] == 8
    assert server.asked[4] == ("/mp-20/train.csv", "bytes=1000-")


@pytest.mark.parametrize("fault", ["whole", "other", 416])
def test_a_server_that_knows_no_ranges_sends_all_again(
    server: FileServer, mp20: dict[str, bytes], tmp_path: Path, fault: str | int
) -> None:
    server.faults = [("cut", 1000), fault]
    assert fetch(tmp_path)[1]["counts"]["accepted"] == 8


def test_a_rest_from_elsewhere_is_thrown_away(server: FileServer, mp20: dict[str, bytes], tmp_path: Path) -> None:
    partial = cache_folder() / "published" / "mp-20" / "train.csv.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * 10**6)
    assert fetch(tmp_path)[1]["counts"]["accepted"] == 8
    partial.write_bytes(b"another file altogether")
    (partial.parent / "train.csv").unlink()
    with pytest.raises(UserError, match="is not what was published"):
        fetch(tmp_path, name="other")
    assert fetch(tmp_path, name="other")[1]["counts"]["accepted"] == 8


@pytest.mark.parametrize("name", ["train.csv", "val.csv"])
def test_other_bytes_than_were_published_are_refused(
    server: FileServer, mp20: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    server.files[f"/mp-20/{name}"] = mp20[name].replace(b"mp-", b"xx-")
    with pytest.raises(UserError, match=f"{name}.*is not what was published: its (git|sha256) is") as error:
        fetch(tmp_path)
    assert f"{server.url}/mp-20/{name}" in error.value.hint
    assert not (cache_folder() / "published" / "mp-20" / name).exists()
    assert not (tmp_path / "data").exists()


def test_a_missing_file_is_said_at_once_with_where_to_put_it(
    server: FileServer, mp20: dict[str, bytes], tmp_path: Path
) -> None:
    del server.files["/mp-20/val.csv"]
    with pytest.raises(UserError, match=r"cannot download http://.*/mp-20/val\.csv: status 404") as error:
        fetch(tmp_path)
    assert str(cache_folder() / "published" / "mp-20" / "val.csv") in error.value.hint
    assert [path for path, _ in server.asked] == ["/mp-20/train.csv", "/mp-20/val.csv"]


def test_without_a_network_files_put_there_by_hand_are_taken(
    server: FileServer, mp20: dict[str, bytes], tmp_path: Path
) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"cannot download .*connection failed \(ConnectionError\)") as error:
        fetch(tmp_path)
    place = Path(error.value.hint.partition("put it at ")[2])
    for name, content in mp20.items():
        place.with_name(name).write_bytes(content)
    assert fetch(tmp_path)[1]["counts"]["accepted"] == 8
    place.write_bytes(mp20["train.csv"][:-100])
    with pytest.raises(UserError, match=r"train\.csv: is not what was published"):
        fetch(tmp_path, name="again")
    assert place.exists()


def test_a_cache_that_cannot_be_is_said(
    server: FileServer, mp20: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHEMELEON_CACHE", "/dev/null")
    with pytest.raises(UserError, match=r"/dev/null/.*/train\.csv: cannot be written: Not a directory"):
        fetch(tmp_path)


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def test_an_archive_is_read_where_it_lies(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {
        "dft_band_gap": 0.5,
        "energy_above_hull": 0.01,
        "dft_bulk_modulus": 10.0,
        "space_group": 1.0,
        "chemical_system": "Cl-Na",
    }
    tables = {
        f"alex_mp_20/{split}.csv": table(rows, columns) for split, rows in (("train", range(5)), ("val", range(5, 7)))
    }
    publish(server, monkeypatch, "alex-mp-20", {"alex_mp_20.zip": zipped(tables)})
    folder, manifest, shown = fetch(tmp_path, "alex-mp-20")
    assert (ids(folder, "train"), ids(folder, "val")) == ([f"mp-{n}" for n in range(5)], ["mp-5", "mp-6"])
    assert list(manifest["labels"]) == ["band_gap", "e_above_hull", "bulk_modulus", "spacegroup.number"]
    assert manifest["counts"]["test"] == 0
    assert manifest["split"] == {"by": "source"}
    assert manifest["columns"]["dft_band_gap"] == "band_gap"
    assert "the splits of the source are kept; there is no test" in shown


def test_a_truncated_archive_is_refused(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = zipped({"alex_mp_20/train.csv": table(range(5), {"dft_band_gap": 0.5})})
    publish(server, monkeypatch, "alex-mp-20", {"alex_mp_20.zip": whole})
    server.files["/alex-mp-20/alex_mp_20.zip"] = whole[:-50]
    with pytest.raises(UserError, match="is not what was published"):
        fetch(tmp_path, "alex-mp-20")


def test_git_calls_the_bytes_as_we_do(tmp_path: Path) -> None:
    content = b"a,b\n1,2\n"
    (tmp_path / "x.csv").write_bytes(content)
    command = ["git", "hash-object", "--no-filters", str(tmp_path / "x.csv")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    published._check(published.Download("x.csv", "", f"git:{shown.stdout.strip()}"), tmp_path / "x.csv")


def test_the_table_of_sets_is_complete() -> None:
    assert set(published.SETS) == {"mp-20", "perov-5", "carbon-24", "alex-mp-20"}
    for known in published.SETS.values():
        assert known.licence and known.credit and known.megabytes and known.crystals
        for file in known.files:
            assert file.address.startswith("https://") and file.address.endswith(file.name)
            kind, _, digest = file.checksum.partition(":")
            assert len(digest) == {"sha256": 64, "git": 40}[kind]


# The set that comes with the program


def test_the_starter_set_has_its_splits_in_a_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "STARTER_TABLE", tmp_path / "crystals.csv.gz")
    with pytest.raises(UserError, match="no starter set"):
        fetch(tmp_path, "starter")
    rows = list(csv.DictReader(io.StringIO(table(range(6), {"band_gap": 0.5}).decode())))
    out = io.StringIO()
    writer = csv.DictWriter(out, [*rows[0], "split"])
    writer.writeheader()
    for row, split in zip(rows, ["test", "train", "train", "train", "train", "val"], strict=True):
        writer.writerow(row | {"split": split})
    (tmp_path / "crystals.csv.gz").write_bytes(gzip.compress(out.getvalue().encode()))
    folder, manifest, _ = fetch(tmp_path, "starter")
    assert (ids(folder, "test"), ids(folder, "val")) == (["mp-0"], ["mp-5"])
    assert list(manifest["labels"]) == ["band_gap"]
    assert manifest["licence"] == "MIT" and "predictions" in manifest["credit"]
    assert set(manifest["source_files"]) == {"crystals.csv.gz"}
    mine = tmp_path / "mine.csv"
    mine.write_text(out.getvalue())
    folder, _, _ = fetch(tmp_path, str(mine), split={"by": "source"})
    assert (ids(folder, "test"), ids(folder, "val")) == (["mp-0"], ["mp-5"])
    mine.write_text(out.getvalue().replace(",val", ",holdout"))
    with pytest.raises(UserError, match=r"mine\.csv: has no splits of its own: mp-5 is in none"):
        fetch(tmp_path, str(mine), split={"by": "source"}, name="other")


def test_the_command_line_names_the_file_and_exits_with_2(
    server: FileServer, mp20: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    del server.files["/mp-20/train.csv"]
    result = CliRunner().invoke(app, ["fetch-data", "--source", "mp-20"])
    assert result.exit_code == 2
    assert "status 404" in result.stderr
    assert "put it at" in result.stderr
    server.files["/mp-20/train.csv"] = mp20["train.csv"]
    result = CliRunner().invoke(app, ["fetch-data", "--source", "mp-20"])
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "data" / "mp-20" / "manifest.json").is_file()
