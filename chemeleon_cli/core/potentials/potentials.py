"""CHGNet and MACE: energies of many crystals at once, forces only where they are relaxed."""

from __future__ import annotations

import contextlib
import io
import math
import os
import pickle
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from chemeleon_cli.core.potentials.relaxation import FAILURES, Relaxed, first_line, relax, to_atoms
from chemeleon_cli.errors import UserError

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator
    from pymatgen.core import Structure

BATCH_ATOMS = 100
"""Atoms in a batch until a big call has shown what is fastest."""
MEASURED_FROM = 192
"""Crystals in a call from which the few seconds of measuring are repaid."""
SIZES = (1, 8, 24, 96)
"""Crystals in a batch that are tried, up to an eighth of the call."""
UNSEEN = frozenset({84, 85, 86, 87, 88})
"""Po to Ra: in CHGNet's tables, but not in the data that it was trained on (MPtrj, 89 elements up to Pu)."""
Dtype = Literal["float32", "float64"]


@dataclass(frozen=True)
class Energy:
    """The energy of a crystal, or why there is none.

    Attributes:
        value: of the whole cell, eV, NaN where there is none.
        problem: why not, or None.
    """

    value: float
    problem: str | None = None


class Potential(ABC):
    """What both backends share; see `energy.EnergyModel`.

    Pickled as what it was made from, so that each process loads its own.

    Attributes:
        name: as the recipe has it.
        energy_scale: which energies it was fitted to.
        device: where it computes.
        calculator: the backend's own for ASE.
        elements: atomic numbers that it was trained on.
        batch_atoms: atoms in a batch; None until measured.
    """

    def __init__(
        self, name: str, energy_scale: str, device: str, calculator: Calculator, elements: frozenset[int]
    ) -> None:
        self.name = name
        self.energy_scale = energy_scale
        self.device = device
        self.calculator = calculator
        self.elements = elements
        self.batch_atoms: int | None = None

    @abstractmethod
    def _evaluate(self, structures: Sequence[Structure]) -> list[float]:
        """Energies of whole cells in one batch, eV."""

    def energies(self, structures: Sequence[Structure]) -> list[Energy]:
        """Energies without relaxation, one for each structure, in order; see `energy.EnergyModel`."""
        found: dict[int, Energy] = {}
        rows = []
        for i, structure in enumerate(structures):
            reason = self._unfit(structure)
            if reason is None:
                rows.append(i)
            else:
                found[i] = Energy(math.nan, reason)
        rows.sort(key=lambda i: len(structures[i]))
        if self.batch_atoms is None and len(rows) >= MEASURED_FROM:
            self.batch_atoms = fastest([structures[i] for i in rows], self._batch)
        for batch in batches(rows, [len(structures[i]) for i in rows], self.batch_atoms or BATCH_ATOMS):
            found.update(zip(batch, self._batch([structures[i] for i in batch]), strict=True))
        return [found[i] for i in range(len(structures))]

    def relax(
        self,
        structures: Sequence[Structure],
        fmax: float,
        steps: int,
        seconds: float = 300.0,
        processes: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Relaxed]:
        """Relax cell and positions; see `relaxation.relax`. An element that it was not trained on is a problem."""
        unfit = {i: reason for i, s in enumerate(structures) if (reason := self._unfit(s)) is not None}
        fit = [s for i, s in enumerate(structures) if i not in unfit]
        relaxed = iter(relax(self, fit, fmax, steps, seconds, processes, progress))
        return [
            Relaxed(None, math.nan, math.nan, 0, False, unfit[i]) if i in unfit else next(relaxed)
            for i in range(len(structures))
        ]

    def _unfit(self, structure: Structure) -> str | None:
        from chemeleon_cli.core.data.validity import problem

        reason = problem(structure)
        if reason is None:
            unknown = sorted({site.specie.symbol for site in structure if site.specie.Z not in self.elements})
            reason = f"{self.name} was not trained on {', '.join(unknown)}" if unknown else None
        return reason

    def _batch(self, structures: Sequence[Structure]) -> list[Energy]:
        """One batch; where it fails, its halves, so that only crystals that fail alone have no energy."""
        try:
            values = self._evaluate(structures)
        except FAILURES as error:
            if len(structures) == 1:
                return [Energy(math.nan, first_line(error))]
            half = len(structures) // 2
            return self._batch(structures[:half]) + self._batch(structures[half:])
        return [Energy(v) if math.isfinite(v) else Energy(math.nan, "the energy is not finite") for v in values]


class Chgnet(Potential):
    """CHGNet 0.3.0 (Deng et al., Nature Machine Intelligence 5, 1031, 2023), whose weights are in its package.

    A crystal with an atom that has no neighbour within 6 Å has no energy.

    Args:
        device: as torch names it.
    """

    def __init__(self, device: str = "cpu") -> None:
        with quietly():
            from chgnet.model.dynamics import CHGNetCalculator
            from chgnet.model.model import CHGNet

            model = CHGNet.load(use_device=device, verbose=False)
            calculator = CHGNetCalculator(model, use_device=device, on_isolated_atoms="error")
        model.requires_grad_(False).eval()
        self._model = model
        super().__init__("chgnet", "PBE/MP2020", device, calculator, frozenset(range(1, 95)) - UNSEEN)

    def __reduce__(self) -> tuple[Any, ...]:
        return Chgnet, (self.device,)

    def _evaluate(self, structures: Sequence[Structure]) -> list[float]:
        import torch

        assert self._model.graph_converter is not None, "CHGNet 0.3.0 has one"
        with torch.no_grad():
            graphs = [self._model.graph_converter(s).to(self.device) for s in structures]
            per_atom = self._model(graphs, task="e")["e"].double().tolist()
        return [value * len(structure) for value, structure in zip(per_atom, structures, strict=True)]


class Mace(Potential):
    """A MACE model (Batatia et al., NeurIPS 2022) from a file.

    Loading the file executes code in it, since MACE keeps whole Python objects: only a trusted file may be named.

    Args:
        path: the `.model` file that mace-torch writes.
        name: as the recipe has it.
        energy_scale: which energies it was fitted to.
        device: as torch names it.
        dtype: to compute in.

    Raises:
        UserError: the file is not a MACE model of energies, or it has several heads and none is the default.
    """

    def __init__(self, path: Path, name: str, energy_scale: str, device: str = "cpu", dtype: Dtype = "float32") -> None:
        import torch

        with quietly():
            from mace.calculators import MACECalculator

            model = _load_mace(path, device)
            heads = [str(head) for head in getattr(model, "heads", None) or ["Default"]]
            if len(heads) > 1 and "default" not in {head.lower() for head in heads}:
                raise UserError(
                    f"{path}: this MACE model has the heads {', '.join(heads)}, and none of them is the default",
                    "name a model with one head",
                )
            self._model = model.to(getattr(torch, dtype)).requires_grad_(False).eval()
            calculator = MACECalculator(models=[self._model], device=device, default_dtype=dtype)
        self._path = path
        self._dtype: Dtype = dtype
        super().__init__(name, energy_scale, device, calculator, frozenset(int(z) for z in calculator.z_table.zs))

    def __reduce__(self) -> tuple[Any, ...]:
        return Mace, (self._path, self.name, self.energy_scale, self.device, self._dtype)

    def _evaluate(self, structures: Sequence[Structure]) -> list[float]:
        import torch
        from mace.data import AtomicData, config_from_atoms
        from mace.tools.torch_geometric.batch import Batch

        calculator: Any = self.calculator
        with _default_dtype(self._dtype):
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


def batches(rows: Sequence[int], sizes: Sequence[int], atoms: int) -> Iterator[list[int]]:
    """Split rows, in order, into batches of at most so many atoms, or of one crystal.

    Args:
        rows: what to split.
        sizes: atoms of each row.
        atoms: in a batch, at most, unless one crystal alone has more.
    """
    batch: list[int] = []
    total = 0
    for row, size in zip(rows, sizes, strict=True):
        if batch and total + size > atoms:
            yield batch
            batch, total = [], 0
        batch.append(row)
        total += size
    if batch:
        yield batch


def fastest(structures: Sequence[Structure], evaluate: Callable[[Sequence[Structure]], Any]) -> int:
    """How many atoms a batch should have, measured; bigger ones are tried while they pay.

    Args:
        structures: sorted by size; those about the median are what is measured on.
        evaluate: computes one batch.
    """
    median = len(structures[len(structures) // 2])
    best, least = SIZES[0], math.inf
    for size in SIZES:
        if size * 8 > len(structures) and size > 1:
            break
        count = max(size, 8)
        start = (len(structures) - count) // 2
        parts = [structures[i : i + size] for i in range(start, start + count, size)]
        evaluate(parts[0])  # compiled on first use
        began = time.perf_counter()
        for part in parts:
            evaluate(part)
        seconds = (time.perf_counter() - began) / count
        if seconds > 0.95 * least:
            break
        best, least = size, seconds
    return best * median


def _load_mace(path: Path, device: str) -> Any:
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


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Import and load a backend without what it prints and warns of, and without the variable that importing MACE
    sets, by which every later torch.load may execute code."""
    unsafe = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(unsafe)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.environ.pop(unsafe, None)
        if before is not None:
            os.environ[unsafe] = before


@contextlib.contextmanager
def _default_dtype(dtype: Dtype) -> Iterator[None]:
    """MACE builds its graphs in torch's default dtype."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        yield
    finally:
        torch.set_default_dtype(before)
