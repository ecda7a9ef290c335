"""Reinforcement learning of a generator. The reward is a function that it is given: it knows none by name.

Imports `training`, `models`, `conditions` and `data`. Begin with `step.py` (rollout, score, update); `grpo.py` has
the formulas.
"""
