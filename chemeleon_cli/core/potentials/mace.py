"""MACE (Batatia et al., NeurIPS 2022, arXiv:2206.07697), from a model file or as a foundation model by name.

Loading a MACE file executes code in it, since mace-torch stores whole Python objects: load only files that you trust.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import pickle
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemeleon_cli.core.potentials.base import CalculatorPotential, first_line, quietly, to_atoms
from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from pymatgen.core import Structure


class Mace(CalculatorPotential):
    """A MACE model, in float32.

    Args:
        name: see `base.Potential`, as for the following.
        energy_scale: of its training data.
        device: as torch names it.
        path: the `.model` file that mace-torch has written.

    Raises:
        UserError: the file is not a MACE model of energies, or it has several heads and none is the default.
    """

    def __init__(self, name: str, energy_scale: str, device: str, path: Path) -> None:
        with quietly():
            from mace.calculators import MACECalculator

            model = _read(path, device)
            heads = [str(head) for head in getattr(model, "heads", None) or ["Default"]]
            if len(heads) > 1 and "default" not in {head.lower() for head in heads}:
                raise UserError(
                    f"{path}: this MACE model has the heads {', '.join(heads)}, and none of them is the default",
                    "name a model with one head",
                )
            self._model = model.float().requires_grad_(False).eval()
            calculator = MACECalculator(models=[self._model], device=device, default_dtype="float32")
        self._path = path
        super().__init__(name, energy_scale, device, calculator, frozenset(int(z) for z in calculator.z_table.zs))

    def __reduce__(self) -> tuple[Any, ...]:
        return Mace, (self.name, self.energy_scale, self.device, self._path)

    def batch_energies(self, structures: Sequence[Structure]) -> list[float]:
        """Energies of whole cells in one batch, eV, without forces."""
        import torch
        from mace.data import AtomicData, config_from_atoms
        from mace.tools.torch_geometric.batch import Batch

        calculator: Any = self.calculator
        graphs = [
            AtomicData.from_config(
                config_from_atoms(to_atoms(structure), head_name=calculator.head),
                z_table=calculator.z_table,
                cutoff=calculator.r_max,
                heads=calculator.available_heads,
            )
            for structure in structures
        ]
        batch = Batch.from_data_list(graphs).to(self.device)
        with torch.no_grad():
            return self._model(batch.to_dict(), compute_force=False)["energy"].double().tolist()


def load_file(name: str, energy_scale: str, device: str) -> Mace:
    """The model in a file.

    Args:
        name: the path of the file, as a person wrote it.
        energy_scale: of its training data.
        device: as torch names it.

    Raises:
        UserError: the file is not a MACE model.
    """
    path = Path(name).expanduser()
    flaw = _flaw(path)
    if flaw is not None:
        raise UserError(f"{path}: this is {flaw}, not a MACE model", "name a .model file that mace-torch has written")
    return Mace(name, energy_scale, device, path)


def load_foundation(name: str, energy_scale: str, device: str) -> Mace:
    """One of the models that mace-torch knows by name, downloaded into mace-torch's own cache on first use.

    Raises:
        UserError: it cannot be downloaded; no broken file is left in the cache.
    """
    return Mace(name, energy_scale, device, _foundation_file(name, energy_scale))


def _foundation_file(name: str, energy_scale: str) -> Path:
    """The file of a foundation model in mace-torch's cache, downloaded if it is missing or broken."""
    with quietly():
        from mace.calculators import foundations_models
        from mace.tools.utils import get_cache_dir
    url = foundations_models.mace_mp_urls[name]
    cached = Path(get_cache_dir()) / "".join(c for c in url.rsplit("/", 1)[-1] if c.isalnum() or c == "_")
    if cached.is_file() and _flaw(cached) is not None:
        cached.unlink()
    path, flaw = cached, None
    try:
        with contextlib.redirect_stdout(io.StringIO() if cached.is_file() else sys.stderr):
            path = Path(foundations_models.download_mace_mp_checkpoint(name))
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        flaw = first_line(error)
    if path.is_file():  # mace-torch may leave a partial download behind when it raises
        flaw = _flaw(path)
        if flaw is None:
            return path
        cached.unlink(missing_ok=True)
        flaw = f"the download is {flaw}"
    raise UserError(
        f"the MACE model {name} could not be downloaded from {url}: {flaw}",
        f"download it elsewhere and save it as {cached}, "
        f"or give its path instead of {name}, with energy_scale {energy_scale}",
    )


def _flaw(path: Path) -> str | None:
    """What a file is if it is not a complete torch file, which is a ZIP archive."""
    if zipfile.is_zipfile(path):
        return None
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if head.startswith(b"<"):
        return "a web page"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer"
    return "a part of a file, or no torch file" if head else "empty"


def _read(path: Path, device: str) -> Any:
    import torch

    hint = "name a .model file that mace-torch has written"
    try:
        model = torch.load(path, map_location=device, weights_only=False)
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: this is not a MACE model: {first_line(error)}", hint) from error
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{path}: this model needs code that is not installed: {first_line(error)}",
            "it may want another version of mace-torch",
        ) from error
    if not (isinstance(model, torch.nn.Module) and hasattr(model, "r_max") and hasattr(model, "atomic_energies_fn")):
        raise UserError(f"{path}: this is a {type(model).__name__}, not a MACE model of energies", hint)
    return model
