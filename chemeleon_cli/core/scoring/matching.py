"""Which crystals are the same one: unique within a set, novel against another.

Cheap exact tests come before the matcher of `comparison`: crystals of different reduced formula, or with different
numbers of atoms in the primitive cell, cannot match. Matching is not transitive, so the duplicates of a crystal are
its connected component, which does not depend on the order of the set. Where a comparison ran out of time, a crystal
is neither unique nor novel nor their opposite: it is unknown.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

from pymatgen.core import Structure

from chemeleon_cli.core.data.validity import problem
from chemeleon_cli.core.scoring.comparison import (
    DEFAULT,
    Cell,
    MatchSettings,
    OutOfTime,
    at_most,
    comparison,
    parallel,
    quietly,
)


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
        none or a comparison ran out of time.
    """
    return [group for group, _ in grouped(structures, settings, workers)]


def grouped(
    structures: Sequence[Structure | None], settings: MatchSettings = DEFAULT, workers: int | None = None
) -> list[tuple[int, list[int]]]:
    """The group of each crystal as by `unique_groups`, and the crystals by whose match it came into the group."""
    several = {formula: rows for formula, rows in by_formula(structures).items() if len(rows) > 1}
    label = list(range(len(structures)))  # of the first crystal in the same group
    neighbours: list[list[int]] = [[] for _ in structures]
    jobs = (([Cell.of(structures[i]) for i in rows], settings) for rows in several.values())  # type: ignore[arg-type]
    for rows, found in zip(
        several.values(), parallel(_components, jobs, workers, sum(map(len, several.values()))), strict=True
    ):
        for i, (first, near) in zip(rows, found, strict=True):
            label[i] = -1 if first is None else rows[first]
            neighbours[i] = [rows[k] for k in near]
    numbers: dict[int, int] = {}
    return [
        (-1 if s is None or label[i] < 0 else numbers.setdefault(label[i], len(numbers)), neighbours[i])
        for i, s in enumerate(structures)
    ]


def representatives(
    structures: Sequence[Structure | None], groups: Sequence[int], energies: Sequence[float] | None = None
) -> list[bool]:
    """Which crystal stands for its group: the one of lowest energy, else of lowest content hash.

    Args:
        structures: in canonical form, so that one crystal has one hash.
        groups: from `unique_groups`.
        energies: eV/atom of each, NaN where there is none; None: of none.
    """

    def rank(i: int) -> tuple[float, str]:
        energy = math.inf if energies is None or math.isnan(energies[i]) else energies[i]
        return energy, Cell.of(structures[i]).content  # type: ignore[arg-type]

    members: dict[int, list[int]] = defaultdict(list)
    for i, group in enumerate(groups):
        if group >= 0:
            members[group].append(i)
    chosen = {rows[0] if len(rows) == 1 else min(rows, key=rank) for rows in members.values()}
    return [i in chosen for i in range(len(structures))]


def novel(
    structures: Sequence[Structure | None],
    reference: Reference,
    settings: MatchSettings = DEFAULT,
    workers: int | None = None,
) -> list[bool | None]:
    """Which crystals match none of a reference set's; False where there is no crystal, None where it is unknown
    because a comparison ran out of time.

    Args:
        structures: None where there is no crystal to compare.
        reference: the set; only crystals of a formula that both have are built.
        settings: tolerances.
        workers: processes; None: as many as processors where there is enough to do.
    """
    found = matches(structures, reference, settings, workers)
    return [
        False if s is None else None if rows is None else not rows for s, rows in zip(structures, found, strict=True)
    ]


def matches(
    structures: Sequence[Structure | None],
    known: Known,
    settings: MatchSettings = DEFAULT,
    workers: int | None = None,
) -> list[list[Cell] | None]:
    """The known crystals that each crystal matches; None where there is no match and a comparison ran out of time.

    Args:
        structures: None where there is no crystal to compare.
        known: a reference set, or the memory of a run.
        settings: tolerances.
        workers: processes; None: as many as processors where there is enough to do.
    """
    shared = {formula: rows for formula, rows in by_formula(structures).items() if formula in known}
    found: list[list[Cell] | None] = [[] for _ in structures]
    jobs = (
        ([Cell.of(structures[i]) for i in rows], known.cells(formula), settings)  # type: ignore[arg-type]
        for formula, rows in shared.items()
    )
    answers = parallel(_matching, jobs, workers, sum(map(len, shared.values())))
    for (formula, rows), answer in zip(shared.items(), answers, strict=True):
        cells = known.cells(formula)
        for i, which in zip(rows, answer, strict=True):
            found[i] = None if which is None else [cells[k] for k in which]
    return found


class Known(Protocol):
    """Crystals that others are compared with, found by reduced formula."""

    def __contains__(self, formula: str) -> bool:
        """Whether there is any of this formula."""
        ...

    def cells(self, formula: str) -> Sequence[Cell]:
        """Those of this formula."""
        ...


class Reference:
    """A set of known crystals, found by reduced formula. Those of a formula are built and reduced when it is first
    asked for, and kept.

    Args:
        formulas: reduced formula of each row of the set.
        build: makes the crystals of some rows.
        name: what to call the set in reports.
        sha256: of the file that it is from, for reports.
    """

    def __init__(
        self,
        formulas: Sequence[str],
        build: Callable[[list[int]], list[Structure]],
        name: str = "reference",
        sha256: str | None = None,
    ) -> None:
        self.name, self.sha256 = name, sha256
        self._build = build
        self._rows: dict[str, list[int]] = defaultdict(list)
        self._cells: dict[str, list[Cell]] = {}
        for row, formula in enumerate(formulas):
            self._rows[formula].append(row)

    @classmethod
    def from_structures(cls, structures: Sequence[Structure], name: str = "reference") -> Reference:
        """A set that is in memory already."""
        formulas = [s.composition.reduced_formula for s in structures]
        return cls(formulas, lambda rows: [structures[row] for row in rows], name)

    def __contains__(self, formula: str) -> bool:
        return formula in self._rows

    def cells(self, formula: str) -> Sequence[Cell]:
        """The crystals of this reduced formula."""
        if formula not in self._cells:
            rows = self._rows.get(formula, [])
            self._cells[formula] = [Cell.of(structure) for structure in self._build(rows)]
        return self._cells[formula]


def rms(original: Structure, other: Structure | None, settings: MatchSettings = DEFAULT) -> float | None:
    """Root mean square displacement of matched sites in units of (volume per atom)^(1/3).

    Returns:
        None where they do not match, NaN where the comparison ran out of time.
    """
    if other is None or problem(other) in ("cell", "element", "no structure"):
        return None
    try:
        with quietly(), at_most(settings.time_limit):
            found = settings.matcher().get_rms_dist(original, other)
    except OutOfTime:
        return math.nan
    except ValueError:  # one has no Niggli cell
        return None
    return None if found is None else float(found[0])


def rms_pairs(
    pairs: Sequence[tuple[Structure, Structure | None]], settings: MatchSettings = DEFAULT, workers: int | None = None
) -> list[float | None]:
    """`rms` of many pairs, in worker processes."""
    return list(parallel(rms, [(a, b, settings) for a, b in pairs], workers, len(pairs)))


def by_formula(structures: Sequence[Structure | None]) -> dict[str, list[int]]:
    """Rows that hold a crystal, by its reduced formula."""
    rows: dict[str, list[int]] = defaultdict(list)
    for i, structure in enumerate(structures):
        if structure is not None:
            rows[structure.composition.reduced_formula].append(i)
    return rows


def _components(cells: Sequence[Cell], settings: MatchSettings) -> list[tuple[int | None, list[int]]]:
    """Connected components of matching crystals, all of one reduced formula.

    Both crystals of a pair that ran out of time are set aside: one of them is the reason, and would be again.

    Returns:
        For each crystal the first of its component, None where it was set aside, and those that it was found to
        match: enough of them to connect the component.
    """
    parent = list(range(len(cells)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    compare = comparison(settings)
    reduced = {i: form for i, cell in enumerate(cells) if (form := cell.reduced) is not None}
    aside = set(range(len(cells))) - set(reduced)
    neighbours: list[list[int]] = [[] for _ in cells]
    order = sorted(reduced, key=lambda i: reduced[i].content)
    for position, i in enumerate(order):
        for j in order[:position]:
            if i in aside:
                break
            if j in aside or root(i) == root(j):
                continue
            same = compare(reduced[j], reduced[i])
            if same is None:
                aside |= {i, j}
            elif same:
                parent[root(i)] = root(j)
                neighbours[i].append(j)
                neighbours[j].append(i)
    first: dict[int, int] = {}
    return [(None if i in aside else first.setdefault(root(i), i), neighbours[i]) for i in range(len(cells))]


def _matching(cells: Sequence[Cell], known: Sequence[Cell], settings: MatchSettings) -> list[list[int] | None]:
    """Which of the known crystals each crystal matches, all of one reduced formula; None: none, but one is unknown."""
    compare = comparison(settings)
    answers: list[list[int] | None] = []
    for cell in cells:
        found, unknown = [], cell.reduced is None
        for k, other in enumerate(known):
            if cell.reduced is None or other.reduced is None:
                unknown = True
                continue
            same = compare(other.reduced, cell.reduced)
            if same is None:  # it may be the crystal that is odd, and would be with the next one too
                unknown = True
                break
            if same:
                found.append(k)
        answers.append(None if unknown and not found else found)
    return answers
