"""Names of models: where they lead, and what is said when they lead nowhere."""

import json
from pathlib import Path

import pytest
from samples import assert_not_imported

from chemeleon_cli.errors import UserError
from chemeleon_cli.sources import checkpoints
from chemeleon_cli.sources.checkpoints import find_model


def checkpoint(folder: Path, kind: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"kind": kind, "version": 1}))
    return folder


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with three runs."""
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "runs" / "vae" / "checkpoints" / "best", "vae")
    checkpoint(tmp_path / "runs" / "vae" / "checkpoints" / "last", "vae")
    checkpoint(tmp_path / "runs" / "ldm" / "checkpoints" / "last", "ldm")
    checkpoint(tmp_path / "runs" / "bandgap" / "checkpoints" / "best", "predictor")
    return tmp_path / "runs"


def test_a_run_stands_for_its_best_checkpoint_else_its_last(runs: Path) -> None:
    assert find_model("runs/vae", "vae") == Path("runs/vae/checkpoints/best")
    assert find_model(str(runs / "ldm"), "ldm") == runs / "ldm" / "checkpoints" / "last"
    assert find_model("runs/vae/checkpoints/last", "vae") == Path("runs/vae/checkpoints/last")


def test_an_ldm_serves_as_its_vae_but_not_the_other_way(runs: Path) -> None:
    assert find_model("runs/ldm", "vae") == Path("runs/ldm/checkpoints/last")
    with pytest.raises(UserError, match="kind vae; expected kind ldm") as error:
        find_model("runs/vae", "ldm")
    assert "runs/ldm" in error.value.hint


@pytest.mark.parametrize(
    ("name", "kind", "hint"),
    [
        ("runs/lmd", "ldm", "did you mean runs/ldm?"),
        ("ldm", "ldm", "did you mean runs/ldm?"),
        ("elsewhere/bandgap", "predictor", "did you mean runs/bandgap?"),
        ("quite-different", "predictor", "of this kind there is runs/bandgap"),
    ],
)
def test_a_missing_model_names_those_of_its_kind(runs: Path, name: str, kind: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"no model '{name}'") as error:
        find_model(name, kind)
    assert error.value.hint == hint


def test_where_there_is_no_model_the_hint_is_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        find_model("x", "predictor")
    assert "chemeleon train-predictor" in error.value.hint


def test_other_folders_and_files_are_told_apart(runs: Path) -> None:
    (runs / "vae" / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is a file"):
        find_model("runs/vae/model.safetensors", "vae")
    with pytest.raises(UserError, match="contains bandgap, ldm, vae"):
        find_model("runs", "vae")


@pytest.mark.parametrize("content", ["", "[]", "{}", "{"])
def test_a_broken_meta_is_named(runs: Path, content: str) -> None:
    (runs / "ldm" / "checkpoints" / "last" / "meta.json").write_text(content)
    with pytest.raises(UserError, match=r"meta\.json cannot be read"):
        find_model("runs/ldm", "ldm")
    with pytest.raises(UserError):
        find_model("runs/lmd", "ldm")


def test_starter_names_the_models_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "STARTER", tmp_path)
    with pytest.raises(UserError, match="no 'starter' model of kind ldm in this installation; there is none"):
        find_model("starter", "ldm")
    for name, kind in (("ldm", "ldm"), ("predictor", "predictor"), ("judge", "predictor")):
        checkpoint(tmp_path / name, kind)
    assert find_model("starter", "ldm") == find_model("starter", "vae") == tmp_path / "ldm"
    assert find_model("starter", "predictor") == tmp_path / "predictor"
    assert find_model("starter/judge", "predictor") == tmp_path / "judge"
    with pytest.raises(UserError, match="starter/judge or starter/ldm"):
        find_model("starter/jugde", "predictor")


def test_nothing_heavy_is_imported() -> None:
    code = "import chemeleon_cli.sources.checkpoints, chemeleon_cli.sources.files, chemeleon_cli.commands.fetch_data"
    assert_not_imported(code, "torch", "pymatgen", "ase", "pandas", "mp_api", "numpy")
