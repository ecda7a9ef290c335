"""Relaxation of cell and positions, one crystal at a time, in worker processes that may die without taking the
rest along.

ASE's FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201, 2006) on positions and the logarithm of the deformation
of the cell together (FrechetCellFilter).
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import signal
import sys
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Protocol

from chemeleon_cli.core.machine import processors

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from ase.filters import FrechetCellFilter
    from pymatgen.core import Structure

FAILURES = (ArithmeticError, AssertionError, LookupError, MemoryError, RuntimeError, ValueError)
"""What potentials raise for a crystal that they cannot take. Anything else is a bug and keeps its traceback."""
PARALLEL_FROM = 4
"""Crystals from which worker processes repay the seconds that they take to load a model."""
GRACE = 30.0
"""Seconds beyond its time limit that a worker may take for the step that it is in."""


@dataclass(frozen=True)
class Relaxed:
    """What became of a crystal.

    Attributes:
        structure: after the last step, converged or not; None where what is left is no crystal.
        energy: of the whole cell, eV, NaN where there is no structure.
        fmax: the largest force on an atom or on the cell, eV/Å, NaN where there is no structure.
        steps: that were made.
        converged: the largest force is below what was asked for.
        problem: why it is not converged, or None.
    """

    structure: Structure | None
    energy: float
    fmax: float
    steps: int
    converged: bool
    problem: str | None = None


class HasCalculator(Protocol):
    """What is sent to each worker once: its unpickling loads the model there."""

    @property
    def calculator(self) -> Calculator:
        """Of energies (eV), forces (eV/Å) and stresses (eV/Å^3)."""
        ...


@dataclass(frozen=True)
class _Settings:
    fmax: float
    steps: int
    seconds: float


def relax(
    potential: HasCalculator,
    structures: Sequence[Structure],
    fmax: float,
    steps: int,
    seconds: float = 300.0,
    processes: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Relaxed]:
    """Relax crystals, cell and positions.

    Args:
        potential: with whose forces; can be pickled if there is more than one process.
        structures: may hold impossible ones, which are marked.
        fmax: eV/Å; below it a crystal is converged.
        steps: at most, for each crystal.
        seconds: at most, for each crystal. Looked at between steps; a worker process that does not come back
            within 30 s more is ended, and its crystal marked.
        processes: None: as many as processors, or this one alone where there is little to do or the model is on
            an accelerator.
        progress: told how many crystals are done.

    Returns:
        One result for each structure, in order.

    Raises:
        RuntimeError: no worker could be started, or one met a bug; with its traceback.
    """
    settings = _Settings(fmax, steps, seconds)
    if processes is None:
        alone = len(structures) < PARALLEL_FROM or getattr(potential, "device", "cpu") != "cpu"
        processes = 1 if alone else processors()
    if processes > 1 and len(structures) > 1:
        return _in_workers(potential, structures, settings, min(processes, len(structures)), progress)
    results = []
    for structure in structures:
        results.append(_relax_one(structure, potential.calculator, settings))
        if progress is not None:
            progress(len(results))
    return results


def to_atoms(structure: Structure) -> Atoms:
    """An ordered crystal as ASE describes it."""
    from ase import Atoms

    return Atoms(
        numbers=structure.atomic_numbers, positions=structure.cart_coords, cell=structure.lattice.matrix, pbc=True
    )


def first_line(error: BaseException) -> str:
    """`ValueError: what it says`, without the rest of a long message."""
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")


def _relax_one(structure: Structure, calculator: Calculator, settings: _Settings) -> Relaxed:
    from ase.optimize import FIRE

    from chemeleon_cli.core.data.validity import problem

    reason = problem(structure)
    if reason is not None:
        return _lost(reason)
    start = time.monotonic()
    atoms = to_atoms(structure)
    atoms.calc = calculator
    optimizer, last = None, _lost("no step was made")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cell = _cell_filter(atoms)
            optimizer = FIRE(cell, logfile=None)  # type: ignore[arg-type]  # ASE takes both
            for converged in optimizer.irun(fmax=settings.fmax, steps=settings.steps):
                last = _state(structure, atoms, cell.get_forces(), optimizer.nsteps, bool(converged), settings)
                if last.structure is None or converged:
                    return last
                if time.monotonic() - start > settings.seconds:
                    said = f"stopped after {settings.seconds:g} s and {last.steps} steps"
                    return Relaxed(last.structure, last.energy, last.fmax, last.steps, False, said)
    except FAILURES as error:
        return _lost(first_line(error), 0 if optimizer is None else optimizer.nsteps)
    return last


def _cell_filter(atoms: Atoms) -> FrechetCellFilter:
    """ASE's, with its forces kept until something moves: it is asked four times a step, and takes a logarithm of a
    matrix each time."""
    from ase.filters import FrechetCellFilter

    class Kept(FrechetCellFilter):
        forces: np.ndarray | None = None

        def set_positions(self, new: np.ndarray, **kwargs: Any) -> None:
            self.forces = None
            super().set_positions(new, **kwargs)

        def get_forces(self, **kwargs: Any) -> np.ndarray:
            if self.forces is None:
                self.forces = super().get_forces(**kwargs)
            return self.forces.copy()

    return Kept(atoms)


def _state(
    structure: Structure, atoms: Atoms, forces: np.ndarray, steps: int, converged: bool, settings: _Settings
) -> Relaxed:
    """Where a relaxation is; forces: (N + 3, 3) on atoms and cell, eV/Å."""
    import numpy as np
    from pymatgen.core import Structure

    from chemeleon_cli.core.data.limits import MAX_VOLUME
    from chemeleon_cli.core.data.validity import problem

    energy, fmax = float(atoms.get_potential_energy()), float(np.linalg.norm(forces, axis=1).max())
    if not (math.isfinite(energy) and math.isfinite(fmax)):
        return _lost(f"energy or forces are not finite after {steps} steps", steps)
    moved = Structure(atoms.cell.array, structure.species, atoms.positions, coords_are_cartesian=True)
    reason = problem(moved)
    if reason is not None:
        volume = atoms.get_volume() / len(atoms)
        word = "exploded" if volume > MAX_VOLUME else "collapsed"
        return _lost(f"{word} after {steps} steps ({reason}; {volume:.3g} Å^3 per atom)", steps)
    said = None if converged else f"not converged in {settings.steps} steps ({fmax:.3g} eV/Å)"
    return Relaxed(moved, energy, fmax, steps, converged, said)


def _lost(reason: str, steps: int = 0) -> Relaxed:
    return Relaxed(None, math.nan, math.nan, steps, False, reason)


class _Worker:
    """A process that relaxes one crystal after another, and what it is at."""

    def __init__(self, potential: HasCalculator, settings: _Settings) -> None:
        context = multiprocessing.get_context("spawn")  # forking a process that runs torch threads can hang
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, potential, settings), daemon=True)
        self.process.start()
        other.close()  # so that the pipe ends with the process
        self.ready = False
        self.job: int | None = None
        self.deadline = math.inf

    def give(self, job: int, structure: Structure, seconds: float) -> None:
        self.job, self.deadline = job, time.monotonic() + seconds + GRACE
        with contextlib.suppress(OSError):  # it died meanwhile: its end of the pipe, read next, says so
            self.connection.send(structure)

    def end(self) -> int | None:
        """Kill it if it lives; returns its exit code."""
        self.process.kill()
        self.process.join()
        self.connection.close()
        return self.process.exitcode


def _serve(connection: Connection, potential: HasCalculator, settings: _Settings) -> None:
    """The life of a worker: say that the model is loaded, then answer each structure with a result, or a bug's
    traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and ends its workers
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    connection.send(None)
    while True:
        try:
            structure = connection.recv()
        except EOFError:  # the parent is gone
            return
        try:
            answer: Relaxed | str = _relax_one(structure, potential.calculator, settings)
        except Exception:
            answer = traceback.format_exc()
        connection.send(answer)


def _in_workers(
    potential: HasCalculator,
    structures: Sequence[Structure],
    settings: _Settings,
    processes: int,
    progress: Callable[[int], None] | None,
) -> list[Relaxed]:
    results: dict[int, Relaxed] = {}
    waiting = deque(sorted(range(len(structures)), key=lambda i: -len(structures[i])))  # none starts big and late
    workers = [_Worker(potential, settings) for _ in range(processes)]
    try:
        while len(results) < len(structures):
            before = len(results)
            if not workers:
                raise RuntimeError("no worker process for relaxations could be started; what they said is above")
            wait([worker.connection for worker in workers], timeout=1.0)
            for worker in list(workers):
                lost = None
                if worker.connection.poll():
                    try:
                        answer = worker.connection.recv()
                    except (EOFError, OSError):
                        lost = "died"
                    else:
                        _take(worker, answer, results)
                        if waiting:
                            job = waiting.popleft()
                            worker.give(job, structures[job], settings.seconds)
                elif time.monotonic() > worker.deadline:
                    lost = f"was ended, hanging in one step {GRACE:g} s after its limit of {settings.seconds:g} s"
                if lost is not None:
                    workers.remove(worker)
                    code = worker.end()
                    if worker.job is not None:
                        results[worker.job] = _lost(f"the worker process {lost} (exit code {code})")
                    if worker.ready and waiting:
                        workers.append(_Worker(potential, settings))
            if progress is not None and len(results) > before:
                progress(len(results))
    finally:
        for worker in workers:
            worker.end()
    return [results[i] for i in range(len(structures))]


def _take(worker: _Worker, answer: Relaxed | str | None, results: dict[int, Relaxed]) -> None:
    """The first message of a worker is None: it is ready; each other one is of its job."""
    worker.ready = True
    if isinstance(answer, str):
        raise RuntimeError(f"in a worker process, relaxing crystal {worker.job}:\n{answer}")
    if worker.job is not None and answer is not None:
        results[worker.job] = answer
    worker.job, worker.deadline = None, math.inf
