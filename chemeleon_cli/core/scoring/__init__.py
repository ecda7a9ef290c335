"""Evaluation of generated crystals: uniqueness, novelty, energy above the hull, features, and reports on them.

Imports `training`, `models`, `potentials` and `data`. Begin with `candidates.py`, which computes each fact about a
crystal once; `context.py` holds what that needs (models, hull, reference sets), and `loading.py` loads it.
"""
