"""docs/extending.md: its examples are run."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pymatgen.core import Lattice, Structure
from samples import rock_salt
from typer.testing import CliRunner

from chemeleon_cli.app import app
from chemeleon_cli.core.potentials import loading
from chemeleon_cli.core.scoring.hull import Hull
from chemeleon_cli.sources.files import write_crystals

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text(encoding="utf-8")


def section(title: str) -> tuple[list[str], list[list[str]]]:
    """The Python blocks of a section, and the words of its commands."""
    text = re.split(r"^## ", PAGE.partition(f"## {title}\n")[2], flags=re.MULTILINE)[0]
    commands = re.findall(r"^    chemeleon (.*)$", text, re.MULTILINE)
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL), [command.split() for command in commands]


def test_another_potential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file, line, use), commands = section("Another potential")
    module = ModuleType("lennard_jones")
    monkeypatch.setitem(sys.modules, "lennard_jones", module)  # where pickle looks for the class
    exec(file, module.__dict__)
    names = {"Known": loading.Known, "LennardJones": module.__dict__["LennardJones"]}
    for name, known in eval(f"{{{line}}}", names).items():
        monkeypatch.setitem(loading.POTENTIALS, name, known)
    exec(use, {})

    monkeypatch.chdir(tmp_path)
    elements = [Structure(Lattice.cubic(2.8), [symbol], [[0, 0, 0]]) for symbol in ("Na", "Cl")]
    write_crystals("generated.cif", [*elements, rock_salt(5.2)], ["Na", "Cl", "NaCl"])
    Path("data/mine").mkdir(parents=True)
    write_crystals("data/mine/train.csv", [*elements, rock_salt(5.2)], ["Na", "Cl", "NaCl"])
    for command in commands:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    assert Hull.load("hull.csv.gz").energy_scale == "Lennard-Jones"
    assert Path("generated.scores.csv").is_file()
