"""How new a crystal is: against a reference set, and against all that a run has generated so far."""

from __future__ import annotations

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from pymatgen.core import Composition, Element, Structure
from torch import Tensor

from chemeleon_cli.core.scoring import matching
from chemeleon_cli.core.scoring.comparison import DEFAULT, Cell, MatchSettings
from chemeleon_cli.core.scoring.matching import Known

CAP = 0.99
"""The most that a crystal gets that is new in one way only; one that is new in both gets 1."""
PER_FORMULA = 100
"""Crystals of one reduced formula that a memory keeps, the latest: it bounds the time that one comparison takes."""
TOTAL = 200_000
"""Crystals that a memory keeps in all: it bounds the memory of a long run and the size of its checkpoints."""


@dataclass(frozen=True)
class Creativity:
    """How new each of B crystals is.

    Attributes:
        values: 1 where unique and novel, 0 where neither, between where one of them; NaN where unknown.
        unique: whether it is the first of its kind; None where unknown.
        novel: whether no reference matches it; None where unknown.
        groups: number of its group of duplicates within the batch, -1 where unknown.
    """

    values: list[float]
    unique: list[bool | None]
    novel: list[bool | None]
    groups: list[int]


class Memory:
    """The distinct crystals that a run has generated, found by reduced formula.

    Of a group of duplicates only the representative is remembered, so a crystal that matches a forgotten duplicate
    and not the representative counts as new. Of one formula the latest `PER_FORMULA` are kept; of more than `TOTAL`,
    the formulas of which nothing new came for the longest time are forgotten.
    """

    def __init__(self) -> None:
        self._cells: dict[str, list[Cell]] = {}  # what was remembered last comes last
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, formula: str) -> bool:
        return formula in self._cells

    def cells(self, formula: str) -> list[Cell]:
        """The crystals of this reduced formula, the latest last."""
        return list(self._cells.get(formula, ()))

    def update(self, structures: Sequence[Structure | None], unique: Sequence[bool | None]) -> None:
        """Remember the unique crystals of a step.

        Args:
            structures: of the whole step, those of all ranks; in which order makes no difference.
            unique: of each, from `creativity` with this memory.
        """
        new = [
            (s.composition.reduced_formula, Cell.of(s))
            for s, is_new in zip(structures, unique, strict=True)
            if s and is_new
        ]
        for formula, cell in sorted(new, key=lambda pair: pair[1].content):
            self._remember(formula, cell)

    def _remember(self, formula: str, cell: Cell) -> None:
        earlier = self._cells.pop(formula, [])
        self._cells[formula] = [*earlier, cell][-PER_FORMULA:]
        self._count += len(self._cells[formula]) - len(earlier)
        while self._count > TOTAL:
            self._count -= len(self._cells.pop(next(iter(self._cells))))

    def state(self) -> dict[str, Tensor]:
        """What `load` takes; A atoms of M crystals: numbers (A,), frac_coords (A, 3), lattice (M, 3, 3) Å,
        num_atoms (M,)."""
        cells = [cell for of_formula in self._cells.values() for cell in of_formula]
        return {
            "numbers": _joined([torch.from_numpy(c.numbers) for c in cells], torch.zeros(0, dtype=torch.uint8)),
            "frac_coords": _joined([torch.from_numpy(c.frac_coords) for c in cells], torch.zeros(0, 3).double()),
            "lattice": _joined([torch.from_numpy(c.lattice)[None] for c in cells], torch.zeros(0, 3, 3).double()),
            "num_atoms": torch.tensor([len(c.numbers) for c in cells], dtype=torch.int64),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Remember what `state` was taken of, and nothing else."""
        self._cells, self._count = {}, 0
        for cell in _split(state):
            self._remember(_reduced_formula(tuple(cell.numbers.tolist())), cell)


def creativity(
    structures: Sequence[Structure | None],
    reference: Known,
    memory: Known | None = None,
    energies: Sequence[float] | None = None,
    settings: MatchSettings = DEFAULT,
    workers: int | None = None,
) -> Creativity:
    """How new each crystal of a batch is, as Chemeleon2 rewards it (Park & Walsh 2025, arXiv:2511.07158), but with
    the matcher's displacement as the distance, and within [0, 1].

    Unique is one crystal of each group of duplicates in the batch, its representative (`matching.representatives`),
    so a batch of ten copies holds one unique crystal and not none; and only where no crystal of the group matches one
    in memory. Novel is what matches no crystal of the reference.

    Both: 1. Neither: 0. One of them: d / stol, at most `CAP`, with d the smallest root mean square displacement from
    the crystals that it is a copy of: those of the reference if it is unique, else those in memory, the representative
    of its group, and the neighbours by whose match it came into the group. A crystal of the same shape and another
    volume is an exact copy, since the matcher scales volumes: 0, as far as rounding allows.

    Args:
        structures: B canonical crystals; None where there is none.
        reference: the set that novelty is against.
        memory: what the run generated before this batch; it is not changed.
        energies: eV/atom of each, which choose the representatives; NaN where there is none.
        settings: tolerances.
        workers: processes; None: as many as processors where there is enough to do.
    """
    grouped = matching.grouped(structures, settings, workers)
    groups = [group for group, _ in grouped]
    known = matching.matches(structures, reference, settings, workers)
    earlier = [[] for _ in structures] if memory is None else matching.matches(structures, memory, settings, workers)
    first = matching.representatives(structures, groups, energies)
    novel = [None if s is None or cells is None else not cells for s, cells in zip(structures, known, strict=True)]
    repeated = {group for group, cells in zip(groups, earlier, strict=True) if cells}
    unique = [
        None if s is None else _is_unique(earlier[i], groups[i], first[i], repeated) for i, s in enumerate(structures)
    ]
    representative = {groups[i]: i for i, is_first in enumerate(first) if is_first}
    pairs: list[tuple[Structure, Structure | None]] = []
    rows: list[int] = []  # of the copy in each pair
    for i, structure in enumerate(structures):
        originals: list[Structure] = []
        if (unique[i], novel[i]) == (True, False):
            originals = [cell.structure() for cell in known[i] or []]
        elif (unique[i], novel[i]) == (False, True):
            same = {representative.get(groups[i], i), *grouped[i][1]} - {i}
            originals = [cell.structure() for cell in earlier[i] or []] + [
                s for k in sorted(same) if (s := structures[k])
            ]
        pairs += [(original, structure) for original in originals]
        rows += [i] * len(originals)
    distances: dict[int, list[float]] = defaultdict(list)
    for i, distance in zip(rows, matching.rms_pairs(pairs, settings, workers), strict=True):
        distances[i].append(math.inf if distance is None else distance)
    values = [_value(unique[i], novel[i], distances[i], settings.stol) for i in range(len(structures))]
    return Creativity(values, unique, novel, groups)


def _is_unique(earlier: list[Cell] | None, group: int, first: bool, repeated: set[int]) -> bool | None:
    if earlier:
        return False
    return None if earlier is None or group < 0 else first and group not in repeated


def _value(unique: bool | None, novel: bool | None, distances: Sequence[float], stol: float) -> float:
    if unique is None or novel is None or any(map(math.isnan, distances)):
        return math.nan
    if unique == novel:
        return float(unique)
    return min(min(distances, default=math.inf) / stol, CAP)


def _joined(parts: list[Tensor], empty: Tensor) -> Tensor:
    return torch.cat(parts) if parts else empty


def _split(state: Mapping[str, Tensor]) -> Iterator[Cell]:
    sizes = state["num_atoms"].tolist()
    parts = zip(state["numbers"].split(sizes), state["frac_coords"].split(sizes), state["lattice"], strict=True)
    for numbers, frac_coords, lattice in parts if sizes else ():
        yield Cell(numbers.numpy().copy(), frac_coords.numpy().copy(), lattice.numpy().copy())


@functools.lru_cache(maxsize=200_000)
def _reduced_formula(numbers: tuple[int, ...]) -> str:
    return Composition({Element.from_Z(z): n for z, n in Counter(numbers).items()}).reduced_formula
