"""Conditions of a generator: a property, a class, elements, a composition, a space group, oxidation states.

Imports `data`. Begin with `base.py`, the base class; each kind of condition is one class in its own file, and
`kinds.py` lists them. `requests.py` encodes the requests of a user as tensors for a network.
"""
