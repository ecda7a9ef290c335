"""What is known of generated crystals: unique, novel, energy above hull, features, and the reports made of these.

Imports `training`, `models`, `potentials` and `data`. Begin with `candidates.py`: each fact of a crystal, computed
once; `context.py` is what that takes (models, hull, reference sets).
"""
