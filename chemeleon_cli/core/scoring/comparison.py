"""Comparison of two crystals within a time limit, and of many crystals in worker processes.

Two crystals match if pymatgen's StructureMatcher matches their reduced cells, which are computed once per crystal. A
rare pair can take the matcher hours, so each comparison has a time limit, after which the result is unknown.
"""

from __future__ import annotations

import functools
import hashlib
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from chemeleon_cli.core.machine import processors, worker_pool
from chemeleon_cli.core.scoring.settings import Matching

PARALLEL_FROM = 1000
"""Number of crystals to compare from which worker processes save more time than their start takes."""


@dataclass(frozen=True, eq=False)
class Cell:
    """A crystal as plain arrays, which take a fifth of the memory of a Structure.

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
        """The cell of an ordered structure."""
        return cls(
            np.array(structure.atomic_numbers, np.uint8), structure.frac_coords, np.array(structure.lattice.matrix)
        )

    def structure(self) -> Structure:
        """The crystal as a pymatgen Structure."""
        return Structure(Lattice(self.lattice), self.numbers.tolist(), self.frac_coords)

    @functools.cached_property
    def reduced(self) -> Cell | None:
        """The primitive Niggli cell that StructureMatcher compares, computed once per crystal instead of once per pair;
        None if there is none."""
        with quietly():
            try:
                return Cell.of(StructureMatcher._get_reduced_structure(self.structure()))
            except ValueError:  # no Niggli cell
                return None

    @functools.cached_property
    def content(self) -> str:
        """A hash of the arrays. Sorting by it gives an order that does not depend on the order of the set."""
        parts = (self.numbers, self.lattice.round(4) + 0.0, self.frac_coords.round(4) % 1)
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def comparison(settings: Matching) -> Callable[[Cell, Cell], bool | None]:
    """A function that tells whether two reduced cells of one reduced formula match; None if it ran out of time."""
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
    """Raise OutOfTime after this many seconds of processor time. Works only in the main thread of a process."""

    def stop(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1.0)  # repeats, because a destructor may swallow the exception
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def parallel(function: Callable[..., Any], jobs: Iterable[tuple[Any, ...]], crystals: int) -> Iterator[Any]:
    """Yield function(*job) of each job in order.

    Worker processes are used if there are enough crystals to repay their start, or if this is not the main thread,
    because time limits work only in the main thread of a process.

    Args:
        function: importable by name; its arguments and results can be pickled.
        jobs: arguments of each call.
        crystals: number of crystals compared in all jobs together.
    """
    jobs = list(jobs)
    workers = processors() if crystals >= PARALLEL_FROM else 1
    main = threading.current_thread() is threading.main_thread()
    if main and (workers < 2 or len(jobs) < 2):
        yield from (function(*job) for job in jobs)
    elif jobs:
        with worker_pool(workers) as pool:
            yield from pool.map(function, *zip(*jobs, strict=True), chunksize=4)


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress the warnings of pymatgen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
