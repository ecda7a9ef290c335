"""Every file is UTF-8, whatever the locale of the machine."""

import csv
import gzip
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from samples import rock_salt

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""A locale of ASCII only, which Python takes for UTF-8 unless it is told not to."""

RECIPE = """
name: own             # β
model: runs/ldm
reward:
  guards: []
  components:
    - {type: custom, class: "./own.py:Dichte", kwargs: {maß: 2.0}}
    - {type: predictor, predictor: runs/gap, target_name: Δgap}
rl: {num_group_samples: 4, groups_per_step: 2, trajectory_steps: 2}
sampling: {sampling_steps: 3}
training: {max_steps: 1, val_every: 1, val_samples: 16}
"""
REWARD = """
class Dichte:
    '''g/cm³'''
    def __init__(self, maß): self.maß = maß
    def compute(self, candidates): return candidates.each(lambda s: s.density * self.maß)
"""
SCRIPT = """
import sys, warnings
warnings.filterwarnings("error", category=EncodingWarning, module=r"chemeleon_cli\\b")
from chemeleon_cli.app import app
from chemeleon_cli.commands import train_ldm

train_ldm.FINAL_SAMPLES = 8
SETTINGS = {
    "short": "training.max_steps=2 training.val_every=1 training.batch_size=8 data.path=data/mine",
    "vae": "model.hidden_dim=16 model.num_heads=2 model.encoder_layers=1 model.decoder_layers=1 model.latent_dim=4",
    "ldm": "model.hidden_dim=16 model.num_heads=2 model.num_blocks=1 sampling.sampling_steps=3",
}

def run(command, *settings):
    words = [word for name in settings for text in SETTINGS[name].split() for word in ("--set", text)]
    try:
        app([*command.split(), *words])
    except SystemExit as error:
        assert not error.code, command

run("fetch-data --source folder --set name=of_files")
run("fetch-data --source mine.csv --set name=mine --set split.fractions=[0.6,0.2,0.2]")
run("train-vae vae", "short", "vae")
run("train-ldm ldm", "short", "ldm")
run("train-predictor predictor_bandgap --set name=gap --set targets={Δgap:{}} --set vae=runs/vae", "short")
run("train-rl own.yaml")
run("train-rl own.yaml --resume --set training.max_steps=2")
run("sample --model runs/own -n 3 --set sampling_steps=3 --out drawn.cif")
run("score mine.csv --reward own.yaml --set model=runs/ldm --out scores.csv")
run("recipes schema train-rl")
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with a table whose ids and column are not ASCII, and a recipe and a reward to go with it."""
    crystals = [rock_salt(5 + 0.1 * i, first, second).get_primitive_structure() for i, (first, second) in
                enumerate(itertools.product(["Li", "Na", "K", "Rb"], ["F", "Cl", "Br"]))]  # fmt: skip
    (tmp_path / "folder").mkdir()
    for name, crystal in zip(["β-Å", "结晶", "ascii"], crystals, strict=False):
        (tmp_path / "folder" / f"{name}.cif").write_text(crystal.to(fmt="cif"), encoding="utf-8")
    with (tmp_path / "mine.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "Δgap", "cif"])
        rows.writerows([f"结晶-{i}", 5 + 0.1 * i, s.to(fmt="cif")] for i, s in enumerate(crystals))
    for name, text in {"own.yaml": RECIPE, "own.py": REWARD, "script.py": SCRIPT}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_all_commands_write_utf8_where_the_locale_is_ascii(work: Path):
    options = ["-X", "warn_default_encoding"]  # what opens a file without an encoding says so
    environment = {k: v for k, v in os.environ.items() if k not in ("LANG", "PYTHONIOENCODING")} | ASCII
    done = subprocess.run(
        [sys.executable, *options, "script.py"], cwd=work, env=environment, capture_output=True, timeout=200
    )
    said = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, said
    assert "Δgap" in said and "Å" in said
    with gzip.open(work / "data/mine/train.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert all(row["material_id"].startswith("结晶-") and float(row["Δgap"]) >= 5 for row in rows)
    with gzip.open(work / "data/of_files/train.csv.gz", "rt", encoding="utf-8") as file:
        assert {row["material_id"] for row in csv.DictReader(file)} <= {"β-Å", "结晶", "ascii"}
    columns = (work / "runs/own/metrics.csv").read_text(encoding="utf-8").partition("\n")[0]
    assert "val/reward/Δgap" in columns
    assert "maß: 2.0" in (work / "runs/own/recipe.yaml").read_text(encoding="utf-8")
    meta = json.loads((work / "runs/own/checkpoints/last/meta.json").read_text(encoding="utf-8"))
    assert (meta["step"], meta["recipe"]["reward"]["components"][0]["kwargs"]) == (2, {"maß": 2.0})
    scores = list(csv.DictReader((work / "scores.csv").read_text(encoding="utf-8").splitlines()))
    assert scores[0]["id"] == "结晶-0" and float(scores[0]["reward_dichte"]) > 0 and scores[0]["predicted_Δgap"]
