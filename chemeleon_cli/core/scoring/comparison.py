"""Whether two crystals are the same one, within a time limit, and many such comparisons in worker processes.

Two crystals match if pymatgen's StructureMatcher says so of their reduced cells, which are found once per crystal.
The matcher can take hours over an odd pair, so each comparison has a time limit, after which its answer is unknown.
"""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from chemeleon_cli.core.machine import processors


@dataclass(frozen=True)
class MatchSettings:
    """Tolerances of pymatgen's StructureMatcher; its own defaults.

    Attributes:
        ltol: of cell lengths, relative.
        stol: of sites, in units of (volume per atom)^(1/3).
        angle_tol: of cell angles, degrees.
        time_limit: of one comparison, seconds of processor time.
    """

    ltol: float = 0.2
    stol: float = 0.3
    angle_tol: float = 5.0
    time_limit: float = 10.0

    def matcher(self) -> StructureMatcher:
        """For whole structures; it reduces both to their primitive cells first."""
        return StructureMatcher(ltol=self.ltol, stol=self.stol, angle_tol=self.angle_tol)


DEFAULT = MatchSettings()
PARALLEL_FROM = 1000
"""Crystals to compare from which worker processes repay the seconds that they take to start."""


@dataclass(frozen=True, eq=False)
class Cell:
    """A crystal as plain arrays, a fifth of a Structure's memory.

    Attributes:
        numbers: (N,) uint8 atomic numbers.
        frac_coords: (N, 3).
        lattice: (3, 3) Å, row vectors.
    """

    numbers: np.ndarray
    frac_coords: np.ndarray
    lattice: np.ndarray

    @classmethod
    def of(cls, structure: Structure) -> Cell:
        """Of an ordered structure."""
        return cls(
            np.array(structure.atomic_numbers, np.uint8), structure.frac_coords, np.array(structure.lattice.matrix)
        )

    def structure(self) -> Structure:
        """As pymatgen has it."""
        return Structure(Lattice(self.lattice), self.numbers.tolist(), self.frac_coords)

    @functools.cached_property
    def reduced(self) -> Cell | None:
        """The primitive Niggli cell in which StructureMatcher compares, found once instead of once per pair; None
        where it finds none."""
        with quietly():
            try:
                return Cell.of(StructureMatcher._get_reduced_structure(self.structure()))
            except ValueError:  # no Niggli cell
                return None

    @functools.cached_property
    def content(self) -> str:
        """A key that two equal descriptions share; it puts crystals in an order that is theirs, not their set's."""
        parts = (self.numbers, self.lattice.round(4) + 0.0, self.frac_coords.round(4) % 1)
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def comparison(settings: MatchSettings) -> Callable[[Cell, Cell], bool | None]:
    """A function of two reduced cells of one reduced formula: whether they match, None where it ran out of time."""
    matcher = settings.matcher()

    @functools.cache
    def structure(cell: Cell) -> Structure:
        return cell.structure()

    def compare(a: Cell, b: Cell) -> bool | None:
        if len(a.numbers) != len(b.numbers):
            return False
        try:
            with quietly(), at_most(settings.time_limit):
                return bool(matcher.fit(structure(a), structure(b), skip_structure_reduction=True))
        except OutOfTime:
            return None

    return compare


class OutOfTime(Exception):
    """A comparison took longer than its limit."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises OutOfTime after so many seconds of processor time; only in a process's main thread, see `parallel`."""

    def stop(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1.0)  # again, where a destructor ate the exception
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def parallel(
    function: Callable[..., Any], jobs: Iterable[tuple[Any, ...]], workers: int | None, crystals: int
) -> Iterator[Any]:
    """function(*job) of each job in order, in worker processes where that repays their start, and where this is not
    a main thread, in which alone a time limit holds."""
    jobs = list(jobs)
    if workers is None:
        workers = processors() if crystals >= PARALLEL_FROM else 1
    main = threading.current_thread() is threading.main_thread()
    if main and (workers < 2 or len(jobs) < 2):
        yield from (function(*job) for job in jobs)
    elif jobs:
        context = multiprocessing.get_context("spawn")  # forking a process that runs torch threads can hang
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            yield from pool.map(function, *zip(*jobs, strict=True), chunksize=4)


@contextmanager
def quietly() -> Iterator[None]:
    """Without pymatgen's warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
