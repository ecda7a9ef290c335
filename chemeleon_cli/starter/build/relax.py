"""Relaxation of one crystal: its volume by energies, then what its symmetry leaves free by forces."""

from __future__ import annotations

import random
import time
import warnings
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE2
from pymatgen.core import Lattice, Structure
from pymatgen.core.structure_prediction.volume_predictor import DLSVolumePredictor

from chemeleon_cli.core.data.limits import MAX_VOLUME
from chemeleon_cli.core.data.validity import any_closer, problem
from chemeleon_cli.starter.build.candidates import record_of, structure_of
from chemeleon_cli.starter.build.energies import GPA, Energies, structure_from

SEED = 7
STEPS = 36
"""Evaluations of forces at most. FIRE2 with this time step got nearer to rest in as many than FIRE2 with its own,
LBFGS, BFGS and FIRE2 with ABC on nine rattled crystals."""
TIME_STEP = 0.2
FMAX = 0.05
"""eV/Å: at rest; stress counts as ASE's Fréchet filter counts it (N Å of virial)."""
FAR = 0.3
"""eV/Å: a crystal whose largest force is more than this is not kept."""
STEP = 0.2
"""Å: what an atom may move in a step."""
SECONDS = 25.0
"""CPU time after which a relaxation ends where it is."""
RATTLE, STRAIN = 0.1, 0.03
"""Å and fraction: half of the crystals with free parameters start from here, off their symmetry's saddle points."""
SPREAD = 1.12
"""Ratio of neighbouring volumes while the minimum is bracketed."""
WIDEST = 12
"""Energies at most in search of a minimum."""
LARGEST = 0.995 * MAX_VOLUME
FLAT = 0.01
"""Å^3 per atom and eV/atom: what has its minimum beyond the largest volume of a crystal, but hardly less energy there,
is kept at that volume. Caesium is such a case, and nothing that holds it would have a reference without."""


@dataclass
class Relaxed:
    """What became of a crystal.

    Attributes:
        outcome: ok; far_from_rest (a force above FAR); exploded; collapsed; failed.
        structure: where it ended, if anywhere.
        energy: eV per atom.
        fmax: largest force, eV/Å.
        stress: largest |component|, GPa.
        steps: evaluations of forces.
        rattled: whether it was displaced before.
        seconds: CPU time.
        message: of a failure.
    """

    outcome: str
    structure: Structure | None = None
    energy: float | None = None
    fmax: float | None = None
    stress: float | None = None
    steps: int = 0
    rattled: bool = False
    seconds: float = 0.0
    message: str = field(default="")


def relax_record(candidate: dict[str, Any], energies: Energies) -> dict[str, Any]:
    """A candidate's record with what became of it, for a shard; the structure takes the candidate's place."""
    start = time.process_time()
    kept = {k: candidate[k] for k in ("id", "prototype", "kind")}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = relax(structure_of(candidate), energies, candidate["id"], molecule=candidate["kind"] == "molecule")
    except Exception as error:  # one crystal's numerical accident must not end the shard; it is counted
        found = Relaxed("failed", message=f"{type(error).__name__}: {error}"[:200])
    values: dict[str, Any] = {
        "outcome": found.outcome,
        "energy": found.energy,
        "fmax": found.fmax,
        "stress": found.stress,
        "steps": found.steps,
        "rattled": found.rattled,
        "seconds": time.process_time() - start,
    }
    values = {k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()}
    if found.message:
        values["message"] = found.message
    return kept | values | (record_of(found.structure) if found.structure is not None else {})


def relax(structure: Structure, energies: Energies, identifier: str, molecule: bool = False) -> Relaxed:
    """Bring a crystal to rest, or near.

    Args:
        structure: at any volume; a molecular crystal at its own, which is kept as the start.
        energies: the model.
        identifier: seeds the rattling.
        molecule: whether scaling the cell would tear its bonds.
    """
    if not molecule:
        structure = at_best_volume(structure, energies)
    bad = verdict(structure)
    if bad:
        return Relaxed(bad, structure)
    rng = random.Random(f"{SEED}-{identifier}")
    atoms = Atoms(numbers=structure.atomic_numbers, cell=structure.lattice.matrix, pbc=True)
    atoms.set_scaled_positions(structure.frac_coords)
    atoms.calc = energies
    # at the best volume only what symmetry leaves free can pull: nothing does if it leaves nothing
    rattled = False
    steps = 1
    if not at_rest(atoms):
        rattled = rng.random() < 0.5
        if rattled:
            rattle(atoms, np.random.default_rng(rng.getrandbits(63)))
        steps += _optimise(atoms)
    found = structure_from(atoms)
    bad = verdict(found)
    if bad:
        return Relaxed(bad, found, steps=steps, rattled=rattled)
    fmax = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
    stress = float(np.abs(atoms.get_stress()).max() * GPA)
    energy = float(atoms.get_potential_energy()) / len(atoms)
    outcome = "far_from_rest" if fmax > FAR else "ok"
    return Relaxed(outcome, found, energy, fmax, stress, steps, rattled)


def at_rest(atoms: Atoms) -> bool:
    """Whether forces and the stress beside pressure are within what the optimiser aims at."""
    stress = atoms.get_stress(voigt=False)
    shape = (stress - np.trace(stress) / 3 * np.eye(3)) * atoms.get_volume() / len(atoms)
    return bool(np.linalg.norm(atoms.get_forces(), axis=1).max() < FMAX and np.abs(shape).max() < FMAX)


def rattle(atoms: Atoms, rng: np.random.Generator) -> None:
    """Displace atoms by RATTLE Å and the cell by a symmetric strain of STRAIN (standard deviations)."""
    strain = rng.normal(size=(3, 3)) * STRAIN
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    atoms.positions += rng.normal(size=atoms.positions.shape) * RATTLE / np.sqrt(3)


def _optimise(atoms: Atoms) -> int:
    """At most STEPS steps on atoms and cell; ends early at rest, torn apart, or out of time."""
    start = time.process_time()
    quiet: Any = {"logfile": None}
    optimiser = FIRE2(cast("Atoms", FrechetCellFilter(atoms)), dt=TIME_STEP, maxstep=STEP, **quiet)
    steps = 0
    for _ in optimiser.irun(fmax=FMAX, steps=STEPS - 1):
        steps += 1
        if time.process_time() - start > SECONDS or not 3 < atoms.get_volume() / len(atoms) < 110:
            break
    return steps


def verdict(structure: Structure) -> str | None:
    """`exploded` or `collapsed`, or None for what can be a crystal."""
    if structure.volume / len(structure) > MAX_VOLUME:
        return "exploded"
    if problem(structure) is not None:
        return "collapsed"
    shortest = min(float(site.specie.atomic_radius or 1.0) for site in structure)
    return "collapsed" if any_closer(structure.lattice.matrix, structure.frac_coords, max(0.9, shortest)) else None


def at_best_volume(structure: Structure, energies: Energies) -> Structure:
    """The crystal scaled to the lowest energy: bracketed downhill from a predicted volume, then a parabola.

    The parabola is in V^(-2/3), as in Birch's equation of state.

    Raises:
        ValueError: the energy falls all the way.
    """
    structure = structure.copy()
    unlimited: Any = {"min_scaling": None, "max_scaling": None}
    start = DLSVolumePredictor(**unlimited).predict(structure)
    known: dict[int, float] = {}

    def at(i: int) -> float:
        if i not in known:
            known[i] = energies.energy(_scaled(structure, start * SPREAD**i))
        return known[i]

    middle = 0
    while len(known) < WIDEST:
        lower, here, upper = at(middle - 1), at(middle), at(middle + 1)
        if here <= lower and here <= upper:
            break
        middle += 1 if upper < lower else -1
    else:
        raise ValueError("no minimum of the energy near the predicted volume")
    volumes = [start * SPREAD**i for i in (middle - 1, middle, middle + 1)]
    best = _vertex(volumes, [at(middle - 1), at(middle), at(middle + 1)])
    near = [best * r for r in (0.97, 1.0, 1.03)]
    found = _vertex(near, [energies.energy(_scaled(structure, v)) for v in near])
    relaxed = _scaled(structure, min(max(found, 0.94 * best), 1.06 * best))
    if relaxed.volume > LARGEST * len(structure):
        largest = _scaled(structure, LARGEST * len(structure))
        if energies.energy(largest) - energies.energy(relaxed) < FLAT:
            return largest
    return relaxed


def _scaled(structure: Structure, volume: float) -> Structure:
    ratio = (volume / structure.volume) ** (1 / 3)
    return Structure(Lattice(structure.lattice.matrix * ratio), structure.species, structure.frac_coords)


def _vertex(volumes: list[float], values: list[float]) -> float:
    """The volume at the minimum of the parabola through three points; the lowest of them if it has none."""
    x = np.array(volumes) ** (-2 / 3)
    a, b, _ = np.polyfit(x - x[1], np.array(values), 2)
    lowest = volumes[int(np.argmin(values))]
    if a <= 0:
        return lowest
    centre = x[1] - b / (2 * a)
    return float(centre**-1.5) if centre > 0 else lowest
