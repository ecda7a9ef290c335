"""docs/how-it-works.md names functions throughout; "Another reward" of docs/extending.md is run."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from samples import rock_salt
from typer.testing import CliRunner

from chemeleon_cli.app import app
from chemeleon_cli.sources.files import write_crystals

ROOT = Path(__file__).parent.parent
WALK = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([\w/]+\.py):([\w.]+)`", WALK))


def test_the_walk_goes_through_both_commands() -> None:
    assert len(NAMED) > 40
    assert not re.findall(r"`[\w/]+\.py`", WALK.partition("## A crystal in train-rl")[2]), "a file without a function"


@pytest.fixture
def page() -> tuple[list[str], str]:
    """The code blocks of "Another reward", and its command."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", text.partition("## Another reward\n")[2], flags=re.MULTILINE)[0]
    (command,) = re.findall(r"^    chemeleon (.*)$", section, re.MULTILINE)
    return re.findall(r"```\w+\n(.*?)```", section, re.DOTALL), command


def test_a_reward_of_ones_own(page: tuple[list[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (light, recipe, *_), command = page
    monkeypatch.chdir(tmp_path)
    Path("light.py").write_text(light, encoding="utf-8")
    Path("light.yaml").write_text(recipe, encoding="utf-8")
    write_crystals("generated.cif", [rock_salt(5.6)], ["salt"])
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 0, result.output
    assert pd.read_csv("generated.scores.csv")["reward_light"][0] == pytest.approx(-rock_salt(5.6).density)


def test_a_built_in_reward(page: tuple[list[str], str], tmp_path: Path) -> None:
    """In a copy of the package to which the file and the line are added."""
    (*_, density, line, use), _ = page
    package = tmp_path / "chemeleon_cli"
    shutil.copytree(ROOT / "chemeleon_cli", package, ignore=shutil.ignore_patterns("starter", "__pycache__"))
    rewards = package / "core" / "rewards"
    (rewards / "density.py").write_text(density, encoding="utf-8")
    code = (rewards / "sum.py").read_text(encoding="utf-8")
    (entry,) = re.findall(r"^\".*$", line, re.MULTILINE)
    code = code.replace("] = {\n", f"] = {{\n    {entry}\n", 1)
    first_import = "from chemeleon_cli.core.rewards.base import"
    code = code.replace(first_import, f"from chemeleon_cli.core.rewards.density import Density\n{first_import}", 1)
    (rewards / "sum.py").write_text(code, encoding="utf-8")
    use += "import chemeleon_cli\n"
    use += f"assert chemeleon_cli.__file__.startswith({str(tmp_path)!r})\n"
    use += "from chemeleon_cli.core.rewards import ReinforceReward\n"
    use += "(made,) = ReinforceReward.model_validate({'components': [{'type': 'density', 'target': 2.0}]}).components\n"
    use += "assert made == Density(target=2.0)\n"
    subprocess.run([sys.executable, "-c", use], check=True, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
