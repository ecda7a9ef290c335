"""Crystals as batches of tensors, in CIF files and in tables, and checks of whether a crystal is possible.

Imports no other room. Begin with `crystals.py`, the representation that all models and file readers share.
"""
