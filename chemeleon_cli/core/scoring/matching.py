"""Duplicates within a set of crystals, and matches with another set.

Cheap exact tests come before the matcher of `comparison`: crystals of different reduced formula, or with different
numbers of atoms in the primitive cell, cannot match. Matching is not transitive, so a matcher group is a connected
component of matching crystals, which does not depend on the order of the set. If a comparison ran out of time, it is
unknown whether the crystal has duplicates.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from pymatgen.core import Structure

from chemeleon_cli.core.data.validity import problem
from chemeleon_cli.core.scoring.comparison import (
    Cell,
    OutOfTime,
    at_most,
    comparison,
    parallel,
    quietly,
)
from chemeleon_cli.core.scoring.settings import DEFAULT_MATCHING, Matching

if TYPE_CHECKING:
    from chemeleon_cli.core.data.dataset import Table


def matcher_groups(
    structures: Sequence[Structure | None], settings: Matching = DEFAULT_MATCHING
) -> tuple[list[int], list[list[int]]]:
    """Number the matcher groups of a set of crystals.

    Args:
        structures: None if there is no crystal to compare.
        settings: tolerances.

    Returns:
        For each structure, the number of its group in order of first appearance, or -1 if there is no crystal or a
        comparison ran out of time; and for each structure, those it was found to match.
    """
    several = {formula: rows for formula, rows in by_formula(structures).items() if len(rows) > 1}
    label = list(range(len(structures)))  # of the first crystal in the same group
    neighbours: list[list[int]] = [[] for _ in structures]
    jobs = (([Cell.of(structures[i]) for i in rows], settings) for rows in several.values())  # type: ignore[arg-type]
    for rows, found in zip(several.values(), parallel(_components, jobs, sum(map(len, several.values()))), strict=True):
        for i, (first, near) in zip(rows, found, strict=True):
            label[i] = -1 if first is None else rows[first]
            neighbours[i] = [rows[k] for k in near]
    numbers: dict[int, int] = {}
    groups = [
        -1 if s is None or label[i] < 0 else numbers.setdefault(label[i], len(numbers))
        for i, s in enumerate(structures)
    ]
    return groups, neighbours


def matches(
    structures: Sequence[Structure | None],
    known: Known,
    settings: Matching = DEFAULT_MATCHING,
) -> list[list[Cell] | None]:
    """The known crystals that each crystal matches; None if none matches but a comparison ran out of time.

    Args:
        structures: None if there is no crystal to compare.
        known: a reference set, or the memory of a run.
        settings: tolerances.
    """
    shared = {formula: rows for formula, rows in by_formula(structures).items() if formula in known}
    found: list[list[Cell] | None] = [[] for _ in structures]
    jobs = (
        ([Cell.of(structures[i]) for i in rows], known.cells(formula), settings)  # type: ignore[arg-type]
        for formula, rows in shared.items()
    )
    answers = parallel(_matching, jobs, sum(map(len, shared.values())))
    for (formula, rows), answer in zip(shared.items(), answers, strict=True):
        cells = known.cells(formula)
        for i, which in zip(rows, answer, strict=True):
            found[i] = None if which is None else [cells[k] for k in which]
    return found


class Known(Protocol):
    """Crystals to compare with, looked up by reduced formula."""

    def __contains__(self, formula: str) -> bool:
        """Whether there is a crystal of this reduced formula."""
        ...

    def cells(self, formula: str) -> Sequence[Cell]:
        """The crystals of this reduced formula."""
        ...


class Reference:
    """A set of known crystals, looked up by reduced formula. The crystals of a formula are built on first use and kept.

    Args:
        formulas: reduced formula of each row of the set.
        build: builds the crystals of given rows.
        name: of the set, for reports.
        sha256: of its files, by split, for reports.
    """

    def __init__(
        self,
        formulas: Sequence[str],
        build: Callable[[list[int]], list[Structure]],
        name: str = "reference",
        sha256: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.sha256 = name, dict(sha256 or {})
        self._build = build
        self._rows: dict[str, list[int]] = defaultdict(list)
        self._cells: dict[str, list[Cell]] = {}
        for row, formula in enumerate(formulas):
            self._rows[formula].append(row)

    @classmethod
    def of_tables(cls, tables: Mapping[str, Table], name: str) -> Reference:
        """A set from splits of a data folder, given by the name of the split."""
        parts = list(tables.values())
        ends = list(itertools.accumulate(map(len, parts)))

        def build(rows: list[int]) -> list[Structure]:
            built: list[Structure] = []
            for table, end in zip(parts, ends, strict=True):
                within = [row - end + len(table) for row in rows if end - len(table) <= row < end]
                built += table.structures(within) if within else []
            return built

        formulas = [formula for table in tables.values() for formula in table.formulas]
        return cls(formulas, build, name, {split: table.sha256 for split, table in tables.items()})

    @classmethod
    def from_structures(cls, structures: Sequence[Structure], name: str = "reference") -> Reference:
        """A set from structures in memory."""
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


def rms(original: Structure, other: Structure | None, settings: Matching = DEFAULT_MATCHING) -> float | None:
    """Root mean square displacement of matched sites in units of (volume per atom)^(1/3).

    Returns:
        None if they do not match, NaN if the comparison ran out of time.
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
    pairs: Sequence[tuple[Structure, Structure | None]], settings: Matching = DEFAULT_MATCHING
) -> list[float | None]:
    """`rms` of many pairs, in worker processes."""
    return list(parallel(rms, [(a, b, settings) for a, b in pairs], len(pairs)))


def by_formula(structures: Sequence[Structure | None]) -> dict[str, list[int]]:
    """Indices of the structures that are not None, by reduced formula."""
    rows: dict[str, list[int]] = defaultdict(list)
    for i, structure in enumerate(structures):
        if structure is not None:
            rows[structure.composition.reduced_formula].append(i)
    return rows


def _components(cells: Sequence[Cell], settings: Matching) -> list[tuple[int | None, list[int]]]:
    """Connected components of matching crystals, all of one reduced formula.

    Both crystals of a pair that ran out of time are set aside, because one of them would make further comparisons run
    out of time too.

    Returns:
        For each crystal, the first crystal of its component, or None if it was set aside; and enough of the crystals
        that it matches to connect the component.
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


def _matching(cells: Sequence[Cell], known: Sequence[Cell], settings: Matching) -> list[list[int] | None]:
    """Indices of the known crystals that each crystal matches, all of one reduced formula.

    None if it matches none and a comparison is unknown.
    """
    compare = comparison(settings)
    answers: list[list[int] | None] = []
    for cell in cells:
        found, unknown = [], cell.reduced is None
        for k, other in enumerate(known):
            if cell.reduced is None or other.reduced is None:
                unknown = True
                continue
            same = compare(other.reduced, cell.reduced)
            if same is None:  # the crystal may be the cause, and further comparisons would run out of time too
                unknown = True
                break
            if same:
                found.append(k)
        answers.append(None if unknown and not found else found)
    return answers
