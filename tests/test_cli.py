"""The command line: quick help, exit codes, and what reaches a command."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from chemeleon_cli import app as cli
from chemeleon_cli.app import app
from chemeleon_cli.errors import UserError
from chemeleon_cli.recipe.base import RunOptions
from chemeleon_cli.recipe.load import load
from chemeleon_cli.recipe.models import RECIPES, FetchData

COMMANDS = [*RECIPES, "recipes"]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a data folder and no key for any API."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MP_API_KEY", raising=False)
    data = tmp_path / "data" / "mp-20"
    data.mkdir(parents=True)
    (data / "train.csv").touch()
    (data / "val.csv").touch()
    return tmp_path


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What commands were run with, in their stead."""
    calls: list[dict[str, Any]] = []
    real = cli.import_module

    def stand_in(name: str) -> Any:
        if name == "chemeleon_cli.commands.recipes":
            return real(name)
        return SimpleNamespace(run=lambda recipe, **rest: calls.append({"name": name, "recipe": recipe, **rest}))

    monkeypatch.setattr(cli, "import_module", stand_in)
    return calls


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    program = """
import sys
from chemeleon_cli.app import app
try:
    app(["--help"])
except SystemExit:
    pass
heavy = {"torch", "numpy", "pandas", "pymatgen", "pydantic", "yaml"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    chemeleon = Path(sys.executable).with_name("chemeleon")
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([chemeleon, "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0  # 0.2 on an idle machine; tests share theirs


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert command in result.stdout


def test_a_wrong_recipe_exits_with_2_and_no_traceback(work: Path, ran: list) -> None:
    (work / "vae.yaml").write_text("data: {path: data/mp20}\nseeed: 1\n")
    result = call("train-vae", "vae.yaml")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "vae.yaml:1: data.path: found 'data/mp20', no such folder; expected one made by `chemeleon fetch-data`; "
        "did you mean 'data/mp-20'?",
        "vae.yaml:2: seeed: found an unknown key; did you mean 'seed'?",
    ]
    assert not ran


def test_debug_shows_the_traceback(work: Path) -> None:
    result = call("train-vae", "nothing.yaml", "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert "nothing.yaml: no such recipe" in result.stderr


def test_exit_codes_in_a_shell(work: Path) -> None:
    program = [Path(sys.executable).with_name("chemeleon")]
    quiet = {"cwd": work, "capture_output": True, "text": True}
    assert subprocess.run([*program, "recipes"], **quiet).returncode == 0
    result = subprocess.run([*program, "recipes", "show", "bandgab"], **quiet)
    assert result.returncode == 2
    assert "did you mean 'bandgap'?" in result.stderr
    assert "Traceback" not in result.stderr
    assert subprocess.run([*program, "train-vae"], **quiet).returncode == 2


def test_a_bug_keeps_its_traceback(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        return SimpleNamespace(run=lambda recipe, **rest: 1 / 0)

    monkeypatch.setattr(cli, "import_module", broken)
    result = call("train-vae", "vae")
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize(("error", "code"), [(UserError("no", "yes"), 2), (KeyboardInterrupt(), 130)])
def test_what_a_command_raises(error: BaseException, code: int, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(recipe: Any, **rest: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "import_module", lambda name: SimpleNamespace(run=run))
    result = call("train-vae", "recipes/vae.yaml")
    assert result.exit_code == code
    assert result.stderr == ("no\nhint: yes\n" if code == 2 else "interrupted\n")


def test_training_gets_its_recipe_and_options(work: Path, ran: list) -> None:
    result = call("train-vae", "recipes/vae.yaml", "--seed", "3", "--devices", "2", "--resume", "--set", "name=mine")
    assert result.exit_code == 0, result.stderr
    (run,) = ran
    assert run["name"] == "chemeleon_cli.commands.train_vae"
    assert run["options"] == RunOptions(resume=True, overwrite=False)
    assert (run["recipe"].seed, run["recipe"].devices, run["recipe"].name) == (3, 2, "mine")


def test_a_wrong_option_is_named(work: Path, ran: list) -> None:
    result = call("train-vae", "vae", "--devices", "0")
    assert result.exit_code == 2
    assert result.stderr == "--devices 0: devices: found 0; expected at least 1\n"


def test_dry_run_prints_a_recipe_and_runs_nothing(work: Path, ran: list) -> None:
    result = call("train-vae", "vae", "--dry-run", "--seed", "3")
    assert result.exit_code == 0
    assert not ran
    (work / "again.yaml").write_text(result.stdout)
    model = RECIPES["train-vae"]
    assert load("again.yaml", model) == load("vae", model, options={"seed": 3})


def test_a_bare_key_fetches_from_the_materials_project(work: Path, ran: list) -> None:
    assert call("fetch-data", "--api-key", "secret").exit_code == 0
    assert ran[0]["recipe"] == load("fetch_mp", FetchData)
    assert ran[0]["api_key"] == "secret"


def test_a_source_needs_no_recipe(work: Path, ran: list) -> None:
    (work / "my.csv").touch()
    result = CliRunner().invoke(app, ["fetch-data", "--source", "my.csv", "--seed", "1"], env={"MP_API_KEY": "secret"})
    assert result.exit_code == 0, result.stderr
    recipe = ran[0]["recipe"]
    assert (recipe.source, recipe.split.seed, recipe.query) == ("my.csv", 1, {})


def test_a_source_by_set_needs_no_recipe_either(work: Path, ran: list) -> None:
    (work / "my.csv").touch()
    result = CliRunner().invoke(app, ["fetch-data", "--set", "source=my.csv"], env={"MP_API_KEY": "secret"})
    assert result.exit_code == 0, result.stderr
    assert (ran[0]["recipe"].source, ran[0]["recipe"].query) == ("my.csv", {})


def test_a_dry_run_looks_for_the_source_and_its_labels(work: Path, ran: list) -> None:
    result = call("fetch-data", "--source", "mp-2O", "--set", "labels_file=gone.csv", "--dry-run")
    assert result.exit_code == 2
    labels, source = sorted(result.stderr.splitlines(), key=lambda line: "source:" in line)
    assert "labels_file: found 'gone.csv'; expected a CSV, Parquet or JSON file" in labels
    assert "source: found 'mp-2O'; expected a file or folder, or one of" in source
    assert source.endswith("did you mean 'mp-20'?")


def test_without_a_source_the_key_may_be_in_pymatgens_settings(work: Path, ran: list) -> None:
    assert call("fetch-data").exit_code == 0
    assert ran[0]["recipe"] == load("fetch_mp", FetchData)


def test_without_a_source_and_a_key_both_are_named(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pymatgen.core import SETTINGS

    monkeypatch.setitem(SETTINGS, "PMG_MAPI_KEY", None)
    result = call("fetch-data")
    assert result.exit_code == 2
    assert result.stderr.startswith("no key for the Materials Project\nhint: get a free key at ")
    assert "--source mp-20" in result.stderr


@pytest.mark.parametrize("setting", ["api_key={}", "query.api_key={}", "query={{MP_API_KEY: {}", "PMG-MAPI-KEY{}"])
def test_a_key_in_a_setting_is_refused_and_not_shown(setting: str, work: Path, ran: list) -> None:
    key = "0123456789abcdef0123456789abcdef"
    result = call("fetch-data", "--set", setting.format(key))
    assert result.exit_code == 2
    assert result.stderr.startswith("--set: found a key for an API; expected none, as recipes are kept and shared")
    assert key not in result.output + result.stderr
    assert not ran


def test_score_names_a_missing_file(work: Path, ran: list) -> None:
    result = call("score", "none.cif")
    assert result.exit_code == 2
    assert result.stderr == "FILE none.cif: file: found 'none.cif'; expected an existing file or folder of crystals\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sample", "--condition", "band_gap="), "--condition band_gap=: found nothing after '='; expected a value"),
        (("train-vae", "vae", "--set", "data.thirds=[3]"), "data.thirds.0: found 3; expected one of 0, 1, 2"),
        (
            ("score", "x.cif", "--set", "hull=starter"),
            "hull: found 'starter'; expected null where energy_model is null",
        ),
        (("train-vae", "latin.yaml"), "latin.yaml: found text that is not UTF-8\nhint: save the file as UTF-8"),
        (("train-vae", "x.cif"), "yyy...; expected lines of `key: value`"),
    ],
)
def test_mistakes_are_said_in_a_line(work: Path, ran: list, arguments: tuple[str, ...], said: str) -> None:
    (work / "x.cif").write_text("data_x " + "y" * 4000)
    (work / "latin.yaml").write_bytes("name: caf\xe9\n".encode("latin-1"))
    result = call(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr) < 600
    assert not ran


def test_the_starter_set_is_known_by_its_name(work: Path, ran: list) -> None:
    (work / "x.cif").touch()
    result = call("score", "x.cif", "--reference", "starter")
    assert result.exit_code == 0, result.stderr
    assert ran[0]["recipe"].reference == "starter"


def test_score_takes_options(work: Path, ran: list) -> None:
    (work / "x.cif").touch()
    result = call("score", "x.cif", "--reference", "data/mp-20", "--out", "s.csv")
    assert result.exit_code == 0, result.stderr
    recipe = ran[0]["recipe"]
    assert (recipe.file, recipe.reference, recipe.out, recipe.reward) == ("x.cif", "data/mp-20", "s.csv", None)


def test_a_condition_of_a_column_with_a_dot_is_one_key(work: Path, ran: list) -> None:
    (work / "s.yaml").write_text("model: m\nconditions: {spacegroup.number: 1}\n")
    (folder := work / "m").mkdir()
    (folder / "meta.json").write_text('{"kind": "ldm", "version": 1}')
    result = call("sample", "s.yaml", "--condition", "spacegroup.number=225", "--condition", "gap=1.5")
    assert result.exit_code == 0, result.stderr
    assert ran[0]["recipe"].conditions == {"spacegroup.number": 225, "gap": 1.5}
    result = call("sample", "s.yaml", "--condition", "spacegroup.number=[1]")
    assert result.stderr.startswith(
        "--condition spacegroup.number=[1]: conditions.spacegroup.number: found neither a number nor a text"
    )


def test_recipes_are_listed_shown_and_explained(work: Path) -> None:
    assert "bandgap " in call("recipes").stdout
    shown = call("recipes", "show", "bandgap").stdout
    assert "target_value: 3.0" in shown
    (work / "mine.yaml").write_text(shown)
    assert load("mine.yaml", RECIPES["train-rl"]) == load("bandgap", RECIPES["train-rl"])
    assert "clip_ratio: number = 0.2" in call("recipes", "schema", "train-rl").stdout
    result = call("recipes", "schema", "trian-rl")
    assert result.exit_code == 2
    assert "did you mean 'train-rl'?" in result.stderr
    assert call("recipes", "draw", "x").exit_code == 2


def test_a_shipped_reward_is_shown_to_be_copied_beside_its_recipe(work: Path) -> None:
    (work / "mine.yaml").write_text(call("recipes", "show", "atomic_density").stdout)
    missing = call("train-rl", "mine.yaml", "--dry-run")
    assert missing.exit_code == 2
    assert "atomic_density.py" in missing.stderr
    (work / "atomic_density.py").write_text(call("recipes", "show", "atomic_density.py").stdout)
    assert call("train-rl", "mine.yaml", "--dry-run").exit_code == 0


def test_a_recipe_in_the_working_folder_goes_first(work: Path, ran: list) -> None:
    (work / "recipes").mkdir()
    (work / "recipes" / "vae.yaml").write_text("data: {path: data/mp-20}\nseed: 5\n")
    assert call("train-vae", "vae").exit_code == 0
    assert ran[0]["recipe"].seed == 5


def test_version() -> None:
    assert call("--version").stdout.strip() == cli.__version__
