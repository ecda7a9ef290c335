"""The models that come with the program: their recipes, how they are packed, measured and shown. Tiny ones here."""

import gzip
import itertools
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pymatgen.core import Lattice, Structure
from safetensors.torch import load_file
from samples import known_structures
from test_chain import call, halides
from typer.testing import CliRunner

from chemeleon_cli.commands import train_ldm
from chemeleon_cli.core.data.cif import cif_text
from chemeleon_cli.core.data.dataset import load_split, of_thirds, third_of
from chemeleon_cli.core.training import checkpoint
from chemeleon_cli.errors import UserError
from chemeleon_cli.recipe.load import load
from chemeleon_cli.recipe.models import TrainPredictor, TrainVae
from chemeleon_cli.sources import checkpoints, published
from chemeleon_cli.starter import check, demo, figures, pack
from chemeleon_cli.starter.build import assemble

ROOT = Path(__file__).parents[1]
SHORT = ["--set", "training={max_steps: 4, val_every: 2, batch_size: 16}"]
VAE = ["--set", "model={hidden_dim: 32, num_heads: 4, encoder_layers: 1, decoder_layers: 1, latent_dim: 4}", *SHORT]
LDM = ["--set", "model={hidden_dim: 32, num_heads: 4, num_blocks: 1}", "--set", "sampling.sampling_steps=2", *SHORT]
POLISH = [
    "--set", "training={max_steps: 2, val_every: 1, val_samples: 4}", "--set", "sampling.sampling_steps=4",
    "--set", "rl={num_group_samples: 4, groups_per_step: 2, trajectory_steps: 2}",
]  # fmt: skip
THIRDS = {"starter_vae": None, "starter_predictor_vae": [1, 2], "starter_judge_vae": [0]}


def small_set(folder: Path) -> None:
    """`crystals.csv.gz` and `card.json` as the builder writes them."""
    rows = []
    crystals = halides()
    formulas = list(dict.fromkeys(s.composition.reduced_formula for s in crystals))
    for i, s in enumerate(crystals):
        place = formulas.index(s.composition.reduced_formula) % 10
        rows.append(
            {
                "material_id": f"st-{i}",
                "pretty_formula": s.composition.reduced_formula,
                "elements": str(sorted(e.symbol for e in s.composition.elements)),
                "spacegroup.number": 225,
                "formation_energy_per_atom": -2 + 0.01 * i,
                "e_above_hull": "" if i % 7 == 0 else 0.01 * (i % 5),
                "band_gap": round(max(9 - s.lattice.a, 0), 3),
                "density": round(float(s.density), 4),
                "split": {8: "val", 9: "test"}.get(place, "train"),
                "cif": cif_text(s, f"st-{i}"),
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows, columns=list(assemble.COLUMNS))
    (folder / "crystals.csv.gz").write_bytes(gzip.compress(table.to_csv(index=False).encode(), mtime=0))
    assemble.write_card(folder, {"crystals": len(table)})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder where the starter's models were trained, and `starter/` into which they were packed."""
    work = tmp_path_factory.mktemp("made")
    small_set(work / "starter")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        patch.setenv("CHEMELEON_CACHE", str(work / "cache"))
        patch.setattr(train_ldm, "FINAL_SAMPLES", 8)
        patch.setattr(published, "STARTER_TABLE", work / "starter" / "crystals.csv.gz")
        call("fetch-data", "--source", "starter")
        call("train-vae", "starter/vae", *VAE)
        call("train-ldm", "starter/ldm", *LDM)
        call("train-rl", "starter/polish", *POLISH)
        for name in ("starter_predictor_vae", "starter_judge_vae"):
            which = ["--set", f"name={name}", "--set", f"data.thirds={THIRDS[name]}"]
            call("train-vae", "starter/predictor_vae", *VAE, *which)
        call("train-predictor", "starter/predictor", *SHORT)
        judge = ["--set", "name=starter_judge", "--set", "vae=runs/starter_judge_vae", "--set", "data.thirds=[0]"]
        call("train-predictor", "starter/predictor", *judge, *SHORT, "--seed", "7")
        for name, trained in {"ldm": "polish", "predictor": "predictor", "judge": "judge"}.items():
            pack.pack(f"runs/starter_{trained}", name, work / "starter")
    return work


@pytest.fixture
def elsewhere(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with nothing in it, of a program that comes with these models."""
    monkeypatch.setattr(checkpoints, "STARTER", made / "starter")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHEMELEON_CACHE", str(made / "cache"))
    return tmp_path


# Thirds of the formulas


def test_thirds_are_a_partition_by_formula(made: Path) -> None:
    table = load_split(made / "data" / "starter", "train")
    assert table is not None
    parts = [of_thirds(table, [k]) for k in range(3)]
    assert sorted(itertools.chain(*(part.ids for part in parts))) == sorted(table.ids)
    for a, b in itertools.combinations(parts, 2):
        assert not set(a.formulas) & set(b.formulas)
    both = of_thirds(table, [1, 2])
    assert len(both) == len(parts[1]) + len(parts[2])
    assert both.structures() == [s for s, f in zip(table.structures(), table.formulas, strict=True) if third_of(f)]


def test_thirds_are_thirds_and_stay_what_they_are() -> None:
    symbols = ["Li", "Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr", "Ba", "Al", "Ga", "In", "Sc", "Y", "La", "Ti", "Zr"]
    formulas = [f"{a}{m}{b}{n}" for a in symbols for b in ("O", "S", "F", "Cl", "N") for m in (1, 2) for n in (1, 3, 5)]
    counts = np.bincount([third_of(formula) for formula in formulas], minlength=3)
    assert counts / len(formulas) == pytest.approx([1 / 3] * 3, abs=0.06)
    assert [third_of(f) for f in ("NaCl", "SrTiO3", "Si", "MgO", "TiO2", "CaF2")] == [0, 1, 2, 1, 0, 1]


def test_a_run_learns_from_its_thirds_only(made: Path) -> None:
    counts = {}
    for name, thirds in THIRDS.items():
        meta = checkpoint.read_meta(made / "runs" / name / "checkpoints" / "best")
        assert meta["recipe"]["data"]["thirds"] == thirds
        counts[name] = meta["data"]["count"]
    assert counts["starter_vae"] == counts["starter_predictor_vae"] + counts["starter_judge_vae"]
    predictor, judge = (
        checkpoint.read_meta(made / f"runs/starter_{name}/checkpoints/best") for name in ("predictor", "judge")
    )
    assert (predictor["data"]["count"], judge["data"]["count"]) == tuple(list(counts.values())[1:])


def test_thirds_that_are_not_there(made: Path) -> None:
    table = load_split(made / "data" / "starter", "train")
    assert table is not None
    with pytest.raises(UserError, match=r"none of its \d+ crystals is in thirds \[0\]"):
        of_thirds(of_thirds(table, [1]), [0])
    for bad in ("[3]", "[]", "0"):
        with pytest.raises(UserError, match=r"data\.thirds"):
            load("starter/vae", TrainVae, settings=[f"data.thirds={bad}"])


def test_recipes_of_predictor_and_judge_share_nothing() -> None:
    recipe = load("starter/predictor", TrainPredictor)
    assert recipe.data.thirds == [1, 2]
    made_by = (ROOT / "Makefile").read_text()
    assert "JUDGE := --set 'data.thirds=[0]' --seed 7" in made_by and recipe.seed != 7


# One table with all splits


def test_one_table_is_the_same_set_as_three(made: Path) -> None:
    for split in ("train", "val", "test"):
        one, three = (load_split(folder, split) for folder in (made / "starter", made / "data" / "starter"))
        again = load_split(made / "starter", split)  # from the cache
        assert one is not None and three is not None and again is not None
        assert one.ids == three.ids == again.ids
        assert one.structures() == again.structures()
        for name in ("band_gap", "e_above_hull", "formation_energy_per_atom"):
            assert torch.equal(one.properties[name].nan_to_num(-1), three.properties[name].nan_to_num(-1))


def test_a_table_without_a_card_is_no_data_set(tmp_path: Path) -> None:
    small_set(tmp_path)
    (tmp_path / "card.json").unlink()
    assert load_split(tmp_path, "train") is None


# Packing


def test_packed_models_are_half_precision_and_compute_in_full(made: Path) -> None:
    table = load_split(made / "starter", "test")
    assert table is not None
    for name in ("predictor", "judge"):
        before, _ = checkpoint.load(made / f"runs/starter_{name}/checkpoints/best", "predictor")
        after, _ = checkpoint.load(made / "starter" / name, "predictor")
        assert {p.dtype for p in after.parameters()} == {torch.float32}
        stored = load_file(made / "starter" / name / "model.safetensors")
        assert {t.dtype for t in stored.values() if t.dim() > 1} == {torch.float16}
        assert torch.equal(stored["std"], before.std) and stored["std"].dtype == torch.float32
        full, half = (model.predict(table.crystals()) for model in (before, after))  # type: ignore[operator]
        assert not torch.equal(full, half)
        assert torch.allclose(full, half, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_any_precision_are_read(made: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    vae, meta = checkpoint.load(made / "runs/starter_vae/checkpoints/best", "vae")
    weights = {k: v.to(dtype) for k, v in vae.state_dict().items()}
    checkpoint.save(tmp_path / "vae", "vae", meta["config"], weights, {})
    again, _ = checkpoint.load(tmp_path / "vae", "vae")
    for name, weight in again.state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, weights[name].float())


def test_a_card_says_how_the_model_was_made(made: Path) -> None:
    for name in pack.KINDS:
        folder = made / "starter" / name
        card = json.loads((folder / "card.json").read_text())
        last = {"ldm": ["train-ldm", "train-rl"]}.get(name, ["train-predictor"])
        assert [stage["command"] for stage in card["stages"]] == ["train-vae", *last]
        assert card["stages"][-1]["seed"] == (7 if name == "judge" else 42)
        assert card["weights"]["bytes"] == (folder / "model.safetensors").stat().st_size
        assert card["limits"] and card["measured"] is None
        text = (folder / "card.json").read_text() + (folder / "meta.json").read_text()
        assert str(made) not in text and "/home" not in text
        assert checkpoint.read_meta(folder)["data"]["path"] == str(made / "starter")
    assert pack.thirds_of(made / "starter/predictor") == pack.thirds_of(made / "starter" / "predictor") == {1, 2}
    assert pack.thirds_of(made / "starter" / "judge") == {0}
    assert pack.thirds_of(made / "starter" / "ldm") == {0, 1, 2}


def changed(made: Path, name: str, **changes: Any) -> str:
    """A copy of the generator's checkpoint with some of its meta changed."""
    folder = made / "runs" / name
    shutil.copytree(made / "runs/starter_ldm/checkpoints/best", folder)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | changes))
    return str(folder)


def test_what_began_with_a_packed_model_has_its_history_too(made: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(made)
    packed = made / "starter" / "ldm"
    parents = [checkpoint.parent(packed, checkpoint.read_meta(packed))]
    run = changed(made, "began_with_the_starter", parents=parents)
    assert pack.thirds_of(Path(run)) == {0, 1, 2}
    card = pack.read_card(pack.pack(run, "ldm", tmp_path))
    assert card is not None
    assert [stage["command"] for stage in card["stages"]] == ["train-vae", "train-ldm", "train-rl", "train-ldm"]


def test_what_cannot_be_packed(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    meta = checkpoint.read_meta(made / "runs/starter_ldm/checkpoints/best")
    gone = {"kind": "vae", "path": "runs/gone", "sha256": "0"}
    other = meta["parents"][0] | {"path": "runs/starter_judge_vae/checkpoints/best"}
    for name, parent in (("orphan", gone), ("mistaken", other)):
        with pytest.raises(UserError, match="the vae that this run was trained from is missing"):
            pack.pack(changed(made, name, parents=[parent]), "ldm", tmp_path / "out")
    recipe = meta["recipe"] | {"data": meta["recipe"]["data"] | {"path": str(made / "data/starter")}}
    with pytest.raises(UserError, match="a path of this machine"):
        pack.pack(changed(made, "placed", recipe=recipe), "ldm", tmp_path / "out")
    with pytest.raises(UserError, match="vae: no model of the starter"):
        pack.pack("runs/starter_vae", "vae", tmp_path / "out")
    with pytest.raises(UserError, match="a checkpoint of kind vae; expected kind ldm"):
        pack.pack("runs/starter_vae", "ldm", tmp_path / "out")
    with pytest.raises(UserError, match="beyond 65504"):
        pack.in_half({"w": torch.full((2, 2), 7e4)}, tmp_path)
    assert not (tmp_path / "out").exists()


def test_packed_models_work_anywhere(elsewhere: Path) -> None:
    """The shipped reward needs the generator's training set, which comes with the program."""
    from chemeleon_cli.sources.files import write_crystals

    write_crystals(Path("my.cif"), known_structures()[:3], ["a", "b", "c"])
    said = call("score", "my.cif", "--reward", "bandgap")
    assert "novel (against starter: train)" in said
    table = pd.read_csv("my.scores.csv")
    assert table["predicted_band_gap"].notna().all() and table["reward_composition_diversity"].notna().all()


def test_a_generator_goes_on_with_crystals_of_ones_own(
    made: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_ldm, "FINAL_SAMPLES", 8)
    shutil.copytree(made / "data" / "starter", "data/mine")
    call("train-ldm", "finetune", *LDM[2:])
    meta = json.loads(Path("runs/finetune/checkpoints/best/meta.json").read_text())
    assert [parent["kind"] for parent in meta["parents"]] == ["ldm"]
    call("sample", "--model", "runs/finetune", "-n", "2", "--set", "sampling_steps=2")
    assert Path("generated.cif").is_file()


# Measuring


def test_the_check_measures_all_that_is_promised(made: Path, elsewhere: Path) -> None:
    steer = ["--set", "training={max_steps: 1, val_samples: 8}", "--set", "sampling.sampling_steps=2", "--set",
             "rl={num_group_samples: 4, groups_per_step: 2, trajectory_steps: 1}"]  # fmt: skip
    call("train-rl", "bandgap", *steer)
    arguments = ["--steered", "runs/bandgap", "--data", str(made / "starter"), "--out", "out", "-n", "12",
                 "--steered-samples", "6"]  # fmt: skip
    import typer

    app = typer.Typer()
    app.command()(check.main)
    result = CliRunner().invoke(app, [*arguments, "--write-cards"])
    assert result.exit_code == 1, f"models of four steps pass: {result.output}"
    found = json.loads(Path("out/figures.json").read_text())
    assert found["vae"]["n"] == len(load_split(made / "starter", "test") or [])
    assert found["shared_thirds"] == 0
    assert {"valid", "novel_of_valid", "smact_valid_data", "emd_distance", "emd_density"} <= found["ldm"].keys()
    for name in ("predictor", "judge"):
        gap = found[name]["band_gap"]
        assert {"mae", "mae_mean", "mae_median", "mae_boosted", "mae_nonzero", "precision", "recall"} <= gap.keys()
        assert found[name]["formation_energy_per_atom"]["ranked_pairs"] > 0
    assert {"window_predictor", "window_judge", "unique_of_valid"} <= found["steering"]["after"].keys()
    assert all({"gap_predictor", "gap_judge"} <= found["asked"][gap].keys() for gap in ("0", "1.5", "3", "5"))
    for picture in ("distributions.png", "steering.png"):
        assert Path("out", picture).read_bytes().startswith(b"\x89PNG")
    cards = {name: json.loads((made / "starter" / name / "card.json").read_text()) for name in ("ldm", "predictor")}
    assert cards["ldm"]["steered_by"]["steps"] == found["steered_by"]["steps"] <= 1
    assert cards["predictor"]["measured"]["predictor"]["band_gap"]["mae"] == found["predictor"]["band_gap"]["mae"]
    found["steering"] = found["asked"] = None
    checks = [c for name in pack.KINDS for c in check.reproduced(_card(made, name), check.measured_of(name, found))]
    assert len(checks) > 60 and all(c.passed for c in checks)
    found["predictor"]["band_gap"]["mae"] += 1
    again = check.reproduced(_card(made, "predictor"), check.measured_of("predictor", found))
    assert [c.what for c in again if not c.passed] == ["as on the card: predictor/band_gap/mae"]


def _card(made: Path, name: str) -> dict[str, Any]:
    return json.loads((made / "starter" / name / "card.json").read_text())["measured"]


def perfect() -> dict[str, Any]:
    before = {"window_predictor": 0.1, "window_judge": 0.05, "smact_valid": 0.8}
    steered = {"valid": 0.96, "unique_of_valid": 0.9, "smact_valid": 0.76}
    steered |= {"window_predictor": 0.31, "window_judge": 0.2}
    return {
        "vae": {"match_rate": 0.995},
        "ldm": {"valid": 0.99, "unique_of_valid": 0.995, "smact_valid": 0.86, "smact_valid_data": 0.9},
        "shared_thirds": 0,
        "megabytes": 40.0,
        "asked": {gap: {"gap_judge": value} for gap, value in (("0", 0.3), ("1.5", 1.4), ("3", 2.2), ("5", 2.5))},
        "steering": {"before": before, "after": steered},
    }


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("vae", "match_rate"), 0.98),
        (("ldm", "valid"), 0.97),
        (("ldm", "valid"), math.nan),
        (("ldm", "unique_of_valid"), 0.98),
        (("ldm", "smact_valid"), 0.84),
        (("shared_thirds",), 1),
        (("megabytes",), 61),
        (("asked", "0", "gap_judge"), 0.51),
        (("asked", "3", "gap_judge"), 1.49),
        (("steering", "before", "window_predictor"), 0.11),
        (("steering", "before", "window_judge"), 0.11),
        (("steering", "after", "window_judge"), 0.149),
        (("steering", "after", "valid"), 0.94),
        (("steering", "after", "unique_of_valid"), 0.79),
        (("steering", "after", "smact_valid"), 0.74),
    ],
)
def test_every_floor_can_fail(path: tuple[str, ...], value: float) -> None:
    found = perfect()
    assert all(c.passed for c in check.floors(found))
    place: Any = found
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert sum(not c.passed for c in check.floors(found)) == 1


def test_a_share_may_be_off_by_its_noise_and_no_more() -> None:
    measured = {"ldm": {"n": 2000.0, "valid": 0.5, "emd_density": 0.4}}
    error = math.sqrt(2 * 0.25 / 2000)
    for factor, passes in ((2.9, True), (3.1, False)):
        now = {"ldm": {"n": 2000.0, "valid": 0.5 + factor * error, "emd_density": 0.4}}
        assert all(c.passed for c in check.reproduced(measured, now)) is passes
    assert not all(c.passed for c in check.reproduced(measured, {"ldm": {"n": 2000.0, "valid": 0.5}}))


def test_polymorphs_by_hand() -> None:
    formulas = ["A", "A", "A", "B", "B", "C"]
    truth = np.array([0.0, 1.0, 1.0005, 0.3, np.nan, 5])
    guess = np.array([0.1, 0.2, 0.0, 9.0, 1.0, 2.0])
    # A: 0 < 1 is right, 0 < 1.0005 is not, 1 and 1.0005 are not told; B has one label
    assert figures.polymorphs(formulas, truth, guess) == {"ranked": 0.5, "ranked_pairs": 2.0}
    assert math.isnan(figures.polymorphs(["A", "B"], truth[:2], guess[:2])["ranked"])


def test_nearest_neighbours_are_those_of_textbooks() -> None:
    salt, blende, _, _, silicon, _ = known_structures()
    assert figures.nearest(salt) == pytest.approx([5.64 / 2] * 8)
    assert figures.nearest(blende) == pytest.approx([5.41 * 3**0.5 / 4] * 8)
    assert figures.nearest(silicon) == pytest.approx([5.431 * 3**0.5 / 4] * 8)
    assert figures.nearest(Structure(Lattice.cubic(3), ["Po"], [[0, 0, 0]])) == pytest.approx([3.0])
    assert not len(figures.nearest(Structure(Lattice.cubic(9), ["Po"], [[0, 0, 0]])))


def test_share_in_the_window_is_of_all() -> None:
    assert figures.in_window(np.array([2.7, 3.3, 3.31, np.nan])) == 0.5


# The demo


def test_the_table_of_the_demo(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)  # the labels' model takes long to load
    for name, seed in (("before", "1"), ("after", "2")):
        call(
            "sample",
            "--model",
            "starter",
            "-n",
            "12",
            "--out",
            f"{name}.cif",
            "--seed",
            seed,
            "--set",
            "sampling_steps=2",
        )
        call("score", f"{name}.cif", "--reward", "bandgap")
    app = typer.Typer()
    app.command()(demo.main)
    result = CliRunner().invoke(app, ["before.cif", "after.cif"], catch_exceptions=False)
    assert result.exit_code == 0
    table = pd.read_csv("after.scores.csv")
    assert f"{table['valid'].mean():.1%}" in result.output
    mean = table["predicted_band_gap"].mean()
    line = next(line for line in result.output.splitlines() if "mean gap" in line and "reward" in line)
    assert f"{mean:.2f}" in line
    assert Path("gaps.png").read_bytes().startswith(b"\x89PNG")
    Path("after.scores.json").unlink()
    result = CliRunner().invoke(app, ["before.cif", "after.cif"])
    assert result.exit_code == 2 and "write it with chemeleon score after.cif" in result.output


def test_without_models_the_demo_says_so(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / ".ci").mkdir()
    for name in ("pyproject.toml", ".ci/constraints.txt"):
        (tmp_path / name).touch()
    result = subprocess.run(
        ["make", "--no-print-directory", "demo"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert (
        result.stdout == "this checkout has no starter models yet; on crystals of your own: make demo DATA=your.csv\n"
    )
    with_data = subprocess.run(
        ["make", "--no-print-directory", "-n", "demo", "DATA=a.csv"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--source a.csv" in with_data.stdout and "starter" not in with_data.stdout


def test_packing_from_the_command_line(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    command = [
        sys.executable,
        "-m",
        "chemeleon_cli.starter.pack",
        "runs/starter_ldm",
        "nothing",
        "--out",
        str(tmp_path),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "nothing: no model of the starter" in result.stderr
