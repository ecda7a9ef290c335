"""Published definitions of how many crystals are stable, unique and novel (S.U.N.), side by side.

They differ in whether crystals are relaxed first, in how far above the hull a stable (S.U.N.) and a metastable
(M.S.U.N.) crystal may lie, in whether a stable one is metastable too, in whether impossible crystals are in the
denominator, and in which crystals are searched for duplicates. What has no energy above the hull (a hull that is sparse
there, a potential that is not to be believed) is never stable.

The definitions only: potential, hull, reference set, matcher and the test for impossible crystals are those of the
caller, not those of the papers. So the numbers compare with each other, and with a paper's only as far as these agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chemeleon_cli.core.scoring.uniqueness import Uniqueness, share

RESAMPLED = 10_000
"""Bootstrap samples."""


@dataclass(frozen=True)
class Protocol:
    """One paper's definition.

    Attributes:
        name: of the system that it is from.
        source: the paper.
        relaxed: whether crystals are relaxed before they are compared and measured; else they are taken as given.
        stable: eV/atom above the hull up to which, inclusive, a crystal is stable.
        metastable: eV/atom up to which, inclusive, it is metastable; None: the paper has no such number.
        apart: a stable crystal is not metastable too.
        of_valid: shares are of the valid crystals; else of all that were generated.
        within_sets: duplicates are looked for among the stable crystals and among the metastable ones, and the first of
            the file counts; else among all crystals, and the representative counts.
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
        counted: (B,) bool, which ones.
        measured: (B,) bool, of which ones all is known that the definition asks for; the others are not counted, so the
            share is the least that it can be.
        of: how many crystals it is a share of.
        low: end of the 95 % bootstrap interval of the share.
        high: the other end.
    """

    counted: np.ndarray
    measured: np.ndarray
    of: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """NaN of none."""
        return share(int(self.counted.sum()), self.of)


def rates(
    protocol: Protocol,
    valid: Sequence[bool],
    uniqueness: Uniqueness,
    novel: Sequence[bool | None],
    e_above_hull: Sequence[float],
) -> tuple[Rate, Rate | None]:
    """S.U.N. and M.S.U.N. of B crystals, relaxed or not as the protocol has it.

    Args:
        protocol: the definition.
        valid: whether each can be a crystal at all.
        uniqueness: the duplicates among them.
        novel: whether each is new; None where unknown, which does not count.
        e_above_hull: eV/atom, NaN where there is none, which does not count.
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

    Crystals are resampled with what was found of each. A resample's share is then binomial, so it is drawn as such.
    What the interval does not hold: that other crystals would have other duplicates.
    """
    if not n:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(0).binomial(n, share, RESAMPLED) / n
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def _first_of_each(groups: Sequence[int], among: np.ndarray) -> list[bool]:
    """Whether each crystal is the first of its matcher group among some crystals."""
    seen = {-1}  # the number of what is in no group
    first = []
    for group, wanted in zip(groups, among.tolist(), strict=True):
        first.append(wanted and group not in seen)
        if wanted:
            seen.add(group)
    return first
