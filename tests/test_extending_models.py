"""The condition and the denoiser of docs/extending.md, in use."""

import json
import os
import subprocess
import sys
from pathlib import Path

import extending
import torch
from samples import known_structures, write_dataset
from test_conditions import SMALL

from chemeleon_cli.core.models.vae import VAE
from chemeleon_cli.core.training import checkpoint

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


def test_the_condition_and_the_denoiser_of_the_documentation(tmp_path: Path):
    package = extending.copy_package(tmp_path / "package")
    extending.apply("Another condition", package)
    extending.apply("Another denoiser", package)
    write_dataset(tmp_path / "data", [*known_structures(), *known_structures()], {}, (0.5, 0.5))
    torch.manual_seed(0)
    vae = VAE(**SMALL)
    checkpoint.save(tmp_path / "vae", "vae", vae.config, vae.state_dict(), {"data": {"path": "data"}})
    (tmp_path / "ldm.yaml").write_text(RECIPE)
    (tmp_path / "commands.py").write_text(COMMANDS)
    environment = {**os.environ, "PYTHONPATH": str(package)}
    ran = subprocess.run(
        [sys.executable, "commands.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    meta = json.loads((tmp_path / "runs/ldm/checkpoints/best/meta.json").read_text())
    denoiser = meta["config"]["denoiser"]
    assert denoiser["kind"] == "atomwise" and denoiser["conditions"] == {"crystal_system": {"kind": "crystal_system"}}
