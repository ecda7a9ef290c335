"""The examples of docs/extending.md that change the package, in use in a copy of it."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import extending
import pytest
import torch
from pymatgen.io.xcrysden import XSF
from samples import known_structures, rock_salt, write_dataset
from test_conditions import SMALL

from chemeleon_cli.core.models.vae import VAE
from chemeleon_cli.core.training import checkpoint
from chemeleon_cli.sources.files import read_crystals

RECIPE = """
data: {path: data}
vae: vae
model: {kind: atomwise, hidden_dim: 32, num_blocks: 2}
sampling: {sampling_steps: 2}
conditions:
  crystal_system:
training: {max_steps: 3, val_every: 3, batch_size: 8}
"""

COMMANDS = """
from typing import get_args

from typer.testing import CliRunner

from chemeleon_cli.app import app
from chemeleon_cli.commands import train_ldm
from chemeleon_cli.core.conditions.kinds import KINDS
from chemeleon_cli.core.models.build import DENOISERS
from chemeleon_cli.core.models.check import check_generator
from chemeleon_cli.core.models.latent_diffusion import LatentDiffusion
from chemeleon_cli.core.training import checkpoint
from chemeleon_cli.recipe.conditions import OF_CRYSTALS, ConditionSection
from chemeleon_cli.recipe.models import LdmModel

from pathlib import Path

train_ldm.FINAL_SAMPLES = 4


def call(*arguments, code=0):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output + repr(result.exception)
    return " ".join(result.output.split())


assert get_args(ConditionSection.model_fields["kind"].annotation) == tuple(KINDS)
assert tuple(kind for kind, c in KINDS.items() if not c.is_column) == OF_CRYSTALS
assert get_args(LdmModel.model_fields["kind"].annotation) == tuple(DENOISERS)
call("train-ldm", "ldm.yaml")
sample = ("sample", "--model", "runs/ldm", "-n", "4", "--set", "sampling_steps=2", "--out", "x.cif")
call(*sample, "--condition", "crystal_system=cubic", "--set", "guidance=2")
text = call(*sample, "--overwrite", "--condition", "crystal_system=cubik", code=2)
assert "found 'cubik'" in text and "did you mean 'cubic'" in text, text
model, _ = checkpoint.load(Path("runs/ldm/checkpoints/best"), "ldm")
check_generator(model)
tuned = LatentDiffusion.fine_tuned_from(model, {}, {"2": 1})
check_generator(tuned)
"""

FETCH = """
from typer.testing import CliRunner

from chemeleon_cli.app import app

result = CliRunner().invoke(app, {command})
assert result.exit_code == 0, result.output + repr(result.exception)
"""

STEP = """
import copy
from pathlib import Path
from typing import get_args

import torch
from samples import rl_settings
from test_rl import SAMPLING, make_run, model, prefer_large_cells

from chemeleon_cli.core.rl import spo, step
from chemeleon_cli.recipe.steering import RlSection

best = []
for sign in (1.0, -1.0):
    new = torch.linspace(-0.5, 0.5, 1001).requires_grad_()
    losses = torch.stack([spo.penalised_loss(x[None], torch.zeros(1), torch.tensor([sign]), 0.2)[0] for x in new])
    best.append(new[losses.argmin()].exp().item())
    (slope,) = torch.autograd.grad(losses[500], new)
    assert torch.isclose(slope[500], torch.tensor(-sign)), "at a ratio of 1 the gradient is that of REINFORCE"
assert torch.allclose(torch.tensor(best), torch.tensor([1.2, 0.8]), atol=2e-3), best

logged = {}
assert set(get_args(RlSection.model_fields["surrogate"].annotation)) == set(step.SURROGATES)
for surrogate in step.SURROGATES:
    section = RlSection(surrogate=surrogate, groups_per_step=2, num_group_samples=4, trajectory_steps=3)
    settings = rl_settings(**section.model_dump(exclude={"entropy_weight", "learn_prior"}))
    policy = model.__wrapped__()
    training = make_run(Path(surrogate), policy)
    base = copy.deepcopy(policy)
    steps = [step.train_step(training, policy, base, prefer_large_cells, settings, SAMPLING) for _ in range(2)]
    logged[surrogate] = steps[-1]["loss"]
assert logged["clip"] != logged["spo"], logged
"""


def run(code: str, package: Path, folder: Path) -> None:
    """Run code that imports a copy of the package, and the helpers of the tests, in a folder."""
    (folder / "commands.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), str(Path(__file__).parent)])}
    ran = subprocess.run(
        [sys.executable, "commands.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_condition_and_the_denoiser_of_the_documentation(tmp_path: Path):
    package = extending.copy_package(tmp_path / "package")
    extending.apply("Another condition", package)
    extending.apply("Another denoiser", package)
    write_dataset(tmp_path / "data", [*known_structures(), *known_structures()], {}, (0.5, 0.5))
    torch.manual_seed(0)
    vae = VAE(**SMALL)
    checkpoint.save(tmp_path / "vae", "vae", vae.config, vae.state_dict(), {"data": {"path": "data"}})
    (tmp_path / "ldm.yaml").write_text(RECIPE)
    run(COMMANDS, package, tmp_path)
    meta = json.loads((tmp_path / "runs/ldm/checkpoints/best/meta.json").read_text())
    denoiser = meta["config"]["denoiser"]
    assert denoiser["kind"] == "atomwise" and denoiser["conditions"] == {"crystal_system": {"kind": "crystal_system"}}


def test_the_file_format_of_the_documentation(tmp_path: Path):
    package = extending.copy_package(tmp_path / "package")
    extending.apply("Another file format", package)
    (command,) = re.findall(r"^    chemeleon (.*)$", extending.section("Another file format"), re.MULTILINE)
    (tmp_path / "my_xsf").mkdir()
    for i, metal in enumerate(["Li", "Na", "K", "Rb", "Cs"]):
        text = XSF(rock_salt(5.0 + 0.3 * i, metal)).to_str()
        (tmp_path / "my_xsf" / f"{metal}Cl.xsf").write_text(text)
    (tmp_path / "my_xsf" / "slab.xsf").write_text(text.replace("CRYSTAL", "SLAB"))
    run(FETCH.format(command=command.split()), package, tmp_path)
    read = {row.id: row.structure for row in read_crystals(tmp_path / "data" / "mine")}
    assert set(read) == {"LiCl", "NaCl", "KCl", "RbCl", "CsCl"}
    found = read["CsCl"]
    assert found is not None and found.composition.reduced_formula == "CsCl"
    assert found.volume / len(found) == pytest.approx(6.2**3 / 8)
    (rejected,) = csv.DictReader((tmp_path / "data" / "mine" / "rejected.csv").open())
    assert rejected == {"id": "slab", "reason": "no_cell", "detail": "periodic in 2 directions, not in three"}


def test_the_algorithm_of_the_documentation(tmp_path: Path):
    package = extending.copy_package(tmp_path / "package")
    extending.apply("Another algorithm", package)
    run(STEP, package, tmp_path)
