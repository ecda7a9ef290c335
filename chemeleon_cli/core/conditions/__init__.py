"""What a generator can be asked for: a property, elements, a composition, a space group, oxidation states.

Imports `data`, and from `models` the small networks of `layers`. Begin with `conditions.py`.
"""
