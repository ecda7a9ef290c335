"""Reinforcement learning of a generator. The reward is passed in as a function, so no reward is known here by name.

Imports `scoring` (the scores alone), `training`, `models`, `conditions` and `data`. Begin with `step.py` (rollout,
score, update); `grpo.py` has the formulas.
"""
