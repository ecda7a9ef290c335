"""What a generator can be asked for: a property, a class, elements, a composition, a space group, oxidation states.

Imports `data`. Begin with `base.py`, which says what a condition is; each kind is one class in a file of its own, and
`kinds.py` lists them. `requests.py` turns what a user asks for into the tensors that a network reads.
"""
