"""`chemeleon write-hull`, through the command line, with a potential of known energies."""

import json
from pathlib import Path
from typing import Any

import pytest
from levels import Levels, relax_levels
from pymatgen.core import Lattice, Structure
from samples import body_centred, perovskite, rock_salt, zinc_blende
from typer.testing import CliRunner, Result

from chemeleon_cli.app import app
from chemeleon_cli.core.scoring.hull import Hull
from chemeleon_cli.sources.files import write_crystals

SALT = rock_salt(5.6)
CRUSHED = Structure(Lattice.cubic(1.0), ["Fe"], [[0, 0, 0]])
CRYSTALS = [
    SALT,
    body_centred(4.1, "Cs", "Cl"),
    CRUSHED,
    perovskite(3.9),
    zinc_blende(5.4),
    body_centred(2.87, "Fe", "Fe"),
    Structure(Lattice.cubic(4.2), ["Xe"], [[0, 0, 0]]),
]
ENERGIES = {"NaCl": -2.01, "CsCl": -2.0, "ZnS": -1.0, "Fe": 0.08, "SrTiO3": -3.0}


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with a set of crystals, of which xenon has no energy and one is crushed."""
    monkeypatch.chdir(tmp_path)
    # the first of these imports the room that binds the second, which has to be the real one then
    monkeypatch.setattr("chemeleon_cli.core.scoring.loading.load_potential", lambda *_: Levels(ENERGIES))
    monkeypatch.setattr("chemeleon_cli.core.potentials.loading.load_potential", lambda *_: Levels(ENERGIES))
    monkeypatch.setattr("chemeleon_cli.core.potentials.relaxation.relax", relax_levels)
    write_crystals("set.cif", CRYSTALS, list("abcdefg"))


def call(*arguments: str, code: int = 0) -> str:
    result: Result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def strain(s: Structure) -> float:
    return 0.1 * abs(s.volume / len(s) / 20 - 1)


def test_energies_become_a_hull_and_what_it_lacks_is_said() -> None:
    text = call("write-hull", "set.cif")
    assert "5 energies, PBE/MP2020: hull.csv.gz" in text
    assert "1 without an energy: volume" in text
    assert "1 without an energy: no energy of Xe" in text
    assert "no crystal of pure Cl, Cs, Na, O, S, Sr, Ti, Zn" in text
    assert "relax" not in text
    hull = Hull.load("hull.csv.gz")
    assert (hull.energy_scale, hull.manifest.source, len(hull)) == ("PBE/MP2020", "set.cif by levels", 5)
    formulas, energies, ids = hull._table
    assert (formulas, ids) == (["ClNa", "ClCs", "O3SrTi", "SZn", "Fe"], list("abdef"))
    assert energies[0] == pytest.approx(-2.01 + strain(SALT))
    assert {path.name for path in Path().iterdir() if path.is_file()} == {"set.cif", "hull.csv.gz", "hull.json"}


def test_the_hull_measures_the_set_that_it_is_made_of() -> None:
    call("write-hull", "set.cif", "--out", "own.csv")
    call("score", "set.cif", "--set", "energy_model=chgnet", "--set", "hull=own.csv", "--out", "s.csv")
    rows = Path("s.csv").read_text().splitlines()
    column = rows[0].split(",").index("e_above_hull")
    assert float(rows[6].split(",")[column]) == pytest.approx(0)


def test_relaxed_energies_say_how_many_did_not_converge() -> None:
    text = call("write-hull", "set.cif", "--set", "relax={steps: 20}")
    assert "relaxing 6 crystals with levels" in text
    assert "1 without an energy: relaxation: it fell apart" in text
    assert "did not converge" not in text
    hull = Hull.load("hull.csv.gz")
    assert hull.manifest.source == "set.cif by levels, relaxed"
    assert hull._table[1][0] == pytest.approx(-2.01)
    text = call("write-hull", "set.cif", "--set", "relax={steps: 3}", "--overwrite")
    assert "the energies of 5 crystals that did not converge are too high" in text
    assert Hull.load("hull.csv.gz").manifest.source == "set.cif by levels, relaxed (5 not converged)"


def test_nothing_is_replaced_unless_it_is_asked_for() -> None:
    call("write-hull", "set.cif", "--out", "own.csv.gz")
    kept = Path("own.json").read_text()
    Path("own.csv.gz").unlink()
    write_crystals("set.cif", CRYSTALS[:2], list("ab"))
    assert "own.json: is there already" in call("write-hull", "set.cif", "--out", "own.csv.gz", code=2)
    assert Path("own.json").read_text() == kept
    assert not Path("own.csv.gz").exists()
    call("write-hull", "set.cif", "--out", "own.csv.gz", "--overwrite")
    assert json.loads(Path("own.json").read_text())["count"] == 2
    Path("set.csv").write_text("cif\n")
    said = call("write-hull", "set.csv", "--out", "set.csv", "--overwrite", code=2)
    assert "set.csv: is the input; it is left unchanged" in said


def test_nothing_is_written_where_there_is_no_energy() -> None:
    write_crystals("bad.cif", [CRUSHED], ["a"])
    assert "none of the 1 crystals has an energy" in call("write-hull", "bad.cif", code=2)
    Path("empty.csv").write_text("cif\n")
    assert "empty.csv: contains no crystal" in call("write-hull", "empty.csv", code=2)
    assert not list(Path().glob("hull*"))


def test_what_cannot_be_written_is_said_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: Any) -> None:
        raise AssertionError("computed in vain")

    monkeypatch.setattr("chemeleon_cli.core.potentials.loading.load_potential", work)
    for name in ("set.cif/x.csv", "set.cif/deep/x.csv.gz", "/dev/null/x.csv"):
        assert f"{name}: cannot be written: Not a directory" in call("write-hull", "set.cif", "--out", name, code=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none.cif",), "FILE none.cif: file: found 'none.cif'; expected an existing file or folder of crystals"),
        (("set.cif", "--out", "h.txt"), "--out h.txt: out: found 'h.txt'; expected a name that ends in .csv.gz"),
        (("set.cif", "--set", "energy_model=chgnt"), "did you mean 'chgnet'?"),
        (
            ("set.cif", "--set", "energy_scale=r2SCAN"),
            "energy_scale: found 'r2SCAN'; the energies of chgnet are PBE/MP2020: leave this out",
        ),
        (
            ("set.cif", "--set", "energy_model=mine.model"),
            "found null; expected the energy scale that mine.model was fitted to",
        ),
        (
            ("set.cif", "--set", "energy_model=mine.model", "--set", "energy_scale=unknown"),
            "found 'unknown'; expected the energy scale that mine.model was fitted to",
        ),
        (("set.cif", "--set", "hull=starter"), "hull: found an unknown key"),
    ],
)
def test_mistakes_are_said_and_nothing_is_written(arguments: tuple[str, ...], said: str) -> None:
    Path("mine.model").touch()
    assert said in call("write-hull", *arguments, code=2)
    assert not list(Path().glob("hull*"))
