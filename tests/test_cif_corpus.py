"""No CIF is silently read as another crystal: texts of every setting of every space group, in every common form."""

import gemmi
import numpy as np
import pytest
from cif_corpus import LOST, WRONG, Tally, cases, own_reader, table
from cif_truth import SETTINGS, crystal, seeded, setting, squeezed

# Axes of every monoclinic kind, a setting of an e group, both origins, both axes of R, a screw axis, a cubic group.
QUICK = (12, 77, 82, 87, 294, 317, 409, 433, 434, 442, 496)


def assert_read_right(hall_numbers: range | tuple[int, ...]) -> None:
    tally = Tally()
    for case in cases(hall_numbers):
        tally.add(case, own_reader)
    print("\n" + table({"chemeleon": tally}))
    first = "\n".join(f"# {case.kind}: {made}\n{case.text}" for case, made in tally.failures[:3])
    assert tally.count(WRONG) == 0, f"{tally.count(WRONG)} texts are read as something else, first\n{first}"
    assert tally.count(LOST) == 0, f"{tally.count(LOST)} clear texts are refused, first\n{first}"


def test_some_settings_are_read_as_they_are_or_refused() -> None:
    assert_read_right(QUICK)


@pytest.mark.slow
def test_all_settings_are_read_as_they_are_or_refused() -> None:
    assert_read_right(SETTINGS)


def test_the_operations_of_the_truth_are_those_of_another_table() -> None:
    for one in map(setting, SETTINGS):
        other = [(np.array(o.rot) // 24, np.array(o.tran)) for o in gemmi.symops_from_hall(one.hall)]
        ours = zip(one.rotations, np.rint(24 * one.translations).astype(int) % 24, strict=True)
        key = sorted((r.ravel().tolist(), (t % 24).tolist()) for r, t in other)
        assert sorted((r.ravel().tolist(), t.tolist()) for r, t in ours) == key, one.hall
        found = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(one.hall))
        assert found is not None and found.number == one.number
        if one.code not in ("1ba-c", "1-cba", "1a-cb"):  # group 68, origin 1: the same operations for two symbols
            assert squeezed(found.hm) in map(squeezed, (one.short, one.full, one.old))


def test_the_crystals_of_the_truth_have_the_space_group_of_their_setting() -> None:
    for hall_number in seeded("groups").choice(SETTINGS, 40, replace=False).tolist():
        assert crystal(hall_number, special=False).group_number() == setting(hall_number).number
