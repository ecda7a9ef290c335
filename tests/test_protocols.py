"""Published definitions of S.U.N., by cases that tell them apart."""

import math

import numpy as np
import pytest

from chemeleon_cli.core.scoring.protocols import PROTOCOLS, interval, rates
from chemeleon_cli.core.scoring.uniqueness import Uniqueness

NAN = math.nan
# on the hull, below, between, on the threshold, above it, unknown, a duplicate, a known one, unknown novelty,
# impossible
ABOVE = [0.0, -0.2, 0.05, 0.1, 0.1000001, NAN, 0.0, 0.05, 0.0, NAN]
GROUPS = [0, 1, 2, 3, 4, 5, 0, 6, 7, -1]
UNIQUE = Uniqueness(GROUPS, [[]] * 10, [True] * 6 + [False, True, True, False], [[]] * 10)
VALID = [True] * 9 + [False]
NOVEL = [True, True, True, True, True, True, True, False, None, None]


@pytest.mark.parametrize(
    ("name", "sun", "msun"),
    [("Chemeleon2", [0, 1], [0, 1, 2, 3]), ("MatterGen", [0, 1, 2, 3], None), ("LeMat-GenBench", [0, 1], [2, 3])],
)
def test_the_definitions(name: str, sun: list[int], msun: list[int] | None) -> None:
    (protocol,) = (p for p in PROTOCOLS if p.name == name)
    stable, metastable = rates(protocol, VALID, UNIQUE, NOVEL, ABOVE)
    assert stable.counted.nonzero()[0].tolist() == sun
    assert stable.share == len(sun) / (9 if name == "LeMat-GenBench" else 10)
    assert (metastable and metastable.counted.nonzero()[0].tolist()) == msun
    assert protocol.relaxed == (name == "MatterGen")
    assert stable.measured.nonzero()[0].tolist() == [0, 1, 2, 3, 4, 6, 7], "energy, unique and novel are known of these"


def test_duplicates_of_which_one_is_stable_and_one_metastable() -> None:
    """LeMat-GenBench looks for duplicates within each of the two sets, the others among all crystals."""
    above, groups = [0.05, -0.1, 0.04, -0.2], [0, 0, 0, 0]
    all_ = Uniqueness(groups, [[]] * 4, [False, False, False, True], [[]] * 4)
    found = {p.name: rates(p, [True] * 4, all_, [True] * 4, above) for p in PROTOCOLS}
    counted = {n: [r and r.counted.nonzero()[0].tolist() for r in both] for n, both in found.items()}
    assert counted == {"Chemeleon2": [[3], [3]], "MatterGen": [[3], None], "LeMat-GenBench": [[1], [0]]}


def test_of_nothing_there_is_no_share() -> None:
    stable, metastable = rates(PROTOCOLS[0], [], Uniqueness([], [], [], []), [], [])
    assert math.isnan(stable.share)
    assert metastable is not None
    assert math.isnan(metastable.low)
    assert math.isnan(metastable.high)


@pytest.mark.parametrize(("share", "n"), [(0.07, 1000), (0.5, 200), (0.9, 40)])
def test_the_interval_is_that_of_resampled_crystals(share: float, n: int) -> None:
    found = np.arange(n) < round(share * n)
    rng = np.random.default_rng(1)
    means = [rng.choice(found, n).mean() for _ in range(4000)]
    assert interval(found.mean(), n) == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist(), abs=1.5 / n)
    assert interval(0.0, n) == (0.0, 0.0)
