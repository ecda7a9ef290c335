"""`chemeleon score`, on tiny untrained models."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from levels import HULL, Levels, relax_levels
from pymatgen.core import Lattice, Structure
from rich.console import Console
from samples import body_centred, diffusion, make_predictor, perovskite, rock_salt, zinc_blende

from chemeleon_cli.commands import score
from chemeleon_cli.core.models.latent_diffusion import LatentDiffusion
from chemeleon_cli.core.rewards import Matching, ReinforceReward
from chemeleon_cli.core.scoring.candidates import Candidates
from chemeleon_cli.core.scoring.hull import Hull
from chemeleon_cli.core.scoring.loading import load_context
from chemeleon_cli.core.training import checkpoint
from chemeleon_cli.errors import UserError
from chemeleon_cli.recipe.models import Score
from chemeleon_cli.sources.checkpoints import find_model
from chemeleon_cli.sources.files import read_crystals, write_crystals

SALT = rock_salt(5.6)
CESIUM = body_centred(4.1, "Cs", "Cl")
PEROVSKITE = perovskite(3.9)
CRUSHED = Structure(Lattice.cubic(1.0), ["Fe"], [[0, 0, 0]])
CRYSTALS = [SALT, CESIUM, SALT * (1, 1, 2), CRUSHED, PEROVSKITE]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a data set, a generator, a predictor and crystals to score."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path / "cache"))
    for folder, known in (("data", [CESIUM, PEROVSKITE]), ("other", [SALT])):
        Path(folder).mkdir()
        cifs = [s.to(fmt="cif") for s in known]
        pd.DataFrame({"cif": cifs}).to_csv(f"{folder}/train.csv", index=False)
    torch.manual_seed(0)
    vae = {"hidden_dim": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "latent_dim": 4, "dropout": 0.0}
    denoiser = {"latent_dim": 4, "hidden_dim": 16, "num_blocks": 1, "num_heads": 2}
    generator = LatentDiffusion(vae, denoiser, diffusion(10), {"2": 1})
    save("ldm", generator, {"data": {"path": "data"}})
    encoder = {"hidden_dim": 16, "num_heads": 2, "num_layers": 1, "latent_dim": 4, "dropout": 0.0}
    save("predictor", make_predictor(encoder, ["band_gap", "density"]), {})
    write_crystals("made.cif", CRYSTALS, [f"c{i}" for i in range(5)])
    return tmp_path


def save(kind: str, model: Any, meta: dict[str, Any]) -> None:
    checkpoint.save(Path(kind), kind, model.config, model.state_dict(), meta)


def run(**changes: Any) -> tuple[str, list[dict[str, str]]]:
    """Score `made.cif`; the printed summary and the rows of the CSV."""
    recipe = Score(**{"file": "made.cif", "device": "cpu", **changes})
    console = Console(file=io.StringIO(), width=160)
    score.run(recipe, True, console)
    assert isinstance(console.file, io.StringIO)
    with Path(recipe.out or "made.scores.csv").open(newline="") as file:
        return console.file.getvalue(), list(csv.DictReader(file))


def reward() -> ReinforceReward:
    gap = {
        "type": "predictor",
        "predictor": "predictor",
        "target_name": "band_gap",
        "target_value": 3.0,
        "clip_min": 0.0,
    }
    return ReinforceReward.model_validate({"components": [gap, {"type": "composition_diversity"}]})


@pytest.mark.usefixtures("place")
def test_without_a_reward_no_model_is_needed() -> None:
    text, rows = run()
    assert [row["valid"] for row in rows] == ["True", "True", "True", "False", "True"]
    assert [row["matcher_group"] for row in rows] == ["0", "1", "0", "", "2"]
    assert [row["matcher_group_size"] for row in rows] == ["2", "1", "2", "", "1"]
    assert [row["formula"] for row in rows] == ["NaCl", "CsCl", "NaCl", "Fe", "SrTiO3"]
    assert rows[3]["problem"] == "volume"
    assert rows[0]["spacegroup"] == "Fm-3m (225)"
    assert "novel" not in rows[0]
    assert "80.0 %" in text
    assert "75.0 %" in text
    assert "impossible: volume" in text
    assert "made.scores.csv" in text


@pytest.mark.usefixtures("place")
def test_novelty_names_its_reference() -> None:
    text, rows = run(model="ldm")
    assert [row["novel"] for row in rows] == ["True", "False", "True", "", "False"]
    assert "novel (against data: train)" in text
    text, rows = run(model="ldm", reference="other", out="elsewhere/s.csv")
    assert [row["novel"] for row in rows] == ["False", "True", "False", "", "True"]
    assert "novel (against other: train)" in text


@pytest.mark.usefixtures("place")
def test_a_named_reference_is_the_whole_folder_and_a_training_set_its_train_split() -> None:
    for split, known in (("val", SALT), ("test", CESIUM)):
        pd.DataFrame({"cif": [known.to(fmt="cif")]}).to_csv(f"data/{split}.csv", index=False)
    pd.DataFrame({"cif": [PEROVSKITE.to(fmt="cif")]}).to_csv("data/train.csv", index=False)
    text, rows = run(reference="data")
    assert [row["novel"] for row in rows] == ["False", "False", "False", "", "False"]
    assert "novel (against data: train, val, test)" in text
    assert list(json.loads(Path("made.scores.json").read_text())["reference"]["sha256"]) == ["train", "val", "test"]
    text, rows = run(model="ldm")
    assert [row["novel"] for row in rows] == ["True", "True", "True", "", "False"]
    assert "novel (against data: train)" in text
    creative = ReinforceReward.model_validate({"components": [{"type": "creativity", "reference_dataset": "data"}]})
    _, rows = run(model="ldm", reference="data", reward=creative)
    assert [row["novel"] for row in rows] == ["False", "False", "False", "", "False"]
    rewarded, reported = ([float(row[c] or "nan") for row in rows] for c in ("reward_creativity", "creativity"))
    assert rewarded == pytest.approx(reported, abs=1e-6, nan_ok=True)


@pytest.mark.usefixtures("place")
def test_when_two_are_the_same_can_be_said() -> None:
    long = Structure(Lattice.tetragonal(4.1, 4.5), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    write_crystals("made.cif", [CESIUM, long], ["cubic", "long"])
    _, rows = run(reference="data")
    assert [row["matcher_group_size"] for row in rows] == ["2", "2"]
    assert [row["novel"] for row in rows] == ["False", "False"]
    _, rows = run(reference="data", matching={"ltol": 0.01})
    assert [row["matcher_group_size"] for row in rows] == ["1", "1"]
    assert [row["novel"] for row in rows] == ["False", "True"]
    assert json.loads(Path("made.scores.json").read_text())["matching"]["ltol"] == 0.01
    _, rows = run(model="ldm", reward=reward().model_copy(update={"matching": Matching(ltol=0.01)}))
    assert [row["novel"] for row in rows] == ["False", "True"], "as the reward has it"


@pytest.mark.usefixtures("place")
def test_rewards_are_those_of_the_same_batch_in_training() -> None:
    text, rows = run(model="ldm", reward=reward())
    vae, _ = checkpoint.load(Path("ldm"), "vae")
    context = load_context(reward(), reward().needs(), find_model, vae, "data")  # type: ignore[arg-type]
    in_training = reward()(Candidates(CRYSTALS, context)).raw
    for name in ("band_gap", "composition_diversity"):
        written = [float(row[f"reward_{name}"] or "nan") for row in rows]
        assert written == pytest.approx(in_training[name].tolist(), abs=1e-5, nan_ok=True)
    gap = [float(row["predicted_band_gap"]) for row in rows if row["valid"] == "True"]
    assert [-((max(x, 0) - 3) ** 2) for x in gap] == pytest.approx(
        [x for x in in_training["band_gap"].tolist() if x == x]
    )
    assert {"predicted_density", "predicted_band_gap"} <= rows[0].keys()
    assert rows[3]["reward_band_gap"] == ""
    assert "in 2.7 to 3.3" in text
    assert "reward composition_diversity: raw mean" in text


@pytest.mark.usefixtures("place")
def test_diversity_without_a_generator_says_what_is_missing() -> None:
    with pytest.raises(UserError, match="no generator is named"):
        run(reward=reward())


@pytest.mark.usefixtures("place")
def test_what_is_not_scored_is_counted_with_its_reason() -> None:
    write_crystals("made.cif", [SALT, CESIUM], ["a", "b"])
    text, rows = run(model="ldm", reward=reward())
    assert "unscored, composition_diversity: fewer than three" in text
    assert [row["reward_composition_diversity"] for row in rows] == ["", ""]


@pytest.mark.usefixtures("place")
def test_rows_that_do_not_parse_are_rows_too() -> None:
    Path("made.csv").write_text(
        'material_id,cif\ngood,"' + SALT.to(fmt="cif").replace('"', '""') + '"\nbad,nonsense\nempty,\n'
    )
    text, rows = run(file="made.csv")
    assert [row["id"] for row in rows] == ["good", "bad", "empty"]
    assert [row["valid"] for row in rows] == ["True", "False", "False"]
    assert rows[1]["problem"].startswith("unreadable")
    assert "impossible: no_structure" in text


BLENDE = zinc_blende(5.4)
IRON = body_centred(2.87, "Fe", "Fe")
STABLE = [SALT, CESIUM, SALT * (1, 1, 2), CRUSHED, PEROVSKITE, BLENDE, IRON]
ENERGIES = {"NaCl": -2.01, "CsCl": -2.0, "ZnS": -1.0, "Fe": 0.08, "SrTiO3": -3.0}


@pytest.fixture
def measured(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same place with a potential of known energies, a hull, and crystals at known distances from it."""
    monkeypatch.setattr("chemeleon_cli.core.scoring.loading.load_potential", lambda *_: Levels(ENERGIES))
    monkeypatch.setattr("chemeleon_cli.core.potentials.relaxation.relax", relax_levels)
    Hull.from_entries(list(HULL), list(HULL.values()), list(HULL), "a test", Levels.energy_scale).write("hull.csv.gz")
    write_crystals("made.cif", STABLE, [f"c{i}" for i in range(len(STABLE))])
    return place


def strain(s: Structure) -> float:
    return 0.1 * abs(s.volume / len(s) / 20 - 1)


@pytest.mark.usefixtures("measured")
def test_definitions_side_by_side_with_guards_and_origin() -> None:
    text, rows = run(model="ldm", energy_model="chgnet", hull="hull.csv.gz")
    above = [row["e_above_hull"] for row in rows]
    assert [bool(value) for value in above] == [True, True, True, False, False, True, True]
    assert float(above[0]) == pytest.approx(strain(SALT) - 0.01)
    assert float(above[1]) == pytest.approx(strain(CESIUM))
    assert rows[4]["e_above_hull_problem"] == "sparse: no reference for O"
    assert [row["sparse_hull"] for row in rows] == ["False"] * 4 + ["True"] + ["False"] * 2
    assert [row["single_element"] for row in rows] == ["False"] * 6 + ["True"]
    assert sorted(row["unique"] for row in rows) == ["", "False", *["True"] * 5]
    assert {"energy_per_atom", "novel", "creativity", "potential_hole", "too_close", "bad_cell"} <= rows[0].keys()
    assert not any(name.startswith("relax") for name in rows[0])
    summary = json.loads(Path("made.scores.json").read_text())
    # novel and unique are salt (a duplicate; just below the hull), blende and iron (more than 0.1 above)
    chemeleon, mattergen, lemat = summary["protocols"].values()
    assert mattergen is None
    assert (chemeleon["n"], chemeleon["sun"]["count"], chemeleon["msun"]["count"]) == (7, 1, 2)
    assert strain(SALT) < 0.01
    assert strain(IRON) > 0.02
    assert chemeleon["msun"]["share"] == pytest.approx(2 / 7)
    low, high = chemeleon["msun"]["interval_95"]
    assert 0 <= low < 2 / 7 < high < 1
    assert (lemat["n"], lemat["of"], lemat["sun"]["count"], lemat["msun"]["count"]) == (6, "valid", 1, 1)
    assert summary["guards"]["single_element"] == pytest.approx(1 / 7)
    assert summary["guards"]["bad_cell"] == pytest.approx(1 / 7)
    assert chemeleon["msun"]["guards"]["single_element"] == 0
    assert len(summary["hull"]["sha256"]) == len(summary["reference"]["sha256"]["train"]) == 64
    assert summary["matching"]["stol"] == 0.3
    assert {"torch", "pymatgen", "chgnet"} <= summary["versions"].keys()
    assert summary["counts"] == {"valid": 6, "compared": 6, "compared_with_reference": 6, "matcher_groups": 5}
    assert (summary["unique_of_valid"], summary["unique_of_all"]) == (5 / 6, 5 / 7)
    assert (summary["measured"]["e_above_hull"]["count"], chemeleon["measured"]) == (5, 5)
    assert text.count("5 of 6") == 5 and "the shares are lower bounds" in text
    for word in ("levels (PBE/MP2020)", "a test", "needs relax", "28.6 %", "M.S.U.N.", "sparse hull"):
        assert word in text, word


@pytest.mark.usefixtures("measured")
def test_energies_say_by_what_and_against_what_where_nothing_is_novel() -> None:
    text, _ = run(energy_model="chgnet", hull="hull.csv.gz")
    assert "energies by levels (PBE/MP2020); hull hull.csv.gz (PBE/MP2020): a test" in text
    assert "S.U.N. is not computed" in text


@pytest.mark.usefixtures("place")
def test_what_is_printed_is_in_the_summary() -> None:
    iron = body_centred(2.87, "Fe", "Fe")
    write_crystals("made.cif", [*CRYSTALS, iron], [f"c{i}" for i in range(6)])
    text, _ = run(model="ldm", reward=reward())
    summary = json.loads(Path("made.scores.json").read_text())
    gap = summary["reward"]["band_gap"]
    assert f"{gap['raw_mean']:.4g}" in text and gap["window"] == pytest.approx([2.7, 3.3])
    assert f"{100 * gap['in_window_of_valid']:.1f} %" in text
    assert summary["measured"]["predicted_band_gap"].keys() == {"mean", "median", "count"}
    assert summary["impossible"] == {"volume": 1}
    assert 0 <= summary["novel_of_valid"] <= 1 and 0 <= summary["smact_valid_of_valid"] <= 1
    assert summary["unscored"] == {"reward": {"single_element": 1}}
    assert "unscored, reward: single_element" in text


@pytest.mark.usefixtures("measured")
def test_two_outputs_are_two_files() -> None:
    with pytest.raises(UserError, match="two outputs are the same file"):
        run(out="a.csv", relaxed_out="a.json", energy_model="chgnet", relax={"steps": 1, "fmax": 0.1})


@pytest.mark.usefixtures("measured")
def test_relaxed_crystals_are_scored_too_and_the_time_said_before() -> None:
    relax = {"steps": 20, "fmax": 0.05}
    text, rows = run(model="ldm", energy_model="chgnet", hull="hull.csv.gz", relax=relax, relaxed_out="r.cif")
    assert text.index("at most about") < text.index("valid")
    assert float(rows[0]["relaxed_e_above_hull"]) == pytest.approx(-0.01)
    assert float(rows[5]["relaxed_e_above_hull"]) == pytest.approx(0, abs=1e-6)
    assert [row["relaxation_converged"] for row in rows] == ["True"] * 3 + ["", "True", "True", "False"]
    assert rows[6]["relaxation_problem"] == "it fell apart"
    mattergen = json.loads(Path("made.scores.json").read_text())["protocols"]["MatterGen"]
    assert (mattergen["sun"]["count"], mattergen["msun"], mattergen["crystals"]) == (2, None, "relaxed")
    relaxed = [row.structure for row in read_crystals("r.cif")]
    assert [s and round(s.volume / len(s), 3) for s in relaxed] == [20] * 5


@pytest.mark.usefixtures("measured")
def test_a_table_may_be_parquet() -> None:
    recipe = Score(file="made.cif", device="cpu", out="s.parquet", energy_model="chgnet", hull="hull.csv.gz")
    score.run(recipe, False, Console(file=io.StringIO(), width=160))
    table = pd.read_parquet("s.parquet")
    assert table["e_above_hull"].notna().sum() == 5
    assert table["formula"].tolist()[:2] == ["NaCl", "CsCl"]
    with pytest.raises(UserError, match="a .csv or .parquet"):
        run(out="s.xlsx")


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("field", ["out", "relaxed_out"])
def test_what_cannot_be_written_is_said_before_the_work(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: object) -> None:
        raise AssertionError("computed in vain")

    monkeypatch.setattr("chemeleon_cli.sources.files.read_crystals", work)
    before = sorted(Path().rglob("*"))
    for name in ("made.cif/x.csv", "made.cif/deep/x.csv", "/dev/null/x.csv"):
        with pytest.raises(UserError, match=f"{name}: cannot be written: Not a directory"):
            run(**{"energy_model": "chgnet", "relax": {}, field: name})
    Path("folder.csv").mkdir()
    with pytest.raises(UserError, match="cannot be written: Is a directory"):
        run(**{"energy_model": "chgnet", "relax": {}, field: "folder.csv"})
    Path("folder.csv").rmdir()
    assert sorted(Path().rglob("*")) == before


@pytest.mark.usefixtures("measured")
def test_a_file_without_a_crystal_is_no_result() -> None:
    half = Structure(Lattice.cubic(4.2), [{"Na": 0.5}, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    half.to("half.cif")
    with pytest.raises(UserError, match=r"half.cif: none of its \d+ crystals can be read; the first, .*occupancy"):
        score.run(Score(file="half.cif", device="cpu"), False, Console(file=io.StringIO()))
    assert not Path("half.scores.csv").exists()
