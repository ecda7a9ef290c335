"""Tables of crystals: reads the CSV file of a split as canonical crystals.

Parsing a CIF and computing its canonical form takes milliseconds, so it is done once, in worker processes, and the
result is stored by the hash of the file: in a cache, or beside the file for the set that comes with the program.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import spglib
import torch
from pymatgen.core import Structure
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from chemeleon_cli.core.data.cif import parse_cif, plain
from chemeleon_cli.core.data.crystals import Crystals, canonical, reduced_formula
from chemeleon_cli.core.machine import processors, worker_pool
from chemeleon_cli.core.paths import ONE_TABLE, SPLITS, cache_folder, file_sha256, replacing, split_path
from chemeleon_cli.errors import UserError

SYMPREC = 0.1
"""Å, for space groups: relaxed crystals are not exactly symmetric."""
CACHE_VERSION = "5"
PARSED = "tables"
"""The folder of parsed tables, in the cache and beside the set that comes with the program."""
ID_COLUMN, CIF_COLUMN, SPLIT_COLUMN = "material_id", "cif", "split"


@dataclass(frozen=True)
class Table:
    """Canonical crystals of one split, packed: M crystals with A atoms in all.

    Attributes:
        path: the file that they were read from.
        sha256: of that file.
        ids: M names.
        numbers: (A,) atomic numbers, one crystal after the other.
        frac_coords: (A, 3).
        lattice: (M, 3, 3) Å.
        num_atoms: (M,).
        properties: named (M,) float32 labels, NaN for missing ones.
        rejected: (name, reason) of every row of the file that is not in the table.
    """

    path: Path
    sha256: str
    ids: list[str]
    numbers: Tensor
    frac_coords: Tensor
    lattice: Tensor
    num_atoms: Tensor
    properties: dict[str, Tensor]
    rejected: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def _starts(self) -> Tensor:
        return self.num_atoms.cumsum(0) - self.num_atoms

    def crystals(self, index: Sequence[int] | Tensor | slice = slice(None)) -> Crystals:
        """The chosen rows as a batch, padded to its largest crystal."""
        rows = torch.arange(len(self))[index] if isinstance(index, slice) else torch.as_tensor(index)
        atoms, mask = self.atoms_of(rows)
        return Crystals(
            self.numbers[atoms] * mask,
            self.frac_coords[atoms] * mask.unsqueeze(-1),
            self.lattice[rows],
            self.num_atoms[rows],
            {k: v[rows] for k, v in self.properties.items()},
        )

    def atoms_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) indices of the atoms of the chosen (B,) rows in the packed arrays, 0 at padding, and (B, N) mask."""
        num_atoms = self.num_atoms[rows]
        column = torch.arange(int(num_atoms.max()) if len(rows) else 0)
        mask = column < num_atoms.unsqueeze(1)
        return torch.where(mask, self._starts[rows].unsqueeze(1) + column, 0), mask

    def structures(self, index: Sequence[int] | Tensor | slice = slice(None)) -> list[Structure]:
        """The chosen rows as pymatgen structures."""
        return self.crystals(index).to_structures()

    def select(self, index: Sequence[int] | Tensor) -> Table:
        """A table of the chosen rows only."""
        rows = torch.as_tensor(index)
        part = self.crystals(rows)
        return Table(
            self.path,
            self.sha256,
            [self.ids[i] for i in rows.tolist()],
            part.numbers[part.mask],
            part.frac_coords[part.mask],
            part.lattice,
            part.num_atoms,
            part.properties,
            self.rejected,
        )

    @functools.cached_property
    def formulas(self) -> list[str]:
        """Reduced formula of every row."""
        numbers = self.numbers.tolist()
        starts = self._starts.tolist()
        return [
            reduced_formula(tuple(numbers[s : s + n])) for s, n in zip(starts, self.num_atoms.tolist(), strict=True)
        ]

    @functools.cached_property
    def space_groups(self) -> Tensor:
        """(M,) space group numbers, 0 if spglib finds none."""
        found = []
        atoms = self.num_atoms.tolist()
        for lattice, frac, numbers in zip(
            self.lattice.double().numpy(), self.frac_coords.split(atoms), self.numbers.split(atoms), strict=True
        ):
            cell: Any = (lattice, frac.double().numpy(), numbers.numpy())
            dataset = spglib.get_symmetry_dataset(cell, symprec=SYMPREC)
            found.append(0 if dataset is None else int(dataset.number))
        return torch.tensor(found)

    def summary(self) -> dict[str, Any]:
        """The record of a training set in checkpoints: counts, sizes, label statistics, hash."""
        labels = {}
        for name, values in self.properties.items():
            known = values[~values.isnan()].double()
            if len(known):
                labels[name] = {
                    "count": len(known),
                    "mean": known.mean().item(),
                    "std": known.std(correction=0).item(),
                    "min": known.min().item(),
                    "max": known.max().item(),
                }
        sizes = Counter(self.num_atoms.tolist())
        return {
            "path": str(self.path.parent.resolve()),
            "sha256": self.sha256,
            "count": len(self),
            "rejected": dict(Counter(reason.partition(":")[0] for _, reason in self.rejected)),
            "sizes": {str(n): sizes[n] for n in sorted(sizes)},
            "properties": labels,
        }


def load_split(folder: str | Path, split: str, max_atoms: int | None = None) -> Table | None:
    """Read one split of a data set.

    Args:
        folder: contains `train.csv.gz` or `train.csv` (and so on) with a column `cif`, optionally a column
            `material_id`, and numeric label columns; an empty cell is a missing label.
        split: "train", "val" or "test".
        max_atoms: crystals with a larger canonical cell are left out.

    Returns:
        The table, or None if the folder has no such split.

    Raises:
        UserError: the file cannot be read, has no `cif` column, or contains no usable crystal.
    """
    path = split_path(folder, split)
    if path is None:
        return None
    digest = file_sha256(path)
    part = split if path.name == ONE_TABLE else None
    name = _name(digest, part)
    cached = cache_folder() / PARSED / name
    table = _read_cache(path.parent / PARSED / name, path, digest)
    if table is None:
        table = _read_cache(cached, path, digest)
    if table is None:
        table = _parse(path, digest, part)
        _write_cache(cached, table)
    if max_atoms is not None and len(table) and int(table.num_atoms.max()) > max_atoms:
        small = table.num_atoms <= max_atoms
        dropped = [(table.ids[i], f"more than {max_atoms} atoms") for i in (~small).nonzero().flatten().tolist()]
        table = table.select(small.nonzero().flatten())
        table.rejected.extend(dropped)
    if not len(table):
        reasons = ", ".join(sorted({reason for _, reason in table.rejected})) or "it is empty"
        raise UserError(f"{path}: no usable crystal ({reasons})", "look at its cif column and at data.max_atoms")
    return table


def of_thirds(table: Table, thirds: Sequence[int]) -> Table:
    """The crystals whose reduced formula is in one of the chosen thirds of all formulas.

    Two models that are trained on different thirds share no formula, so one can evaluate crystals that were optimised
    for the other.

    Args:
        table: the crystals.
        thirds: 0, 1, 2 or several; see `third_of`.

    Raises:
        UserError: there is no crystal in these thirds.
    """
    rows = [i for i, formula in enumerate(table.formulas) if third_of(formula) in thirds]
    if not rows:
        raise UserError(
            f"{table.path}: none of its {len(table)} crystals is in thirds {list(thirds)}", "look at data.thirds"
        )
    return table.select(rows)


def third_of(formula: str) -> int:
    """0, 1 or 2, by a hash of a reduced formula, so that it does not depend on the set."""
    return int.from_bytes(hashlib.sha256(f"thirds:{formula}".encode()).digest()[:8], "big") % 3


def parse_canonical(cif: str) -> Structure | str:
    """The canonical structure of a CIF, or the reason why there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return canonical(plain(parse_cif(cif)))
        except ValueError as error:  # Unfit, and what `canonical` refuses
            return str(error)
        except Exception as error:  # the parsers can raise anything on a malformed CIF; the row is reported
            return f"unreadable: {error}"[:100]


def _arrays(cif: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | str:
    parsed = parse_canonical(cif) if cif.strip() else "cif is empty"
    if isinstance(parsed, str):
        return parsed
    return np.array(parsed.atomic_numbers), parsed.frac_coords, np.array(parsed.lattice.matrix)


def _parse(path: Path, digest: str, split: str | None) -> Table:
    """The crystals of a table or, if `split` is given, those of its rows with this value in the column `split`."""
    try:
        frame = pd.read_csv(path, dtype={ID_COLUMN: str, CIF_COLUMN: str})
        if ID_COLUMN in frame and bool(frame[ID_COLUMN].isna().to_numpy().any()):  # NA is a name
            frame[ID_COLUMN] = pd.read_csv(path, usecols=[ID_COLUMN], dtype=str, keep_default_na=False)[ID_COLUMN]
    except (OSError, EOFError, ValueError) as error:
        raise UserError(
            f"{path}: not a readable CSV table: {error}", "is the file complete? download or write it again"
        ) from error
    wanted = [CIF_COLUMN] if split is None else [CIF_COLUMN, SPLIT_COLUMN]
    if missing := [column for column in wanted if column not in frame]:
        raise UserError(
            f"{path}: no column '{missing[0]}'; found {', '.join(map(str, frame.columns[:12]))}",
            "chemeleon fetch-data --source FILE converts other layouts to this one",
        )
    if split is not None:
        frame = frame.take(np.flatnonzero(frame[SPLIT_COLUMN].to_numpy() == split))
    cifs = frame[CIF_COLUMN].fillna("").tolist()
    ids = frame[ID_COLUMN].tolist() if ID_COLUMN in frame else [str(i) for i in range(len(frame))]
    if len(cifs) < 300:
        parsed = [_arrays(cif) for cif in cifs]
    else:
        with worker_pool(processors()) as pool:
            parsed = list(pool.map(_arrays, cifs, chunksize=64))
    good = [i for i, p in enumerate(parsed) if not isinstance(p, str)]
    arrays = [p for p in parsed if not isinstance(p, str)]
    labels = {
        str(name): torch.tensor(frame[name].to_numpy(np.float32, na_value=np.nan)[good])
        for name in frame.columns
        if name not in (ID_COLUMN, CIF_COLUMN) and pd.api.types.is_numeric_dtype(frame[name])
    }
    for values in labels.values():
        values[values.isinf()] = torch.nan
    return Table(
        path,
        digest,
        [str(ids[i]) for i in good],
        torch.from_numpy(np.concatenate([a[0] for a in arrays] or [np.zeros(0)])).long(),
        torch.from_numpy(np.concatenate([a[1] for a in arrays] or [np.zeros((0, 3))])).float(),
        torch.from_numpy(np.stack([a[2] for a in arrays]) if arrays else np.zeros((0, 3, 3))).float(),
        torch.tensor([len(a[0]) for a in arrays], dtype=torch.int64),
        labels,
        [(str(ids[i]), p) for i, p in enumerate(parsed) if isinstance(p, str)],
    )


def keep_beside(path: Path) -> None:
    """Parse every split of a table that has a column `split`, and store the results in a folder beside it."""
    folder, digest = path.parent / PARSED, file_sha256(path)
    names = {_name(digest, split): split for split in SPLITS}
    for old in folder.glob("*-v*.safetensors"):
        if old.name not in names:
            old.unlink()
    for name, split in names.items():
        _save(folder / name, _parse(path, digest, split))


def _name(digest: str, split: str | None) -> str:
    return "-".join(filter(None, (digest[:32], split, f"v{CACHE_VERSION}"))) + ".safetensors"


@contextlib.contextmanager
def keeping(cached: Path) -> Iterator[None]:
    """Turn a failure to write a cache file into a warning. The data are in memory and will be computed again next
    time."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        warnings.warn(f"{cached}: the cache could not be written: {error}", stacklevel=2)


def _write_cache(cached: Path, table: Table) -> None:
    with keeping(cached):
        _save(cached, table)


def _save(cached: Path, table: Table) -> None:
    tensors = {"numbers": table.numbers, "frac_coords": table.frac_coords, "lattice": table.lattice}
    tensors |= {"num_atoms": table.num_atoms, **{f"property.{k}": v for k, v in table.properties.items()}}
    rows = json.dumps({"ids": table.ids, "rejected": table.rejected})
    with replacing(cached) as temporary:
        save_file(tensors, temporary, metadata={"rows": rows})  # one entry: safetensors orders several at random


def _read_cache(cached: Path, path: Path, digest: str) -> Table | None:
    try:
        if not cached.is_file():
            return None
        with safe_open(cached, framework="pt") as file:
            rows = json.loads(file.metadata()["rows"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):  # broken or unreadable; it is parsed again
        return None
    labels = {k.removeprefix("property."): v for k, v in tensors.items() if k.startswith("property.")}
    rejected = [(name, reason) for name, reason in rows["rejected"]]
    packed = (tensors["numbers"], tensors["frac_coords"], tensors["lattice"], tensors["num_atoms"])
    return Table(path, digest, rows["ids"], *packed, labels, rejected)
