"""The interface of a potential, and what all backends share: refusal of crystals, batching, and quiet loading."""

from __future__ import annotations

import contextlib
import io
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from pymatgen.core import Structure

UNKNOWN_SCALE = "unknown"
"""The energy scale of a model file for which the user has not named one."""
EVERY_ELEMENT = frozenset(range(1, 119))
"""Atomic numbers of a potential without a known restriction."""
FAILURES = (ArithmeticError, AssertionError, LookupError, MemoryError, RuntimeError, ValueError)
"""What backends raise for a crystal that they cannot compute. Anything else is a bug and keeps its traceback."""
BATCH_ATOMS = 100
"""Atoms in a batch, as long as the fastest size has not been measured."""
MEASURED_FROM = 192
"""From this many crystals in a call on, measuring the fastest batch size saves more time than it takes."""
SIZES = (1, 8, 24, 96)
"""Batch sizes that are measured, in crystals; none is larger than an eighth of the call."""


@dataclass(frozen=True)
class Energy:
    """The energy of a crystal, or the reason why it has none.

    Attributes:
        value: of the whole cell, eV; NaN if there is none.
        problem: the reason why there is none, or None.
    """

    value: float
    problem: str | None = None


class Potential(Protocol):
    """A machine-learned interatomic potential, as the rest of the program uses it.

    `relaxation.relax` sends potentials to worker processes, so they can be pickled; one that holds a large model
    pickles as what it was loaded from. `check.check_potential` tests all of this.

    Attributes:
        name: as recipes name it.
        energy_scale: which reference energies it was fitted to, such as "PBE/MP2020" (PBE total energies with the
            Materials Project's corrections of 2020). Only energies of one scale may be compared.
        device: where it computes, as torch names it.
        elements: atomic numbers of the elements that it was trained on.
        calculator: the same potential for ASE: energies (eV), forces (eV/Å) and stresses (eV/Å^3).
    """

    name: str
    energy_scale: str
    device: str
    elements: frozenset[int]
    calculator: Calculator

    def energies(self, structures: Sequence[Structure]) -> list[Energy]:
        """The energy of each crystal as it is, without relaxation.

        Returns:
            One energy per crystal, in order. It is NaN, with the reason, for a crystal that is impossible (see
            `data.validity.problem`), that has an element which the potential was not trained on, or that the backend
            fails for; the other crystals are not affected.
        """
        ...


class CalculatorPotential:
    """A potential made of an ASE calculator; the class that backends inherit from.

    It computes one crystal after the other; a backend that computes many at once overrides `batch_energies`. Worker
    processes get a backend as its class, name, scale and device; one whose constructor takes anything else overrides
    `__reduce__`.

    Args:
        name: see `Potential`, as for the following.
        energy_scale: which reference energies it was fitted to.
        device: where it computes.
        calculator: for ASE.
        elements: that it was trained on.
    """

    def __init__(
        self,
        name: str,
        energy_scale: str,
        device: str,
        calculator: Calculator,
        elements: frozenset[int] = EVERY_ELEMENT,
    ) -> None:
        self.name = name
        self.energy_scale = energy_scale
        self.device = device
        self.calculator = calculator
        self.elements = elements
        self.batch_atoms: int | None = None  # atoms in a batch, once measured

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.energy_scale, self.device)

    def batch_energies(self, structures: Sequence[Structure]) -> list[float]:
        """Energies of whole cells in eV, computed as one batch; a subclass may override it.

        Raises:
            Exception: one of `FAILURES` if any of the crystals cannot be computed.
        """
        found = []
        for structure in structures:
            atoms = to_atoms(structure)
            atoms.calc = self.calculator
            found.append(float(atoms.get_potential_energy()))
        return found

    def energies(self, structures: Sequence[Structure]) -> list[Energy]:
        """The energy of each crystal as it is, in order; see `Potential.energies`.

        Crystals are sorted by size into batches. A call with many crystals first measures which batch size is fastest.
        """
        reasons = [refusal(self, structure) for structure in structures]
        found = {i: Energy(math.nan, reason) for i, reason in enumerate(reasons) if reason is not None}
        rows = sorted((i for i, reason in enumerate(reasons) if reason is None), key=lambda i: len(structures[i]))
        if self.batch_atoms is None and len(rows) >= MEASURED_FROM:
            self.batch_atoms = fastest([structures[i] for i in rows], self._batch)
        for batch in batches(rows, [len(structures[i]) for i in rows], self.batch_atoms or BATCH_ATOMS):
            found.update(zip(batch, self._batch([structures[i] for i in batch]), strict=True))
        return [found[i] for i in range(len(structures))]

    def _batch(self, structures: Sequence[Structure]) -> list[Energy]:
        """One batch. If it fails, its halves are tried, so that only crystals which fail alone have no energy."""
        try:
            values = self.batch_energies(structures)
        except FAILURES as error:
            if len(structures) == 1:
                return [Energy(math.nan, first_line(error))]
            half = len(structures) // 2
            return self._batch(structures[:half]) + self._batch(structures[half:])
        return [Energy(v) if math.isfinite(v) else Energy(math.nan, "the energy is not finite") for v in values]


def refusal(potential: Potential, structure: Structure) -> str | None:
    """Why a crystal gets no energy from a potential: it is impossible, or has an element that the potential was not
    trained on. None for any other."""
    from chemeleon_cli.core.data.validity import problem

    reason = problem(structure)
    if reason is None:
        unknown = sorted({site.specie.symbol for site in structure if site.specie.Z not in potential.elements})
        reason = f"{potential.name} was not trained on {', '.join(unknown)}" if unknown else None
    return reason


def batches(rows: Sequence[int], sizes: Sequence[int], atoms: int) -> Iterator[list[int]]:
    """Split rows, in order, into batches of at most so many atoms, or of a single crystal.

    Args:
        rows: what to split.
        sizes: the number of atoms of each row.
        atoms: the most atoms in a batch, unless a single crystal has more.
    """
    batch: list[int] = []
    total = 0
    for row, size in zip(rows, sizes, strict=True):
        if batch and total + size > atoms:
            yield batch
            batch, total = [], 0
        batch.append(row)
        total += size
    if batch:
        yield batch


def fastest(structures: Sequence[Structure], evaluate: Callable[[Sequence[Structure]], Any]) -> int:
    """Measure how many atoms a batch should have. Larger batches are tried as long as they are faster.

    Args:
        structures: sorted by size; those around the median are measured.
        evaluate: computes one batch.
    """
    median = len(structures[len(structures) // 2])
    best, least = SIZES[0], math.inf
    for size in SIZES:
        if size * 8 > len(structures) and size > 1:
            break
        count = max(size, 8)
        start = (len(structures) - count) // 2
        parts = [structures[i : i + size] for i in range(start, start + count, size)]
        evaluate(parts[0])  # not timed, since the first call may compile something
        began = time.perf_counter()
        for part in parts:
            evaluate(part)
        seconds = (time.perf_counter() - began) / count
        if seconds > 0.95 * least:
            break
        best, least = size, seconds
    return best * median


def to_atoms(structure: Structure) -> Atoms:
    """An ordered crystal as ASE describes it."""
    from ase import Atoms

    return Atoms(
        numbers=structure.atomic_numbers, positions=structure.cart_coords, cell=structure.lattice.matrix, pbc=True
    )


def first_line(error: BaseException) -> str:
    """`ValueError: what it says`, without the rest of a long message."""
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Import and load a backend without its output and warnings.

    Importing MACE sets an environment variable by which every later `torch.load` may execute code; it is taken back.
    """
    unsafe = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(unsafe)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.environ.pop(unsafe, None)
        if before is not None:
            os.environ[unsafe] = before
