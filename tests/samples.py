"""Crystals that tests are made of."""

import csv
import gzip
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

# Written out, since pymatgen takes a second to look up a space group.
FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def rock_salt(a: float, first: str = "Na", second: str = "Cl") -> Structure:
    """Conventional cell of 8 atoms, `a` in Å."""
    return Structure(Lattice.cubic(a), [first] * 4 + [second] * 4, [*FCC, *(FCC + 0.5) % 1])


def zinc_blende(a: float, first: str = "Zn", second: str = "S") -> Structure:
    """Conventional cell of 8 atoms, `a` in Å."""
    return Structure(Lattice.cubic(a), [first] * 4 + [second] * 4, [*FCC, *(FCC + 0.25) % 1])


def body_centred(a: float, first: str, second: str) -> Structure:
    """A cubic cell of two atoms, `a` in Å: the CsCl structure, or iron's if both are one element."""
    return Structure(Lattice.cubic(a), [first, second], [[0, 0, 0], [0.5, 0.5, 0.5]])


def perovskite(a: float) -> Structure:
    """Cubic SrTiO3, `a` in Å."""
    return Structure(Lattice.cubic(a), ["Sr", "Ti", *["O"] * 3], [[0, 0, 0], [0.5] * 3, *FCC[1:]])


def known_structures() -> list[Structure]:
    """Primitive or conventional cells of textbook crystals."""
    u = 0.305
    rutile = [[0, 0, 0], [0.5] * 3, [u, u, 0], [1 - u, 1 - u, 0], [0.5 + u, 0.5 - u, 0.5], [0.5 - u, 0.5 + u, 0.5]]
    return [
        rock_salt(5.64),
        zinc_blende(5.41),
        perovskite(3.905),
        Structure(Lattice.tetragonal(4.594, 2.959), ["Ti"] * 2 + ["O"] * 4, rutile),
        Structure(Lattice.cubic(5.431), ["Si"] * 8, [*FCC, *(FCC + 0.25) % 1]),
        Structure(Lattice.hexagonal(3.209, 5.211), ["Mg"] * 2, [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]),
    ]


def random_structures(count: int, seed: int, max_atoms: int = 20) -> list[Structure]:
    """Cells without symmetry, at least 1.2 Å between atoms."""
    rng = np.random.default_rng(seed)
    found: list[Structure] = []
    while len(found) < count:
        n = int(rng.integers(2, max_atoms + 1))
        lengths = (15.0 * n) ** (1 / 3) * rng.uniform(0.8, 1.25, 3)
        lattice = Lattice.from_parameters(*lengths, *rng.uniform(70, 110, 3))
        species = rng.choice(["Li", "O", "Fe", "Si", "Ba", "F"], n)
        structure = Structure(lattice, species.tolist(), rng.random((n, 3)))
        for _ in range(200):
            close = structure.distance_matrix + 9 * np.eye(n)
            worst = np.unravel_index(close.argmin(), close.shape)
            if close.min() > 1.2:
                found.append(structure)
                break
            structure = structure.copy()
            structure[int(worst[0])] = structure[int(worst[0])].specie, rng.random(3)
    return found


def write_dataset(folder: Path, structures: list[Structure], labels: dict[str, list[float]], shares=(0.6, 0.2)) -> Path:
    """A data folder of train, val and test tables."""
    folder.mkdir(parents=True, exist_ok=True)
    n = len(structures)
    cuts = [0, int(shares[0] * n), int((shares[0] + shares[1]) * n), n]
    for split, low, high in zip(("train", "val", "test"), cuts, cuts[1:], strict=False):
        with gzip.open(folder / f"{split}.csv.gz", "wt", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["material_id", *labels, "cif"])
            for i in range(low, high):
                cif = structures[i].to(fmt="cif")
                values = ["" if np.isnan(v[i]) else v[i] for v in labels.values()]
                writer.writerow([f"m-{i}", *values, cif])
    return folder


def working_copy(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a folder of runs, which becomes the working folder."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    monkeypatch.chdir(folder)
    return folder


def assert_not_imported(code: str, *modules: str) -> None:
    """None of the modules is imported by some lines of code, in a process of their own."""
    check = f"import sys\n{code}\nfound = set({modules!r}) & set(sys.modules)\nassert not found, found"
    subprocess.run([sys.executable, "-c", check], check=True)


def rl_settings(**changes: Any) -> Any:
    """The settings of an RL step by the defaults of the recipe, but for some."""
    from chemeleon_cli.core.rl.step import Settings
    from chemeleon_cli.recipe.steering import RlSection

    recipe = RlSection().model_dump(exclude={"entropy_weight", "learn_prior"})
    return Settings(**{**recipe, "normalize_fn": "std", "eps": 1e-4, **changes})


def train_settings(**changes: Any) -> Any:
    """The settings of a short training run: a constant learning rate, no decay and no average, but for changes."""
    from chemeleon_cli.core.training.settings import Settings
    from chemeleon_cli.recipe.base import TrainingSection

    plain = {"warmup_steps": 0, "min_learning_rate_ratio": 1.0, "weight_decay": 0.0, "ema_decay": None}
    return Settings(**{**TrainingSection().model_dump(exclude={"batch_size"}), **plain, **changes})


def diffusion(timesteps: int, **changes: float) -> dict[str, Any]:
    """The noise schedule by the defaults of the recipe, but for its length and some."""
    from chemeleon_cli.recipe.models import DiffusionSection

    return {**DiffusionSection().model_dump(), "timesteps": timesteps, **changes}


def make_predictor(encoder: dict[str, Any], targets: list[str]) -> Any:
    """A predictor by the defaults of the recipe."""
    from chemeleon_cli.core.models.predictor import Predictor
    from chemeleon_cli.recipe.models import PredictorModel, TrainPredictor

    names = ("use_encoder_features", "use_composition_features", "reduce", "origins")
    of_recipe = {name: TrainPredictor.model_fields[name].default for name in names}
    return Predictor(encoder, targets, **of_recipe, **PredictorModel().model_dump())
