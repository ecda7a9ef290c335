"""Duplicates among the crystals of a set, and the share of distinct ones.

Rewards, `score`, the validations of `train-rl` and the reports all use this one result. A matcher group is a connected
component of the crystals that pymatgen's StructureMatcher matches pairwise.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pymatgen.core import Structure

from chemeleon_cli.core.scoring import matching
from chemeleon_cli.core.scoring.comparison import Cell
from chemeleon_cli.core.scoring.matching import Known
from chemeleon_cli.core.scoring.settings import DEFAULT_MATCHING, Matching


@dataclass(frozen=True)
class Uniqueness:
    """The duplicates among B crystals. A crystal without a canonical form, or with a comparison that ran out of time,
    is in no matcher group.

    Attributes:
        groups: (B) number of the matcher group of each crystal, in order of first appearance; -1 for no group.
        neighbours: (B) crystals of the group that each crystal was found to match.
        representatives: (B) whether each crystal is the representative of its group.
        earlier: (B) the crystals of the memory that each crystal matches; None if a comparison ran out of time.
    """

    groups: list[int]
    neighbours: list[list[int]]
    representatives: list[bool]
    earlier: list[list[Cell] | None]

    @property
    def unique(self) -> list[bool | None]:
        """(B) Whether each crystal is the representative of its group and no crystal of the group matches one in
        memory; None if unknown."""
        repeated = {group for group, cells in zip(self.groups, self.earlier, strict=True) if cells}
        return [
            False if cells else None if cells is None or group < 0 else stands and group not in repeated
            for group, stands, cells in zip(self.groups, self.representatives, self.earlier, strict=True)
        ]

    @property
    def sizes(self) -> list[int]:
        """(B) Size of the matcher group of each crystal; 0 for no group."""
        count = Counter(self.groups)
        return [0 if group < 0 else count[group] for group in self.groups]

    @property
    def compared(self) -> int:
        """Number of crystals in a matcher group."""
        return sum(group >= 0 for group in self.groups)

    @property
    def group_count(self) -> int:
        """Number of matcher groups, which is the number of distinct crystals."""
        return len({group for group in self.groups if group >= 0})

    @property
    def unique_of_valid(self) -> float:
        """Matcher groups per valid crystal that could be compared; NaN if there are none."""
        return share(self.group_count, self.compared)

    @property
    def unique_of_all(self) -> float:
        """Matcher groups per crystal, including impossible ones; NaN if there are no crystals."""
        return share(self.group_count, len(self.groups))


def find_duplicates(
    structures: Sequence[Structure | None],
    memory: Known | None = None,
    energies: Sequence[float] | None = None,
    settings: Matching = DEFAULT_MATCHING,
) -> Uniqueness:
    """Compare crystals with each other, and with those that a run generated earlier.

    Args:
        structures: B canonical crystals; None if there is none.
        memory: the crystals that the run generated earlier, which is not changed; None for none.
        energies: eV/atom, NaN if there is none; the crystal of lowest energy is the representative of its group.
        settings: tolerances.
    """
    groups, neighbours = matching.matcher_groups(structures, settings)
    earlier: list[list[Cell] | None] = [[] for _ in structures]
    if memory is not None:
        earlier = matching.matches(structures, memory, settings)
    return Uniqueness(groups, neighbours, representatives(structures, groups, energies), earlier)


def representatives(
    structures: Sequence[Structure | None], groups: Sequence[int], energies: Sequence[float] | None = None
) -> list[bool]:
    """Whether each crystal is the representative of its matcher group: the one of lowest energy, else of lowest hash.

    Args:
        structures: in canonical form, so that equal crystals have equal hashes.
        groups: from `matching.matcher_groups`.
        energies: eV/atom of each crystal, NaN if it has none; None if there are no energies.
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


def share(part: float, whole: float) -> float:
    """part / whole; NaN if whole is 0."""
    return part / whole if whole else math.nan
