"""Which crystals are the same one: unique within a set, novel against another.

Two crystals match if pymatgen's StructureMatcher says so. Cheap exact tests come first: crystals of different
reduced formula, or with different numbers of atoms in the primitive cell, cannot match. Matching is not
transitive, so the duplicates of a crystal are its connected component, which does not depend on the order of
the set.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from chemeleon_cli.core.validity import problem


@dataclass(frozen=True)
class MatchSettings:
    """Tolerances of pymatgen's StructureMatcher; its own defaults.

    Attributes:
        ltol: of cell lengths, relative.
        stol: of sites, in units of (volume per atom)^(1/3).
        angle_tol: of cell angles, degrees.
    """

    ltol: float = 0.2
    stol: float = 0.3
    angle_tol: float = 5.0

    def matcher(self) -> StructureMatcher:
        """For whole structures; it reduces both to their primitive cells first."""
        return StructureMatcher(ltol=self.ltol, stol=self.stol, angle_tol=self.angle_tol)


DEFAULT = MatchSettings()
PARALLEL_FROM = 1000
"""Crystals to compare from which worker processes repay the seconds that they take to start."""


def unique_groups(
    structures: Sequence[Structure | None], settings: MatchSettings = DEFAULT, workers: int | None = None
) -> list[int]:
    """Number the groups of matching crystals.

    Args:
        structures: None where there is no crystal to compare.
        settings: tolerances.
        workers: processes; None: as many as processors where there is enough to do.

    Returns:
        For each structure the number of its group, counted in order of first appearance, or -1 where there is
        none.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for i, structure in enumerate(structures):
        if structure is not None:
            members[structure.composition.reduced_formula].append(i)
    label = list(range(len(structures)))  # of the first crystal in the same group
    several = [indices for indices in members.values() if len(indices) > 1]
    jobs = [([structures[i] for i in indices], settings) for indices in several]
    for indices, components in zip(several, _map(_components, jobs, workers, sum(map(len, several))), strict=True):
        for component in components:
            first = min(indices[k] for k in component)
            for k in component:
                label[indices[k]] = first
    numbers: dict[int, int] = {}
    return [-1 if s is None else numbers.setdefault(label[i], len(numbers)) for i, s in enumerate(structures)]


def novel(
    structures: Sequence[Structure | None],
    reference: Reference,
    settings: MatchSettings = DEFAULT,
    workers: int | None = None,
) -> list[bool]:
    """Which crystals match none of a reference set's; False where there is no crystal.

    Args:
        structures: None where there is no crystal to compare.
        reference: the set; only crystals of a formula that both have are built.
        settings: tolerances.
        workers: processes; None: as many as processors where there is enough to do.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for i, structure in enumerate(structures):
        if structure is not None:
            members[structure.composition.reduced_formula].append(i)
    found = [structure is not None for structure in structures]
    shared = {formula: indices for formula, indices in members.items() if formula in reference}
    jobs = (([structures[i] for i in own], reference.of(formula), settings) for formula, own in shared.items())
    for indices, known in zip(
        shared.values(), _map(_known, jobs, workers, sum(map(len, shared.values()))), strict=True
    ):
        for i, matches in zip(indices, known, strict=True):
            found[i] = not matches
    return found


class Reference:
    """A set of known crystals, found by reduced formula.

    Args:
        formulas: reduced formula of each row of the set.
        build: makes the crystals of some rows.
        name: what to call the set in reports.
    """

    def __init__(
        self, formulas: Sequence[str], build: Callable[[list[int]], list[Structure]], name: str = "reference"
    ) -> None:
        self.name = name
        self._build = build
        self._rows: dict[str, list[int]] = defaultdict(list)
        for row, formula in enumerate(formulas):
            self._rows[formula].append(row)

    @classmethod
    def from_structures(cls, structures: Sequence[Structure], name: str = "reference") -> Reference:
        """A set that is in memory already."""
        formulas = [s.composition.reduced_formula for s in structures]
        return cls(formulas, lambda rows: [structures[row] for row in rows], name)

    def __contains__(self, formula: str) -> bool:
        return formula in self._rows

    def of(self, formula: str) -> list[Structure]:
        """The crystals of this reduced formula."""
        return self._build(self._rows[formula]) if formula in self._rows else []


def rms(original: Structure, other: Structure | None, settings: MatchSettings = DEFAULT) -> float | None:
    """Root mean square displacement of matched sites in units of (volume per atom)^(1/3), or None: no
    match."""
    if other is None or problem(other) in ("cell", "element", "no structure"):
        return None
    with _quietly():
        found = settings.matcher().get_rms_dist(original, other)
    return None if found is None else float(found[0])


def rms_pairs(
    pairs: Sequence[tuple[Structure, Structure | None]], settings: MatchSettings = DEFAULT, workers: int | None = None
) -> list[float | None]:
    """`rms` of many pairs, in worker processes."""
    return list(_map(rms, [(a, b, settings) for a, b in pairs], workers, len(pairs)))


def _components(structures: Sequence[Structure], settings: MatchSettings) -> list[list[int]]:
    """Connected components of matching crystals, all of one reduced formula, as lists of indices."""
    parent = list(range(len(structures)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    matcher = settings.matcher()
    with _quietly():
        reduced = [_reduced(s) for s in structures]
        order = sorted(range(len(structures)), key=lambda i: _content(reduced[i]))
        for position, i in enumerate(order):
            for j in order[:position]:
                if (
                    len(reduced[i]) == len(reduced[j])
                    and root(i) != root(j)
                    and _match(matcher, reduced[j], reduced[i])
                ):
                    parent[root(i)] = root(j)
    found: dict[int, list[int]] = defaultdict(list)
    for i in range(len(structures)):
        found[root(i)].append(i)
    return list(found.values())


def _known(structures: Sequence[Structure], reference: Sequence[Structure], settings: MatchSettings) -> list[bool]:
    """Which crystals match one of the reference's, all of one reduced formula."""
    matcher = settings.matcher()
    with _quietly():
        references = [_reduced(s) for s in reference]
        return [
            any(len(r) == len(own) and _match(matcher, r, own) for r in references) for own in map(_reduced, structures)
        ]


def _match(matcher: StructureMatcher, a: Structure, b: Structure) -> bool:
    return bool(matcher.fit(a, b, skip_structure_reduction=True))


def _reduced(structure: Structure) -> Structure:
    """The primitive Niggli cell in which StructureMatcher compares, found once instead of once per pair."""
    return StructureMatcher._get_reduced_structure(structure)


def _content(structure: Structure) -> str:
    """A key that two equal descriptions share; orders pairs, since a match may depend on which crystal is
    first."""
    parts = (structure.atomic_numbers, structure.lattice.matrix.round(4), structure.frac_coords.round(4) % 1)
    return hashlib.sha256(b"".join(np.ascontiguousarray(p).tobytes() for p in parts)).hexdigest()


def _map(
    function: Callable[..., Any], jobs: Iterable[tuple[Any, ...]], workers: int | None, crystals: int
) -> Iterator[Any]:
    """function(*job) of each job in order, in worker processes where that repays their start."""
    jobs = list(jobs)
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if crystals >= PARALLEL_FROM else 1
    if workers < 2 or len(jobs) < 2:
        yield from (function(*job) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that runs torch threads can hang
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(function, *zip(*jobs, strict=True), chunksize=4)


@contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
