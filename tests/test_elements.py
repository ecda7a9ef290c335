"""Element properties and their statistics over a composition."""

import numpy as np
import pytest
import torch
from pymatgen.core import Element

from chemeleon_cli.core.data.elements import PROPERTIES, composition_statistics, element_table
from chemeleon_cli.core.data.limits import MAX_Z


def test_the_table_is_that_of_pymatgen_standardised():
    table = element_table()
    assert table.shape == (MAX_Z + 1, len(PROPERTIES))
    assert (table[0] == 0).all()
    assert table.isfinite().all()
    raw = np.array([Element.from_Z(z).group for z in range(1, MAX_Z + 1)], float)
    assert np.allclose(table[1:, PROPERTIES.index("group")], (raw - raw.mean()) / raw.std(), atol=1e-5)


@pytest.mark.parametrize(("symbol", "counts"), [("Na", "1000"), ("O", "2400"), ("Fe", "2060"), ("Eu", "2007")])
def test_valence_electrons(symbol: str, counts: str):
    table = element_table()
    shells = [PROPERTIES.index(f"valence_{k}") for k in "spdf"]
    levels = [table[1:, c].unique() for c in shells]  # 0, 1, 2, ... electrons, as every number of them occurs
    found = [
        int((known == value).nonzero()) for known, value in zip(levels, table[Element(symbol).Z, shells], strict=True)
    ]
    assert found == [int(c) for c in counts]


def test_statistics_equal_a_loop_and_ignore_padding():
    table = element_table()
    compositions = [[11, 17], [8, 8, 8, 22, 38], [14]]
    numbers = torch.zeros(3, 7, dtype=torch.int64)
    for b, atoms in enumerate(compositions):
        numbers[b, : len(atoms)] = torch.tensor(atoms)
    got = composition_statistics(table, numbers)
    for b, atoms in enumerate(compositions):
        values = table[atoms].numpy()
        mean = values.mean(0)
        wanted = [mean, np.abs(values - mean).mean(0), values.min(0), values.max(0)]
        assert np.allclose(got[b], np.concatenate(wanted), atol=1e-6)
