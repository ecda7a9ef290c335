"""Machine-learned interatomic potentials (CHGNet, MACE): energies and relaxation of crystals.

Imports `data`. Begin with `energy.py`: the protocol of a potential, and how one is loaded by name.
"""
