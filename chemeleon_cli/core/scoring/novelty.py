"""Novelty of crystals against a reference set, and against the crystals that a run has generated so far."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from pymatgen.core import Structure
from torch import Tensor

from chemeleon_cli.core.data.crystals import reduced_formula
from chemeleon_cli.core.scoring import matching
from chemeleon_cli.core.scoring.comparison import Cell
from chemeleon_cli.core.scoring.matching import Known
from chemeleon_cli.core.scoring.settings import DEFAULT_MATCHING, Matching
from chemeleon_cli.core.scoring.uniqueness import Uniqueness, share

CAP = 0.99
"""Largest creativity of a crystal that is only unique or only novel; one that is both gets 1."""
PER_FORMULA = 100
"""Number of latest crystals of one reduced formula that a memory keeps. It bounds the time of a comparison."""
TOTAL = 200_000
"""Number of crystals that a memory keeps in all. It bounds the memory of a long run and the size of its checkpoints."""


@dataclass(frozen=True)
class Novelty:
    """Comparison of B crystals with a reference set.

    Attributes:
        matches: (B) the crystals of the set that each crystal matches; None if unknown, because a comparison ran out
            of time or there is no canonical form.
    """

    matches: list[list[Cell] | None]

    @property
    def novel(self) -> list[bool | None]:
        """(B) Whether each crystal matches none of the set; None if unknown."""
        return [None if cells is None else not cells for cells in self.matches]

    @property
    def compared(self) -> int:
        """Number of crystals whose novelty is known."""
        return sum(cells is not None for cells in self.matches)

    @property
    def novel_of_valid(self) -> float:
        """Share of novel crystals among the valid ones that could be compared; NaN if there are none."""
        return share(self.novel.count(True), self.compared)


class Memory:
    """The distinct crystals that a run has generated, looked up by reduced formula.

    Of a matcher group only the representative is kept, so a later crystal that matches another member of the group but
    not the representative counts as unique. The latest `PER_FORMULA` crystals of a formula are kept. When there are
    more than `TOTAL`, the formulas that have been without a new crystal for longest are dropped.
    """

    def __init__(self) -> None:
        self._cells: dict[str, list[Cell]] = {}  # the formula with the newest crystal comes last
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, formula: str) -> bool:
        return formula in self._cells

    def cells(self, formula: str) -> list[Cell]:
        """The crystals of this reduced formula, oldest first."""
        return list(self._cells.get(formula, ()))

    def update(self, structures: Sequence[Structure | None], unique: Sequence[bool | None]) -> None:
        """Add the unique crystals of a step.

        Args:
            structures: of the whole step, from all ranks; the order makes no difference.
            unique: whether each is unique, from `find_duplicates` with this memory.
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
        """The memory as tensors for `load`: M crystals with A atoms in all, numbers (A,), frac_coords (A, 3), lattice
        (M, 3, 3) Å, num_atoms (M,)."""
        cells = [cell for of_formula in self._cells.values() for cell in of_formula]
        return {
            "numbers": _joined([torch.from_numpy(c.numbers) for c in cells], torch.zeros(0, dtype=torch.uint8)),
            "frac_coords": _joined([torch.from_numpy(c.frac_coords) for c in cells], torch.zeros(0, 3).double()),
            "lattice": _joined([torch.from_numpy(c.lattice)[None] for c in cells], torch.zeros(0, 3, 3).double()),
            "num_atoms": torch.tensor([len(c.numbers) for c in cells], dtype=torch.int64),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Replace the content of the memory with that of `state`."""
        self._cells, self._count = {}, 0
        for cell in _split(state):
            self._remember(reduced_formula(tuple(cell.numbers.tolist())), cell)


def find_novel(
    structures: Sequence[Structure | None], reference: Known, settings: Matching = DEFAULT_MATCHING
) -> Novelty:
    """Compare canonical crystals (None if there is none) with a reference set."""
    found = matching.matches(structures, reference, settings)
    return Novelty([None if s is None else cells for s, cells in zip(structures, found, strict=True)])


def creativity(
    structures: Sequence[Structure | None],
    uniqueness: Uniqueness,
    novelty: Novelty,
    settings: Matching = DEFAULT_MATCHING,
) -> list[float]:
    """Creativity of each crystal of a batch, after Chemeleon2 (Park & Walsh 2025, arXiv:2511.07158), but with the
    displacement of StructureMatcher as the distance, and within [0, 1].

    A crystal is unique if it is the representative of its matcher group and no crystal of the group matches one in
    memory, so a batch of ten copies has one unique crystal. It is novel if it matches no crystal of the reference.

    A crystal that is both gets 1 and one that is neither gets 0. One that is only unique or only novel gets d / stol,
    at most `CAP`, where d is the smallest root mean square displacement from its originals: the matching crystals of
    the reference if it is unique; else those in memory, the representative of its group, and its neighbours in the
    group. The matcher rescales volumes, so a copy with another volume gets 0 within rounding.

    Args:
        structures: B canonical crystals; None if there is none.
        uniqueness: of these crystals.
        novelty: of these crystals.
        settings: tolerances.

    Returns:
        (B), NaN if unknown.
    """
    groups, unique, novel = uniqueness.groups, uniqueness.unique, novelty.novel
    representative = {groups[i]: i for i, stands in enumerate(uniqueness.representatives) if stands}
    pairs: list[tuple[Structure, Structure | None]] = []
    rows: list[int] = []  # of the copy in each pair
    for i, structure in enumerate(structures):
        originals: list[Structure] = []
        if (unique[i], novel[i]) == (True, False):
            originals = [cell.structure() for cell in novelty.matches[i] or []]
        elif (unique[i], novel[i]) == (False, True):
            same = {representative.get(groups[i], i), *uniqueness.neighbours[i]} - {i}
            originals = [cell.structure() for cell in uniqueness.earlier[i] or []] + [
                s for k in sorted(same) if (s := structures[k])
            ]
        pairs += [(original, structure) for original in originals]
        rows += [i] * len(originals)
    distances: dict[int, list[float]] = defaultdict(list)
    for i, distance in zip(rows, matching.rms_pairs(pairs, settings), strict=True):
        distances[i].append(math.inf if distance is None else distance)
    return [_value(unique[i], novel[i], distances[i], settings.stol) for i in range(len(structures))]


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
