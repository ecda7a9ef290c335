"""Relaxation of cell and positions by a potential, in worker processes whose death costs one crystal each.

The optimiser is ASE's FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201, 2006). It moves the positions together with the
logarithm of the cell's deformation (ASE's FrechetCellFilter).

The workers are not those of `machine.worker_pool`: a pool of `concurrent.futures` is broken for good when one of its
processes dies, and cannot end one that hangs without ending all.
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
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from chemeleon_cli.core.machine import processors
from chemeleon_cli.core.potentials.base import FAILURES, first_line, refusal, to_atoms

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from ase.filters import FrechetCellFilter
    from pymatgen.core import Structure

    from chemeleon_cli.core.potentials.base import Potential

PARALLEL_FROM = 4
"""From this many crystals on, worker processes save more time than each takes to load the potential."""
SECONDS = 300.0
"""The time limit of each crystal, looked at between steps."""
GRACE = 30.0
"""Seconds beyond its time limit that a worker may take for the step that it is in."""


@dataclass(frozen=True)
class Relaxed:
    """The result of relaxing one crystal.

    Attributes:
        structure: the crystal after the last step, converged or not; None if no possible crystal is left.
        energy: of the whole cell, eV; NaN where there is no structure.
        fmax: the largest force on an atom or on the cell, eV/Å; NaN where there is no structure.
        steps: how many steps were made.
        converged: whether the largest force is below the requested one.
        problem: why it is not converged, or None.
    """

    structure: Structure | None
    energy: float
    fmax: float
    steps: int
    converged: bool
    problem: str | None = None


@dataclass(frozen=True)
class _Limits:
    fmax: float
    steps: int
    seconds: float


def relax(potential: Potential, structures: Sequence[Structure], fmax: float, steps: int) -> list[Relaxed]:
    """Relax the cell and the positions of crystals.

    On a CPU, several crystals are relaxed at a time, each in a worker process that loads the potential once. A worker
    that dies, or that hangs in one step for `GRACE` seconds beyond the limit of `SECONDS` per crystal, costs the
    crystal that it was at; a new worker takes its place.

    Args:
        potential: its calculator gives energies, forces and stresses.
        structures: crystals; impossible ones, and those with an element that is new to the potential, are marked.
        fmax: the largest force on an atom or on the cell of a relaxed crystal, eV/Å.
        steps: the most steps of FIRE for each crystal.

    Returns:
        One result per crystal, in order.

    Raises:
        RuntimeError: no worker could be started, or one met a bug; with its traceback.
    """
    results = {i: _lost(reason) for i, s in enumerate(structures) if (reason := refusal(potential, s)) is not None}
    accepted = [i for i in range(len(structures)) if i not in results]
    limits = _Limits(fmax, steps, SECONDS)
    processes = worker_count(potential.device, len(accepted))
    jobs = [structures[i] for i in accepted]
    if processes > 1:
        relaxed = _in_workers(potential, jobs, limits, processes)
    else:
        relaxed = [_relax_one(structure, potential.calculator, limits) for structure in jobs]
    results.update(zip(accepted, relaxed, strict=True))
    return [results[i] for i in range(len(structures))]


def worker_count(device: str, count: int) -> int:
    """How many of `count` crystals `relax` relaxes at a time on a device, as torch names it."""
    return 1 if count < PARALLEL_FROM or device != "cpu" else min(processors(), count)


def _relax_one(structure: Structure, calculator: Calculator, limits: _Limits) -> Relaxed:
    from ase.optimize import FIRE

    start = time.monotonic()
    atoms = to_atoms(structure)
    atoms.calc = calculator
    optimizer, last = None, _lost("no step was made")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cell = _cell_filter(atoms)
            optimizer = FIRE(cell, logfile=None)  # type: ignore[arg-type]  # ASE takes both
            for converged in optimizer.irun(fmax=limits.fmax, steps=limits.steps):
                last = _state(structure, atoms, cell.get_forces(), optimizer.nsteps, bool(converged), limits)
                if last.structure is None or converged:
                    return last
                if time.monotonic() - start > limits.seconds:
                    said = f"stopped after {limits.seconds:g} s and {last.steps} steps"
                    return Relaxed(last.structure, last.energy, last.fmax, last.steps, False, said)
    except FAILURES as error:
        return _lost(first_line(error), 0 if optimizer is None else optimizer.nsteps)
    return last


def _cell_filter(atoms: Atoms) -> FrechetCellFilter:
    """ASE's filter, which keeps its forces until something moves: the optimiser asks for them four times a step, and
    each time the filter would compute the logarithm of a matrix."""
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
    structure: Structure, atoms: Atoms, forces: np.ndarray, steps: int, converged: bool, limits: _Limits
) -> Relaxed:
    """The state of a relaxation after a step, where `forces` are (N + 3, 3), on atoms and cell, eV/Å."""
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
    said = None if converged else f"not converged in {limits.steps} steps ({fmax:.3g} eV/Å)"
    return Relaxed(moved, energy, fmax, steps, converged, said)


def _lost(reason: str, steps: int = 0) -> Relaxed:
    return Relaxed(None, math.nan, math.nan, steps, False, reason)


class _Worker:
    """A process that relaxes one crystal after another.

    Attributes:
        ready: it has loaded the potential.
        job: the index of the crystal that it relaxes, if any.
        deadline: when it is given up, on the monotonic clock.
    """

    def __init__(self, potential: Potential, limits: _Limits) -> None:
        context = multiprocessing.get_context("spawn")  # forking a process that runs torch threads can hang
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, potential, limits), daemon=True)
        self.process.start()
        other.close()  # so that reading the pipe ends when the process does
        self.ready = False
        self.job: int | None = None
        self.deadline = math.inf

    def give(self, job: int, structure: Structure, seconds: float) -> None:
        self.job, self.deadline = job, time.monotonic() + seconds + GRACE
        with contextlib.suppress(OSError):  # it has died, which is noticed when its pipe is read next
            self.connection.send(structure)

    def end(self) -> int | None:
        """Kill the process if it is alive, and return its exit code."""
        self.process.kill()
        self.process.join()
        self.connection.close()
        return self.process.exitcode


def _serve(connection: Connection, potential: Potential, limits: _Limits) -> None:
    """What a worker process runs: send None once the potential is loaded, then for each structure its result, or the
    traceback of a bug."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the parent, which ends its workers
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    connection.send(None)
    while True:
        try:
            structure = connection.recv()
        except EOFError:  # the parent is gone
            return
        try:
            answer: Relaxed | str = _relax_one(structure, potential.calculator, limits)
        except Exception:
            answer = traceback.format_exc()
        connection.send(answer)


def _in_workers(
    potential: Potential, structures: Sequence[Structure], limits: _Limits, processes: int
) -> list[Relaxed]:
    """Relax crystals in so many worker processes; those that die or hang are replaced."""
    results: dict[int, Relaxed] = {}
    waiting = deque(sorted(range(len(structures)), key=lambda i: -len(structures[i])))  # no large one starts last
    workers = [_Worker(potential, limits) for _ in range(processes)]
    try:
        while len(results) < len(structures):
            if not workers:
                raise RuntimeError("no worker process for relaxations could be started; their output is above")
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
                            worker.give(job, structures[job], limits.seconds)
                elif time.monotonic() > worker.deadline:
                    lost = f"was ended, hanging in one step {GRACE:g} s after its limit of {limits.seconds:g} s"
                if lost is not None:
                    workers.remove(worker)
                    code = worker.end()
                    if worker.job is not None:
                        results[worker.job] = _lost(f"the worker process {lost} (exit code {code})")
                    if worker.ready and waiting:
                        workers.append(_Worker(potential, limits))
    finally:
        for worker in workers:
            worker.end()
    return [results[i] for i in range(len(structures))]


def _take(worker: _Worker, answer: Relaxed | str | None, results: dict[int, Relaxed]) -> None:
    """Note what a worker has sent: first None, when it is ready, then the answer to each job."""
    worker.ready = True
    if isinstance(answer, str):
        raise RuntimeError(f"in a worker process, relaxing crystal {worker.job}:\n{answer}")
    if worker.job is not None and answer is not None:
        results[worker.job] = answer
    worker.job, worker.deadline = None, math.inf
