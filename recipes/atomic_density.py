"""A reward of your own: how close a crystal comes to a number of atoms per volume.

Copy this file beside your recipe and change `compute`. It gets all crystals of a step at once and returns a
number for each, more for better. NaN says "no number"; crystals that cannot exist get the lowest reward of
their group whatever is returned here.
"""

import torch

from chemeleon_cli.core.scoring.candidates import Candidates


class AtomicDensity:
    """-(atoms per volume - target)^2, in Å^-6.

    Args:
        target: the number of atoms per Å^3 that is wanted.
    """

    def __init__(self, target: float) -> None:
        self.target = target

    def compute(self, candidates: Candidates) -> torch.Tensor:
        """The reward of each crystal.

        Args:
            candidates: `structures` are pymatgen's (None where there is none) and `valid` says which can exist;
                `composition_features`, `predict(name)` and more are there too.

        Returns:
            (B,) a number for each crystal, NaN where it cannot exist.
        """
        rewards = torch.full((len(candidates),), float("nan"))
        for index, structure in enumerate(candidates.structures):
            if structure is not None and candidates.valid[index]:
                rewards[index] = -((len(structure) / structure.volume - self.target) ** 2)
        return rewards
