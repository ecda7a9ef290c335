"""The whole chain of commands through the real command line, on a model of a few thousand weights."""

import csv
import importlib.machinery
import itertools
import json
import re
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from samples import working_copy
from typer.testing import CliRunner

from chemeleon_cli.app import app
from chemeleon_cli.commands import train_ldm

TINY = ["--set", "training.max_steps=12", "--set", "training.val_every=6", "--set", "training.batch_size=16"]
VAE = ["--set", "model={hidden_dim: 32, num_heads: 4, encoder_layers: 1, decoder_layers: 1, latent_dim: 4}"]
LDM = ["--set", "model={hidden_dim: 32, num_heads: 4, num_blocks: 2}", "--set", "sampling.sampling_steps=5"]
STEER = [
    "--set", "model=runs/ldm", "--set", "reward.components.0.predictor=runs/gap",
]  # fmt: skip
SHORT_RL = [
    "--set", "training={max_steps: 2, val_every: 1, val_samples: 8}", "--set", "sampling.sampling_steps=5",
    "--set", "rl={num_group_samples: 6, groups_per_step: 2, num_inner_batch: 2, trajectory_steps: 2}",
]  # fmt: skip


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output + str(result.exception)
    return result.output


def halides() -> list[Structure]:
    """Rock salt and zinc blende cells of many pairs, two atoms each."""
    found = []
    for (cation, anion), x in itertools.product(
        itertools.product(["Li", "Na", "K", "Rb", "Mg", "Ca"], ["F", "Cl", "Br", "O", "S"]), [0.5, 0.25]
    ):
        a = 4.2 + 0.15 * Structure(Lattice.cubic(9), [cation, anion], [[0] * 3, [0.5] * 3]).atomic_numbers[0] ** 0.5
        half = a / 2
        lattice = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
        found.append(Structure(lattice, [cation, anion], [[0, 0, 0], [x, x, x]]))
    return found


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which the README's chain has been run."""
    work = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        patch.setenv("CHEMELEON_CACHE", str(work / "cache"))
        patch.setattr(train_ldm, "FINAL_SAMPLES", 64)
        crystals = halides()
        with (work / "mine.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["name", "band_gap", "e_above_hull", "cif"])
            for i, s in enumerate(crystals):
                gap = "" if i % 5 == 0 else round(9 - s.lattice.a, 3)
                rows.writerow([f"c{i}", gap, 0.01 * (i % 7), s.to(fmt="cif")])
        call("fetch-data", "--source", "mine.csv", "--set", "name=mine")
        call("train-vae", "vae", "--set", "data.path=data/mine", *TINY, *VAE)
        call("train-ldm", "ldm", "--set", "data.path=data/mine", *TINY, *LDM)
        call("train-predictor", "predictor_bandgap", "--set", "data.path=data/mine", "--set", "name=gap", *TINY)
        call("train-rl", "recipes/bandgap.yaml", *STEER, *SHORT_RL)
        call("sample", "--model", "runs/bandgap", "-n", "12", "--set", "sampling_steps=5", "--out", "generated.cif")
        call("score", "generated.cif", "--reward", "bandgap", *STEER)
    return work


@pytest.fixture
def work(chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in."""
    return working_copy(chain, tmp_path, monkeypatch)


def rows_of(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def steering(name: str, settings: list[str]) -> tuple[Any, Any, Any]:
    """A recipe of train-rl, its generator and the context of its reward, as the command loads them."""
    from chemeleon_cli.core.scoring.loading import load_context
    from chemeleon_cli.core.training import checkpoint
    from chemeleon_cli.recipe.load import load
    from chemeleon_cli.recipe.models import RECIPES
    from chemeleon_cli.sources.checkpoints import find_model

    recipe: Any = load(name, RECIPES["train-rl"], settings=settings, find_model=find_model)
    model: Any
    model, meta = checkpoint.load(find_model("runs/ldm", "ldm"), "ldm")
    context = load_context(recipe.reward, recipe.reward.needs(), find_model, model.vae, meta["data"]["path"])
    recipe.reward.prepare(context)
    return recipe, model, context


def test_every_run_leaves_its_records(chain: Path):
    import torch

    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    for name, kind in {"vae": "vae", "ldm": "ldm", "gap": "predictor", "bandgap": "ldm"}.items():
        run = chain / "runs" / name
        meta = json.loads((run / "checkpoints" / "best" / "meta.json").read_text())
        assert meta["kind"] == kind
        assert meta["data"]["count"] > 0
        record = json.loads((run / "run.json").read_text())
        assert (record["data"]["sha256"], record["parents"]) == (meta["data"]["sha256"], meta["parents"])
        assert record["device"] == device
        assert {"recipe.yaml", "run.json", "metrics.csv", "results.json", "checkpoints"} <= {
            p.name for p in run.iterdir()
        }
    assert json.loads((chain / "runs/ldm/checkpoints/best/meta.json").read_text())["parents"][0]["kind"] == "vae"


def test_results_have_the_figures_that_are_promised(chain: Path):
    vae = json.loads((chain / "runs/vae/results.json").read_text())
    assert {"val/match_rate", "val/rms", "val/volume_error", "val/elements"} <= vae.keys()
    ldm = json.loads((chain / "runs/ldm/results.json").read_text())
    assert {"valid", "unique_of_valid", "novel_of_valid", "smact_valid", "emd_density", "emd_density_val"} <= ldm.keys()
    gap = json.loads((chain / "runs/gap/results.json").read_text())
    for split, key in itertools.product(
        ("val", "test"),
        ("mae", "rmse", "r2", "mae_mean", "mae_median", "mae_nonzero", "balanced_accuracy", "precision", "recall"),
    ):
        assert f"{split}/band_gap/{key}" in gap
    predictions = rows_of(chain / "runs/gap/predictions_test.csv")
    assert {"material_id", "band_gap", "predicted_band_gap", "predicted_e_above_hull"} <= predictions[0].keys()


def test_the_reward_of_train_rl_is_the_score_of_the_written_cif(work: Path):
    import torch

    from chemeleon_cli.commands.train_rl import score_crystals
    from chemeleon_cli.core.models.generator import Sampling
    from chemeleon_cli.sources.files import write_crystals

    settings = [s for s in STEER if s != "--set"]
    recipe, model, context = steering("bandgap", settings)
    sizes = torch.full((24,), 2)
    crystals = model.sample(sizes, Sampling("ddim", 5, 1.0), torch.Generator().manual_seed(0))  # type: ignore[operator]
    candidates, scores = score_crystals(crystals, recipe.reward, context)
    write_crystals(Path("drawn.cif"), crystals.to_structures(), [f"g{i}" for i in range(24)])
    call("score", "drawn.cif", "--reward", "bandgap", *STEER, "--out", "drawn.csv")
    table = rows_of(work / "drawn.csv")
    assert candidates.valid.sum() > 12, "too few possible crystals to say anything"
    for name in ("band_gap", "composition_diversity"):
        written = np.array([float(r[f"reward_{name}"] or "nan") for r in table])
        assert np.allclose(written, scores.raw[name], atol=1e-4, equal_nan=True)


DNG = ["--set", "model=runs/ldm", "--set", "reward.hull=own.csv.gz"]


def test_dng_runs_is_scored_alike_and_resumes_with_its_memory(work: Path):
    """`starter/dng` with CHGNet on a hull that `write-hull` writes; two steps and then two more are four."""
    import torch
    from safetensors.torch import load_file

    from chemeleon_cli.commands.train_rl import score_crystals
    from chemeleon_cli.core.data.crystals import Crystals
    from chemeleon_cli.sources.files import write_crystals

    said = call("train-rl", "starter/dng", "--set", "model=runs/ldm", "--set", "reward.hull=data/mine", code=2)
    assert "reward.hull: data/mine has no hull.csv.gz" in said
    crystals = halides()
    elements = sorted({str(e) for s in crystals for e in s.composition})
    alone = [Structure(Lattice.cubic(3.5), [e], [[0, 0, 0]]) for e in elements]
    write_crystals("set.cif", [*alone, *crystals[::2]], [f"s{i}" for i in range(len(alone) + len(crystals[::2]))])
    assert "PBE/MP2020: own.csv.gz" in call("write-hull", "set.cif", "--out", "own.csv.gz")

    settings = [s for s in DNG if s != "--set"]
    recipe, _, context = steering("starter/dng", settings)
    shaken = [s.copy().perturb(0.1) for s in (*crystals[1:20:2], *crystals[:6], *alone[:2])]
    drawn = Crystals.from_structures(shaken)
    candidates, scores = score_crystals(drawn, recipe.reward, context)
    assert candidates.e_above_hull.isfinite().sum() >= 8
    write_crystals(Path("drawn.cif"), drawn.to_structures(), [f"g{i}" for i in range(len(drawn))])
    said = call("score", "drawn.cif", "--reward", "starter/dng", *DNG, "--out", "drawn.csv")
    assert "chgnet (PBE/MP2020); hull own.csv.gz" in " ".join(said.split())
    table = rows_of(work / "drawn.csv")
    for name, values in scores.raw.items():
        written = np.array([float(r[f"reward_{name}"] or "nan") for r in table])
        assert np.allclose(written, values, atol=2e-4, equal_nan=True), name
    assert torch.isfinite(scores.raw["energy"]).sum() >= 8

    # this generator draws elements that the hull does not have: their energy only watches
    watched = ["--set", "reward.components.1.weight=0", "--set", "reward.components.2.weight=0"]
    two = [*DNG, *SHORT_RL, "--set", "reward.guards=[]", *watched]
    four = [*two, "--set", "training.max_steps=4"]
    call("train-rl", "starter/dng", *two, "--set", "name=part")
    call("train-rl", "starter/dng", *four, "--set", "name=part", "--resume")
    call("train-rl", "starter/dng", *four, "--set", "name=whole")
    states = [load_file(work / f"runs/{name}/checkpoints/last/train_state.safetensors") for name in ("whole", "part")]
    assert len(states[0]["memory.num_atoms"]) > 0
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0].keys() | states[1].keys())
    metrics = rows_of(work / "runs/whole/metrics.csv")
    assert {"val/msun", "val/single_element", "val/sparse_hull", "reward/creativity", "reward/energy"} <= metrics[
        0
    ].keys()


def test_resumed_rl_equals_uninterrupted(work: Path):
    """Two steps and then two more are four: crystals, rewards and weights."""
    from safetensors.torch import load_file

    four = [*STEER, *SHORT_RL, "--set", "training.max_steps=4"]
    call("train-rl", "bandgap", *four, "--set", "name=whole")
    shutil.copytree(work / "runs/bandgap", work / "runs/part")
    call("train-rl", "bandgap", *four, "--set", "name=part", "--resume")
    weights = [load_file(work / f"runs/{name}/checkpoints/last/model.safetensors") for name in ("whole", "part")]
    assert all((weights[0][k] == weights[1][k]).all() for k in weights[0])
    rows = [
        [{k: v for k, v in row.items() if k != "minutes"} for row in rows_of(work / f"runs/{name}/metrics.csv")]
        for name in ("whole", "part")
    ]
    assert rows[0] == rows[1]


def test_a_second_run_does_not_overwrite_the_first(work: Path):
    before = (work / "runs/vae/metrics.csv").read_text()
    said = call("train-vae", "vae", "--set", "data.path=data/mine", *TINY, *VAE, code=2)
    assert "already contains a run" in said
    assert (work / "runs/vae/metrics.csv").read_text() == before
    call("train-vae", "vae", "--set", "data.path=data/mine", *TINY, *VAE, "--overwrite", "--seed", "1")
    assert (work / "runs/vae/metrics.csv").read_text() != before


def test_a_run_does_not_replace_what_it_is_made_of(work: Path):
    before = sorted(work.rglob("*"))
    for name, change in (("bandgap", "model=runs/bandgap"), ("gap", "name=gap")):  # the generator; the predictor
        said = call("train-rl", "bandgap", *STEER, *SHORT_RL, "--set", change, "--overwrite", code=2)
        assert f"runs/{name}: contains runs/{name}, which this run uses" in said
    assert sorted(work.rglob("*")) == before


def test_the_resolved_recipe_of_a_run_runs_again(work: Path):
    from safetensors.torch import load_file

    call("train-vae", "runs/vae/recipe.yaml", "--set", "name=again")
    a, b = (load_file(work / f"runs/{name}/checkpoints/last/model.safetensors") for name in ("vae", "again"))
    assert all((a[k] == b[k]).all() for k in a)


def test_dry_run_writes_nothing(work: Path):
    before = sorted(work.rglob("*"))
    call("train-ldm", "ldm", "--set", "data.path=data/mine", "--set", "name=dry", "--dry-run")
    assert sorted(work.rglob("*")) == before


@pytest.mark.parametrize("suffix", [".cif", ".extxyz", ".csv", ".json.gz"])
def test_sample_and_score_agree_on_every_format(work: Path, suffix: str):
    for out in ("a", "b"):
        draw = ("sample", "--model", "runs/ldm", "-n", "9", "--set", "sampling_steps=5", "--out", f"{out}{suffix}")
        written = re.search(r"(\d+) crystals written", call(*draw))
    assert (work / f"a{suffix}").read_bytes() == (work / f"b{suffix}").read_bytes(), "a seed seeds"
    call("score", f"a{suffix}", "--out", "a.scores.csv")
    assert written
    assert len(rows_of(work / "a.scores.csv")) == int(written.group(1)) > 0


def test_what_is_there_is_kept_unless_one_says_otherwise(work: Path):
    draw = ("sample", "--model", "runs/ldm", "-n", "2", "--set", "sampling_steps=2", "--out", "kept.cif")
    judge = ("score", "kept.cif", "--out", "kept.csv")
    call(*draw)
    call(*judge)
    for name, command in {"kept.cif": draw, "kept.csv": judge, "kept.json": judge}.items():
        before = (work / name).read_text()
        said = call(*command, code=2)
        assert ("kept.csv" if command == judge else name) + ": is there already" in said
        assert "--overwrite replaces it" in said
        assert (work / name).read_text() == before
    (work / "kept.csv").unlink()
    assert "kept.json: is there already" in call(*judge, code=2)
    assert not (work / "kept.csv").exists()
    (work / "kept.cif").write_text("mine")
    call(*draw, "--overwrite")
    assert (work / "kept.cif").read_text() != "mine"
    call(*judge, "--overwrite")
    assert (work / "kept.csv").is_file()


def test_finetuned_encoder_and_custom_reward(work: Path):
    data = ["--set", "data.path=data/mine", *TINY]
    call("train-predictor", "predictor_bandgap", *data, "--set", "encoder=finetune", "--set", "name=tuned")
    call("train-rl", "atomic_density", "--set", "model=runs/ldm", *SHORT_RL)
    call("train-rl", "multi_objective", "--set", "model=runs/ldm", *SHORT_RL,
         *itertools.chain(*(["--set", f"reward.components.{i}.predictor=runs/tuned"] for i in (0, 1))))  # fmt: skip
    assert (work / "runs/atomic_density/checkpoints/last/meta.json").is_file()


def test_metrics_go_to_wandb_too(work: Path, monkeypatch: pytest.MonkeyPatch):
    """With a stand-in for the package, which takes what it would be given."""
    begun: list[dict[str, Any]] = []
    rows: list[tuple[int, dict[str, float]]] = []
    stand_in = types.ModuleType("wandb")
    stand_in.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    sink = types.SimpleNamespace(log=lambda metrics, step: rows.append((step, dict(metrics))))
    stand_in.init = lambda **options: begun.append(options) or sink  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    name = ["--set", "name=logged", "--set", "logger={type: wandb, project: crystals, mode: offline}"]
    call("train-vae", "vae", "--set", "data.path=data/mine", *TINY, *VAE, *name)
    call("train-vae", "runs/logged/recipe.yaml", "--resume", "--set", "training.max_steps=18")
    first, again = begun
    assert (first["project"], first["name"], first["mode"]) == ("crystals", "logged", "offline")
    assert first["config"]["seed"] == 42
    assert (again["id"], again["resume"]) == (first["id"], "allow"), "a resumed run goes on there"
    assert [step for step, row in rows if "val/loss" in row] == [6, 12, 18]
    kept = {row["step"]: row["val/loss"] for row in rows_of(work / "runs/logged/metrics.csv") if row["val/loss"]}
    assert {str(step): str(row["val/loss"]) for step, row in rows if "val/loss" in row} == kept


LATER = """
import math, sys
class Later:
    \"\"\"The density, for some steps.\"\"\"
    def __init__(self, steps=99, then="nan"):
        self.steps, self.then = steps, then
    def compute(self, candidates):
        self.steps -= len(candidates) == 12  # a step of SHORT_RL; validations have 8 crystals
        if self.steps < 0 and self.then == "raise":
            return candidates.each(lambda s: 1 / 0)
        if self.steps < 0 and self.then == "exit":
            sys.exit()
        if self.steps < 0:
            return [math.nan] * len(candidates)
        return candidates.each(lambda s: s.density)
"""


def later(work: Path, source: str = LATER, **kwargs: Any) -> list[str]:
    """A run with this reward, which fails after some steps."""
    for name in [name for name in sys.modules if name.startswith("chemeleon_custom_later")]:
        del sys.modules[name]  # a command of its own would read the file again
    (work / "later.py").write_text(source, encoding="utf-8")
    recipe = {
        "model": "runs/ldm",
        "name": "later",
        "reward": {"components": [{"type": "custom", "class": "./later.py:Later", "kwargs": kwargs}], "guards": []},
    }
    (work / "later.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    return ["train-rl", "later.yaml", *SHORT_RL, "--set", "training.max_steps=4", "--set", "training.val_every=4"]


def lines(said: str) -> list[str]:
    return [line for line in said.splitlines() if line and not line.startswith("step   ")]


@pytest.mark.parametrize(
    ("how", "said"),
    [("raise", "ZeroDivisionError: division by zero (later.py:10)"), ("exit", "SystemExit (later.py:12)")],
)
def test_a_reward_that_fails_stops_the_run_with_its_line_and_what_was_learned(work: Path, how: str, said: str):
    from safetensors.torch import load_file

    first = lines(call(*later(work, LATER.replace("== 12", "> 0"), steps=0, then=how), code=2))[0]
    assert first == f"step 0: {work}/later.py:Later: {said}; nothing is written"
    assert not (work / "runs/later").exists()
    message, hint = lines(call(*later(work, steps=2, then=how), code=2))
    assert message == f"step 2: {work}/later.py:Later: {said}; saved is runs/later/checkpoints/last, of step 2"
    assert hint.endswith("--resume continues from there")
    meta = json.loads((work / "runs/later/checkpoints/last/meta.json").read_text(encoding="utf-8"))
    assert meta["step"] == 2
    debug = call(*later(work, steps=2, then=how), "--overwrite", "--debug", code=2)
    assert "Traceback" in debug and "in compute" in debug

    whole = [*later(work, steps=99, then=how), "--set", "name=whole"]
    call(*whole)
    call(*later(work, LATER.replace("self.steps < 0", "False"), steps=2, then=how), "--resume")
    weights = [load_file(work / f"runs/{name}/checkpoints/last/model.safetensors") for name in ("whole", "later")]
    assert all((weights[0][k] == weights[1][k]).all() for k in weights[0])


def test_a_run_that_scores_nothing_never_begins_and_replaces_nothing(work: Path):
    begun = later(work)
    call(*begun)
    before = (work / "runs/later/metrics.csv").read_text(encoding="utf-8")
    broken = later(work, LATER.replace("s.density", "1e300"))
    message, _ = lines(call(*broken, "--overwrite", code=2))
    assert re.fullmatch(
        r"step 0: none of 8 crystals of runs/ldm has a score \((\d later: beyond the range of float32, 3\.4e38|"
        r"\d impossible \(\w+\)|, )+\); nothing is written",
        message,
    )
    assert (work / "runs/later/metrics.csv").read_text(encoding="utf-8") == before
    call(*broken, "--set", "name=other", code=2)
    assert not (work / "runs/other").exists()


def test_steps_without_any_score_stop_the_run(work: Path):
    more = ["--set", "training.max_steps=40", "--set", "training.unscored_patience=3"]
    said = lines(call(*later(work, steps=2), *more, code=2))
    assert said[0].startswith("step 5: no crystal of the last 3 steps has a score (")
    assert "later: no value" in said[0]
    assert said[0].endswith("saved is runs/later/checkpoints/last, of step 4")
    assert "the best generator, of step 0, is kept in runs/later" in said[1]
    assert len(rows_of(work / "runs/later/metrics.csv")) == 7  # five steps and two validations


@pytest.mark.parametrize("command", ["sample", "train-rl", "score", "train-predictor"])
def test_weights_that_are_not_finite_are_refused_in_a_line(work: Path, command: str):
    import torch
    from safetensors.torch import load_file, save_file

    for kind in ("ldm", "vae", "gap"):
        path = work / f"runs/{kind}/checkpoints/best/model.safetensors"
        weights = load_file(path)
        name = next(k for k, v in weights.items() if v.is_floating_point() and v.numel() > 5)
        weights[name].view(-1)[3] = torch.nan
        save_file(weights, path)
    arguments = {
        "sample": ["--model", "runs/ldm", "-n", "4", "--out", "none.cif"],
        "train-rl": ["bandgap", *STEER, *SHORT_RL, "--set", "name=none"],
        "score": ["generated.cif", "--reward", "bandgap", *STEER, "--out", "none.csv"],
        "train-predictor": ["predictor_bandgap", "--set", "data.path=data/mine", "--set", "name=none", *TINY,
                            "--set", "vae=runs/vae"],
    }  # fmt: skip
    message, hint = lines(call(command, *arguments[command], code=2))[-2:]
    assert re.search(r"runs/\w+/checkpoints/best: 1 tensors hold numbers that are not finite, the first \w+", message)
    assert hint == "hint: its training went wrong; take another checkpoint"
    assert not list(work.glob("none*")) and not (work / "runs/none").exists()


def test_a_generator_whose_numbers_overflow_draws_nothing(work: Path):
    from safetensors.torch import load_file, save_file

    path = work / "runs/ldm/checkpoints/best/model.safetensors"
    weights = load_file(path)
    save_file({k: v * 1e30 if k.startswith("denoiser") else v for k, v in weights.items()}, path)
    said = call("sample", "--model", "runs/ldm", "-n", "4", "--out", "none.cif", code=2)
    assert "none of the 4 crystals of runs/ldm has a cell with finite numbers; nothing is written" in said
    assert not (work / "none.cif").exists()
    said = call("train-rl", "bandgap", *STEER, *SHORT_RL, "--set", "name=none", code=2)
    assert "step 0: none of 8 crystals of runs/ldm has a score (8 impossible (cell)); nothing is written" in said


def test_two_devices_train_the_same_model_as_one(work: Path):
    """Through the launcher, as a person would; ranks share the groups of an RL step."""
    import subprocess
    import sys

    from safetensors.torch import load_file

    states = ["--set", "conditions={oxidation_states: {}}", "--set", "name=states"]
    call("train-ldm", "ldm", "--set", "data.path=data/mine", *TINY, *LDM, *states)
    steered = [*STEER, "--set", "model=runs/states", "--set", "conditions=[null, null, {oxidation_states: null}]"]
    six = ["--set", "rl.groups_per_step=6", "--set", "training.precision=float32"]
    arguments = ["train-rl", "bandgap", *steered, *SHORT_RL, *six]
    program = Path(sys.executable).with_name("chemeleon")
    call(*arguments, "--set", "name=on1")
    command = [program, *arguments, "--devices", "2", "--set", "name=on2"]
    subprocess.run(command, check=True, timeout=200, capture_output=True)
    a, b = (load_file(work / f"runs/on{d}/checkpoints/last/model.safetensors") for d in "12")
    for name in a:
        assert np.allclose(a[name], b[name], atol=1e-5), name
    assert a["draw_weights"].abs().max() > 1e-5, "the prior has learned too"
