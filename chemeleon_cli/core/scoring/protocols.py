"""Published definitions of the share of stable, unique and novel crystals (S.U.N.), side by side.

They differ in whether crystals are relaxed first, in how far above the hull a stable (S.U.N.) and a metastable
(M.S.U.N.) crystal may lie, in whether a stable crystal also counts as metastable, in whether impossible crystals are in
the denominator, and in which crystals are searched for duplicates. A crystal without an energy above the hull (because
the hull is sparse or the potential fails) is never stable.

Only the definitions are those of the papers: potential, hull, reference set, matcher and the test for impossible
crystals are the caller's. The rates are therefore comparable with each other, and with those of a paper only as far as
these agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chemeleon_cli.core.scoring.uniqueness import Uniqueness, share

RESAMPLED = 10_000
"""Number of bootstrap samples."""


@dataclass(frozen=True)
class Protocol:
    """The definition of one paper.

    Attributes:
        name: of the model or benchmark.
        source: the paper.
        relaxed: whether crystals are relaxed before they are compared and their energies computed.
        stable: largest energy above the hull, eV/atom, of a stable crystal.
        metastable: largest energy above the hull, eV/atom, of a metastable crystal; None if the paper defines none.
        apart: whether stable crystals are excluded from the metastable ones.
        of_valid: whether rates are shares of the valid crystals instead of all generated ones.
        within_sets: whether duplicates are searched among the stable and among the metastable crystals separately, and
            the first in the file counts; else they are searched among all crystals, and the representative counts.
    """

    name: str
    source: str
    relaxed: bool
    stable: float
    metastable: float | None
    apart: bool = False
    of_valid: bool = False
    within_sets: bool = False


PROTOCOLS = (
    Protocol("Chemeleon2", "Park & Walsh 2025, arXiv:2511.07158", False, 0.0, 0.1),
    Protocol("MatterGen", "Zeni et al. 2025, Nature 639, 624", True, 0.1, None),
    Protocol("LeMat-GenBench", "LeMat-GenBench 2025, arXiv:2512.04562", False, 0.0, 0.1, True, True, True),
)


@dataclass(frozen=True)
class Rate:
    """A share of crystals.

    Attributes:
        counted: (B,) bool, the crystals that meet the definition.
        measured: (B,) bool, the crystals for which all that the definition needs is known. The others are not counted,
            so the share is a lower bound.
        of: number of crystals in the denominator.
        low: lower end of the 95 % bootstrap interval of the share.
        high: upper end.
    """

    counted: np.ndarray
    measured: np.ndarray
    of: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """Counted crystals over `of`; NaN if `of` is 0."""
        return share(int(self.counted.sum()), self.of)


def rates(
    protocol: Protocol,
    valid: Sequence[bool],
    uniqueness: Uniqueness,
    novel: Sequence[bool | None],
    e_above_hull: Sequence[float],
) -> tuple[Rate, Rate | None]:
    """S.U.N. and M.S.U.N. rates of B crystals, which the caller has relaxed if the protocol says so.

    Args:
        protocol: the definition.
        valid: whether each crystal is possible.
        uniqueness: the duplicates among them.
        novel: whether each crystal is novel; None if unknown, which does not count.
        e_above_hull: eV/atom; NaN if there is none, which does not count.
    """
    above = np.asarray(e_above_hull, float)
    unknown = [u is None or v is None for u, v in zip(uniqueness.unique, novel, strict=True)]
    measured = np.isfinite(above) & ~np.array(unknown, bool)
    of = sum(valid) if protocol.of_valid else len(valid)

    def rate(among: np.ndarray) -> Rate:
        unique = _first_of_each(uniqueness.groups, among) if protocol.within_sets else uniqueness.unique
        counted = among & np.array([u is True and v is True for u, v in zip(unique, novel, strict=True)], bool)
        return Rate(counted, measured, of, *interval(share(int(counted.sum()), of), of))

    stable = above <= protocol.stable
    if protocol.metastable is None:
        return rate(stable), None
    return rate(stable), rate((above <= protocol.metastable) & ~(stable & protocol.apart))


def interval(share: float, n: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a share of n crystals (Efron 1979).

    Crystals are resampled together with their result, so the share of a resample is binomial and is sampled as such.
    The interval ignores that other crystals would have other duplicates.
    """
    if not n:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(0).binomial(n, share, RESAMPLED) / n
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def _first_of_each(groups: Sequence[int], among: np.ndarray) -> list[bool]:
    """Whether each crystal is the first of its matcher group among the crystals that are True in `among`."""
    seen = {-1}  # -1 marks crystals in no group
    first = []
    for group, wanted in zip(groups, among.tolist(), strict=True):
        first.append(wanted and group not in seen)
        if wanted:
            seen.add(group)
    return first
