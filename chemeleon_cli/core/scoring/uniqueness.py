"""Which crystals of a set are duplicates of each other, and how many are left without them.

The one result that rewards, `score`, the validations of `train-rl` and the reports read. A matcher group is a set of
crystals that pymatgen's StructureMatcher finds to be the same, with all that it finds the same as any of these.
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
    """The duplicates among B crystals. What has no canonical form, or a comparison that ran out of time, is in no
    matcher group.

    Attributes:
        groups: (B) number of each crystal's matcher group, counted in order of first appearance; -1 without one.
        neighbours: (B) the crystals by whose match each came into its group.
        representatives: (B) whether the crystal stands for its group.
        earlier: (B) the crystals of the memory that each matches; None where a comparison ran out of time.
    """

    groups: list[int]
    neighbours: list[list[int]]
    representatives: list[bool]
    earlier: list[list[Cell] | None]

    @property
    def unique(self) -> list[bool | None]:
        """(B) Whether each is the representative of its group, and no crystal of the group matches one in memory; None
        where that is unknown."""
        repeated = {group for group, cells in zip(self.groups, self.earlier, strict=True) if cells}
        return [
            False if cells else None if cells is None or group < 0 else stands and group not in repeated
            for group, stands, cells in zip(self.groups, self.representatives, self.earlier, strict=True)
        ]

    @property
    def sizes(self) -> list[int]:
        """(B) How many crystals each one's matcher group has; 0 without one."""
        count = Counter(self.groups)
        return [0 if group < 0 else count[group] for group in self.groups]

    @property
    def compared(self) -> int:
        """How many crystals are in a matcher group."""
        return sum(group >= 0 for group in self.groups)

    @property
    def group_count(self) -> int:
        """How many matcher groups there are, which is how many different crystals."""
        return len({group for group in self.groups if group >= 0})

    @property
    def unique_of_valid(self) -> float:
        """Matcher groups per valid crystal that could be compared; NaN without any."""
        return share(self.group_count, self.compared)

    @property
    def unique_of_all(self) -> float:
        """Matcher groups per crystal, impossible ones included; NaN of no crystal."""
        return share(self.group_count, len(self.groups))


def find_duplicates(
    structures: Sequence[Structure | None],
    memory: Known | None = None,
    energies: Sequence[float] | None = None,
    settings: Matching = DEFAULT_MATCHING,
) -> Uniqueness:
    """Compare crystals with each other, and with those that a run generated before.

    Args:
        structures: B canonical crystals; None where there is none.
        memory: what the run generated before; it is not changed. None: nothing.
        energies: eV/atom of each, the lowest of which chooses the representative; NaN where there is none.
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
    """Which crystal stands for its matcher group: the one of lowest energy, else of lowest content hash.

    Args:
        structures: in canonical form, so that one crystal has one hash.
        groups: from `matching.matcher_groups`.
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


def share(part: float, whole: float) -> float:
    """part / whole, NaN of nothing."""
    return part / whole if whole else math.nan
