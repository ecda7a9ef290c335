"""A reward of your own: how close a crystal comes to a number of atoms per volume.

Copy this file beside your recipe and change `compute`. It gets all crystals of a step at once and returns a
number for each, more for better. NaN means "no value"; crystals that cannot exist get the lowest reward of
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
            candidates: `each` calls a function of every crystal that can exist, as pymatgen's Structure in its standard
                form; `valid`, `composition_features`, `predict(name)` and more are there too.

        Returns:
            (B,) a number for each crystal, NaN where it cannot exist.
        """
        return candidates.each(lambda structure: -((len(structure) / structure.volume - self.target) ** 2))
