"""Crystals that tests are made of."""

import csv
import gzip
from pathlib import Path

import numpy as np
from pymatgen.core import Lattice, Structure


def known_structures() -> list[Structure]:
    """Primitive or conventional cells of textbook crystals."""
    return [
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        Structure.from_spacegroup("F-43m", Lattice.cubic(5.41), ["Zn", "S"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
        Structure(
            Lattice.cubic(3.905),
            ["Sr", "Ti", "O", "O", "O"],
            [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
        ),
        Structure.from_spacegroup(
            "P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
        ),
        Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.431), ["Si"], [[0, 0, 0]]),
        Structure.from_spacegroup("P6_3/mmc", Lattice.hexagonal(3.209, 5.211), ["Mg"], [[1 / 3, 2 / 3, 0.25]]),
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
