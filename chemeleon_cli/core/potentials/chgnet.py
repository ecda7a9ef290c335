"""CHGNet 0.3.0 (Deng et al., Nature Machine Intelligence 5, 1031, 2023); its weights come with its package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chemeleon_cli.core.potentials.base import CalculatorPotential, quietly

if TYPE_CHECKING:
    from pymatgen.core import Structure

ELEMENTS = frozenset(range(1, 95)) - {84, 85, 86, 87, 88}
"""The 89 elements of its training data (MPtrj). Its tables hold Po to Ra too, which are not in these data."""


class Chgnet(CalculatorPotential):
    """CHGNet, in float32. A crystal with an atom that has no neighbour within 6 Å has no energy.

    Args:
        name: see `base.Potential`, as for the following.
        energy_scale: of its training data.
        device: as torch names it.
    """

    def __init__(self, name: str, energy_scale: str, device: str = "cpu") -> None:
        with quietly():
            from chgnet.model.dynamics import CHGNetCalculator
            from chgnet.model.model import CHGNet

            model = CHGNet.load(use_device=device, verbose=False)
            calculator = CHGNetCalculator(model, use_device=device, on_isolated_atoms="error")
        self._model = model.requires_grad_(False).eval()
        super().__init__(name, energy_scale, device, calculator, ELEMENTS)

    def batch_energies(self, structures: Sequence[Structure]) -> list[float]:
        """Energies of whole cells in one batch, eV, without forces."""
        import torch

        assert self._model.graph_converter is not None, "CHGNet 0.3.0 has one"
        with torch.no_grad():
            graphs = [self._model.graph_converter(s).to(self.device) for s in structures]
            per_atom = self._model(graphs, task="e")["e"].double().tolist()
        return [value * len(structure) for value, structure in zip(per_atom, structures, strict=True)]
