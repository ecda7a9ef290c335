"""Published definitions of how many crystals are stable, unique and novel (S.U.N.), side by side.

They differ in three things: whether crystals are relaxed first, how far above the hull a stable (S.U.N.) and a
metastable (M.S.U.N.) crystal may lie, and whether a stable one is metastable too. In all of them the share is of all
crystals that were generated, the impossible ones included, and of a group of duplicates one counts. What has no energy
above the hull (a hull that is sparse there, a potential that is not to be believed) is never stable.

The definitions only: potential, hull, reference set and matcher are those that the caller took, which are not those of
the papers. So the numbers compare with each other, and with a paper's only as far as these agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
    """

    name: str
    source: str
    relaxed: bool
    stable: float
    metastable: float | None
    apart: bool = False


PROTOCOLS = (
    Protocol("Chemeleon2", "Park & Walsh 2025, arXiv:2511.07158", False, 0.0, 0.1),
    Protocol("MatterGen", "Zeni et al. 2025, Nature 639, 624", True, 0.1, None),
    Protocol("LeMat-GenBench", "LeMat-GenBench 2025, arXiv:2512.04562", False, 0.0, 0.1, apart=True),
)


@dataclass(frozen=True)
class Rate:
    """A share of crystals.

    Attributes:
        counted: (n,) bool, which ones.
        low: end of the 95 % bootstrap interval of the share.
        high: the other end.
    """

    counted: np.ndarray
    low: float
    high: float

    @property
    def share(self) -> float:
        """Of all; NaN of none."""
        return float(self.counted.mean()) if len(self.counted) else float("nan")


def rates(
    protocol: Protocol,
    unique: Sequence[bool | None],
    novel: Sequence[bool | None],
    e_above_hull: Sequence[float],
) -> tuple[Rate, Rate | None]:
    """S.U.N. and M.S.U.N. of n crystals, relaxed or not as the protocol has it.

    Args:
        protocol: the definition.
        unique: whether each stands for its group of duplicates; None where unknown, which does not count.
        novel: whether each is new; None where unknown, which does not count.
        e_above_hull: eV/atom, NaN where there is none, which does not count.
    """
    new = np.array([u is True and v is True for u, v in zip(unique, novel, strict=True)], bool)
    above = np.asarray(e_above_hull, float)
    stable = above <= protocol.stable
    if protocol.metastable is None:
        return _rate(new & stable), None
    metastable = (above <= protocol.metastable) & ~(stable & protocol.apart)
    return _rate(new & stable), _rate(new & metastable)


def interval(share: float, n: int, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a share of n crystals (Efron 1979).

    Crystals are resampled with what was found of each. A resample's share is then binomial, so it is drawn as such.
    What the interval does not hold: that other crystals would have other duplicates.
    """
    if not n:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(seed).binomial(n, share, RESAMPLED) / n
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def _rate(counted: np.ndarray) -> Rate:
    return Rate(counted, *interval(float(counted.mean()) if len(counted) else 0.0, len(counted)))
