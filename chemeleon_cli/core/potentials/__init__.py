"""Machine-learned interatomic potentials: the energies of crystals, and their relaxation.

Imports `data`. Begin with `base.py` (what a potential is) and `loading.py` (all of them by name). Another potential is
one file beside `chgnet.py` and one line in `loading.POTENTIALS`; `check.check_potential` tests it (docs/extending.md).
"""
