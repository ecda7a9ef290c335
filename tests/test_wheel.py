"""The wheel holds all that the program needs, and works where there is no repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytest.importorskip("hatchling")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built offline."""
    out = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--wheel-dir", str(out), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (found,) = out.glob("chemeleon_cli-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which it alone is installed."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", str(wheel), "--target", str(folder), *options]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def run(installed: Path, work: Path, *arguments: str) -> str:
    """What `chemeleon ARGUMENTS` prints in an empty folder, of the installed wheel and no other; nothing is trained, so
    the three seconds that lightning_fabric takes to import are not spent."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "CHEMELEON_CACHE": str(work / "cache")}
    program = "import chemeleon_cli, sys; assert chemeleon_cli.__file__.startswith(sys.argv.pop(1)); "
    program += "from chemeleon_cli.app import app\ntry:\n    app(prog_name='chemeleon')\n"
    program += "finally:\n    assert 'lightning_fabric' not in sys.modules"
    command = [sys.executable, "-c", program, str(installed), *arguments]
    result = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def tracked(folder: str, suffixes: tuple[str, ...]) -> set[str]:
    """Files of the repository that have to be in the wheel."""
    found = (p for p in (ROOT / folder).rglob("*") if p.suffix in suffixes and "__pycache__" not in p.parts)
    return {p.relative_to(ROOT).as_posix() for p in found}


def test_nothing_is_left_out(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    starter = tracked("chemeleon_cli/starter", (".py", ".gz", ".json", ".safetensors"))
    recipes = {f"chemeleon_cli/{name}" for name in tracked("recipes", (".yaml", ".py"))}
    assert len(starter) > 10 and "chemeleon_cli/recipes/starter/vae.yaml" in recipes
    assert not (tracked("chemeleon_cli", (".py",)) | starter | recipes) - names
    assert not [n for n in names if not n.startswith("chemeleon_cli") or "__pycache__" in n or "/tests/" in n]


def test_it_works_without_the_repository(installed: Path, tmp_path: Path) -> None:
    assert (installed / "bin" / "chemeleon").is_file()
    assert "train-rl" in run(installed, tmp_path, "--help")
    listed = run(installed, tmp_path, "recipes")
    assert "bandgap " in listed and "starter/vae" in listed
    assert run(installed, tmp_path, "recipes", "show", "bandgap") == (ROOT / "recipes" / "bandgap.yaml").read_text()


def test_the_starter_set_is_written_from_site_packages(installed: Path, tmp_path: Path) -> None:
    if not (ROOT / "chemeleon_cli" / "starter" / "crystals.csv.gz").is_file():
        pytest.skip("this checkout has no starter set yet")
    run(installed, tmp_path, "fetch-data", "--source", "starter")
    assert {f"{split}.csv.gz" for split in ("train", "val", "test")} <= {
        path.name for path in (tmp_path / "data" / "starter").iterdir()
    }


def test_the_starter_models_score_a_crystal_from_site_packages(installed: Path, tmp_path: Path) -> None:
    if not (ROOT / "chemeleon_cli" / "starter" / "judge" / "meta.json").is_file():
        pytest.skip("this checkout has no starter models yet")
    run(installed, tmp_path, "sample", "-n", "2", "--set", "sampling_steps=5", "--out", "two.cif")
    run(installed, tmp_path, "score", "two.cif", "--reward", "bandgap")
    assert (tmp_path / "two.scores.csv").is_file()
