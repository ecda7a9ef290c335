"""docs/data.md: its commands are run, its tables of sets and of reasons are the program's."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import materials_project_server
import pytest
from file_server import FileServer, publish, serving
from materials_project_server import KEY, Server
from pymatgen.core import Lattice, Structure
from test_published import MP20, table
from typer.testing import CliRunner

from chemeleon_cli.app import app
from chemeleon_cli.core.data.cif import cif_text
from chemeleon_cli.sources import examine, picture, published
from chemeleon_cli.sources import files as crystal_files
from chemeleon_cli.sources.published_sets import NAMES

PAGE = (Path(__file__).parent.parent / "docs" / "data.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    chemeleon (.*)$", PAGE, re.MULTILINE)


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "draw", lambda path, manifest, labels: path.write_bytes(b""))


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with serving() as served:
        parts = {"train": range(5), "val": range(5, 7), "test": range(7, 8)}
        publish(served, monkeypatch, "mp-20", {f"{s}.csv": table(rows, dict(MP20)) for s, rows in parts.items()})
        yield served


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with materials_project_server.serving(monkeypatch) as served:
        yield served


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MP_API_KEY", raising=False)
    (tmp_path / "my_crystals.csv").write_bytes(table(range(8), {"gap": 0.5}))
    (tmp_path / "my_cifs").mkdir()
    for name, cation in (("a", "Na"), ("b", "K"), ("c", "Li")):
        salt = Structure(Lattice.cubic(5), [cation, "Cl"], [[0, 0, 0], [0.5] * 3])
        (tmp_path / "my_cifs" / f"{name}.cif").write_text(cif_text(salt, ""))
    (tmp_path / "my_labels.csv").write_text("id,band_gap\na,5.0\nb,4.2\nc,6.1\n")
    (recipe,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "my_query.yaml").write_text(recipe)
    return tmp_path


def test_every_command_of_the_page_runs(files: FileServer, server: Server, work: Path) -> None:
    assert len(COMMANDS) == 6
    made = []
    for command in COMMANDS:
        result = CliRunner().invoke(app, shlex.split(command.replace("KEY", KEY)))
        assert result.exit_code == 0, f"{command}: {result.output}"
        assert KEY not in result.output
        made += [p.name for p in (work / "data").iterdir() if p.name not in made]
    assert made == ["mp-20", "mp-20-by-formula", "mp", "oxides", "mine", "joined"]
    asked = [q for q in server.asked if "band_gap_min" in q]
    assert (asked[0]["band_gap_min"], asked[0]["elements"], asked[0]["energy_above_hull_max"]) == ("1.0", "O", "0.1")
    for name in made:
        there = {p.name for p in (work / "data" / name).iterdir()}
        assert {"train.csv.gz", "manifest.json", "rejected.csv", "picture.png"} <= there
        assert ("hull.csv.gz" in there) == (name == "oxides")
    for path in work.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def test_the_table_of_sets_is_the_programs() -> None:
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| `")
    ]
    sets = {cells[0]: cells for cells in rows if len(cells) == 6 and cells[0] != "--source"}
    assert set(sets) == set(NAMES)
    for name, known in published.SETS.items():
        crystals, download, _, licence, labels = sets[name][1:]
        assert (crystals, download) == (f"{known.crystals:,}", f"{known.megabytes} MB")
        assert licence in known.licence
        assert all(f"`{column}`" in f"`{labels}`" for column in known.columns.values())


def test_the_table_of_reasons_is_the_programs() -> None:
    table = PAGE.partition("## What is rejected\n")[2].partition("\n### ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [*crystal_files.REASONS, *examine.REASONS]
    assert len(crystal_files.REASONS) == 9, "the page says how many of them `score` gives too"
