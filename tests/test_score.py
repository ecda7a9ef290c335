"""`chemeleon score`, on tiny untrained models."""

import csv
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from pymatgen.core import Lattice, Structure
from rich.console import Console

from chemeleon_cli.commands import score
from chemeleon_cli.core import checkpoint
from chemeleon_cli.core.candidates import Candidates
from chemeleon_cli.core.latent_diffusion import LatentDiffusion
from chemeleon_cli.core.predictor import Predictor
from chemeleon_cli.core.rewards import ReinforceReward
from chemeleon_cli.core.tools import build_tools
from chemeleon_cli.errors import UserError
from chemeleon_cli.sources.files import write_crystals
from chemeleon_cli.sources.models import find_model

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
CESIUM = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
PEROVSKITE = Structure.from_spacegroup(
    "Pm-3m", Lattice.cubic(3.9), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
)
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
    vae = {"hidden_dim": 16, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "latent_dim": 4}
    denoiser = {"latent_dim": 4, "hidden_dim": 16, "num_blocks": 1, "num_heads": 2}
    generator = LatentDiffusion(vae, denoiser, {"timesteps": 10}, {"2": 1})
    save("ldm", generator, {"data": {"path": "data"}})
    encoder = {"hidden_dim": 16, "num_heads": 2, "num_layers": 1, "latent_dim": 4}
    save("predictor", Predictor(encoder, ["band_gap", "density"]), {})
    write_crystals("made.cif", CRYSTALS, [f"c{i}" for i in range(5)])
    return tmp_path


def save(kind: str, model: Any, meta: dict[str, Any]) -> None:
    checkpoint.save(Path(kind), kind, model.config, model.state_dict(), meta)


def run(**changes: Any) -> tuple[str, list[dict[str, str]]]:
    """Score `made.cif`; the printed summary and the rows of the CSV."""
    recipe: Any = SimpleNamespace(
        **{"file": "made.cif", "reward": None, "model": None, "reference": None, "out": None, "device": "cpu"} | changes
    )
    console = Console(file=io.StringIO(), width=160)
    score.run(recipe, console)
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
    assert [row["group"] for row in rows] == ["0", "1", "0", "", "2"]
    assert [row["group_size"] for row in rows] == ["2", "1", "2", "", "1"]
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
    assert "novel (against data)" in text
    text, rows = run(model="ldm", reference="other", out="elsewhere/s.csv")
    assert [row["novel"] for row in rows] == ["False", "True", "False", "", "True"]
    assert "novel (against other)" in text


@pytest.mark.usefixtures("place")
def test_rewards_are_those_of_the_same_batch_in_training() -> None:
    text, rows = run(model="ldm", reward=reward())
    vae, _ = checkpoint.load(Path("ldm"), "vae")
    tools = build_tools(reward(), find_model, vae, "data")  # type: ignore[arg-type]
    in_training = reward()(Candidates(CRYSTALS, tools)).raw
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
