"""Published definitions of S.U.N., by cases that tell them apart."""

import math

import numpy as np
import pytest

from chemeleon_cli.core.scoring.protocols import PROTOCOLS, interval, rates

NAN = math.nan
# on the hull, below, between, on the threshold, above it, unknown, a duplicate, a known one, unknown novelty
ABOVE = [0.0, -0.2, 0.05, 0.1, 0.1000001, NAN, 0.0, 0.05, 0.0]
UNIQUE = [True, True, True, True, True, True, False, True, True]
NOVEL = [True, True, True, True, True, True, True, False, None]


@pytest.mark.parametrize(
    ("name", "sun", "msun"),
    [("Chemeleon2", [0, 1], [0, 1, 2, 3]), ("MatterGen", [0, 1, 2, 3], None), ("LeMat-GenBench", [0, 1], [2, 3])],
)
def test_the_definitions(name: str, sun: list[int], msun: list[int] | None) -> None:
    (protocol,) = (p for p in PROTOCOLS if p.name == name)
    stable, metastable = rates(protocol, UNIQUE, NOVEL, ABOVE)
    assert stable.counted.nonzero()[0].tolist() == sun
    assert stable.share == len(sun) / len(ABOVE)
    assert (metastable and metastable.counted.nonzero()[0].tolist()) == msun
    assert protocol.relaxed == (name == "MatterGen")


def test_of_nothing_there_is_no_share() -> None:
    stable, metastable = rates(PROTOCOLS[0], [], [], [])
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
