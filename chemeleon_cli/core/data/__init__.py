"""Crystals: as batches of tensors, in CIF and in tables, and what can be a crystal at all.

Imports no other room. Begin with `crystals.py`, the one representation that every model and file reader shares.
"""
