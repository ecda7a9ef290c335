"""Energy above the convex hull of a table of reference crystals.

The energy of the hull at a composition f is the lowest energy of all mixtures of reference crystals that have this
composition. It is the solution of a small linear program, with x_i the share of atoms in entry i, e_i its energy per
atom and f_i its atomic fractions:

    minimise sum_i x_i e_i  subject to  sum_i x_i f_i = f,  x_i >= 0

Only entries all of whose elements are in the candidate can contribute, and of entries with the same reduced formula
only the lowest. A hull can be wrong in two ways that a generator would learn to exploit: where the table lacks
references, everything looks stable (`SPARSE`); where the potential fails, a crystal lies far below the hull (`HOLE`).
In both cases the energy above the hull is NaN.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import itertools
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Composition, Element
from scipy.optimize import LinearConstraint, milp

from chemeleon_cli.core.data.validity import alloy, neutral_binary
from chemeleon_cli.core.paths import file_sha256, replacing, writable
from chemeleon_cli.core.scoring.hull_file import Manifest, manifest_path, read_manifest
from chemeleon_cli.errors import UserError

HOLE_BELOW = 0.5
"""eV/atom. This far below a hull that is not sparse, the potential is more likely wrong than the reference set."""
SPARSE, HOLE = "sparse", "hole"
"""First word of the reason where the table lacks references, and where the potential fails."""
COLUMNS = ("composition", "energy_per_atom", "id")

_PART = re.compile(r"([A-Z][a-z]?)(\d+\.?\d*|\.\d+)?")
_PLAIN = re.compile(rf"(?:{_PART.pattern})+")

Key = tuple[tuple[str, float], ...]
"""A reduced composition: elements in alphabetical order, each with its share of atoms."""


class Hull:
    """The convex hull of reference crystals. Build one with `load` or `from_entries`.

    Args:
        formulas: of each of M entries.
        energies: (M,) eV/atom.
        ids: of each entry.
        manifest: metadata of the table.
        name: for messages.
    """

    def __init__(
        self, formulas: Sequence[str], energies: np.ndarray, ids: Sequence[str], manifest: Manifest, name: str = "hull"
    ) -> None:
        self.manifest = manifest
        self.name = name
        self._table = (formulas, energies, ids)
        self._lowest: dict[tuple[str, ...], dict[tuple[float, ...], float]] = defaultdict(dict)
        for row, (formula, energy) in enumerate(zip(formulas, energies.tolist(), strict=True)):
            try:
                key = _key(_amounts(formula))
            except ValueError as error:
                raise UserError(f"{name}, row {row + 1}: '{formula}' is not a formula") from error
            if not math.isfinite(energy):
                raise UserError(f"{name}, row {row + 1}: {formula} has no energy", "leave such rows out")
            of_system = self._lowest[tuple(symbol for symbol, _ in key)]
            shares = tuple(share for _, share in key)
            of_system[shares] = min(energy, of_system.get(shares, math.inf))
        unknown = {s for system in self._lowest for s in system if not Element.is_valid_symbol(s)}
        if unknown:
            raise UserError(f"{name}: no such element: {', '.join(sorted(unknown))}", "look at its composition column")
        self._system = functools.lru_cache(maxsize=10_000)(self._entries_within)
        self._solved = functools.lru_cache(maxsize=200_000)(self._solve)
        self._gap = functools.lru_cache(maxsize=100_000)(self._find_gap)

    @classmethod
    def from_entries(
        cls,
        compositions: Iterable[Composition | str],
        energies_per_atom: Sequence[float] | np.ndarray,
        ids: Sequence[str],
        source: str,
        energy_scale: str,
        date: str | None = None,
    ) -> Hull:
        """The hull of crystals in memory.

        Args:
            compositions: of M crystals.
            energies_per_atom: (M,) eV/atom, all finite.
            ids: of each crystal.
            source: where the crystals and energies come from.
            energy_scale: see `Potential.energy_scale`.
            date: of the source, ISO 8601.

        Raises:
            UserError: a composition is invalid or an energy is not finite.
        """
        formulas = [_formula(_amounts(c)) for c in compositions]
        energies = np.asarray(energies_per_atom, float)
        digest = hashlib.sha256(_csv(formulas, energies, ids).encode()).hexdigest()
        return cls(formulas, energies, list(ids), Manifest(source, energy_scale, len(formulas), digest, date), source)

    @classmethod
    def load(cls, path: str | Path) -> Hull:
        """Read a table of `composition,energy_per_atom,id` (`.csv.gz` or `.csv`) and the manifest beside it.

        Raises:
            UserError: the table or the manifest is missing or malformed, or they do not belong together.
        """
        path = Path(path).expanduser()
        manifest = read_manifest(path)
        if file_sha256(path) != manifest.sha256:
            raise UserError(
                f"{path}: not the table that {manifest_path(path).name} describes (its sha256 differs)",
                "fetch or write the hull again",
            )
        try:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)  # NaN is sodium nitride
            formulas, energies, ids = (frame[column].tolist() for column in COLUMNS)
            values = np.array([float(energy or "nan") for energy in energies])
        except KeyError as error:
            raise UserError(f"{path}: no column {error}; expected {', '.join(COLUMNS)}") from error
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"{path}: not a readable table: {error}", "fetch or write the hull again") from error
        if not formulas:
            raise UserError(f"{path}: holds no crystal", "fetch or write the hull again")
        return cls(formulas, values, ids, manifest, path.name)

    def write(self, path: str | Path) -> Manifest:
        """Write the table (gzipped if the name ends in .gz) and the manifest beside it, and return the manifest.

        Raises:
            UserError: the files cannot be written.
        """
        path = Path(path).expanduser()
        content = _csv(*self._table).encode()
        with writable(str(path)):
            with replacing(path) as temporary:
                temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
                digest = file_sha256(temporary)
            written = Manifest(self.manifest.source, self.energy_scale, len(self), digest, self.manifest.date)
            with replacing(manifest_path(path)) as temporary:
                temporary.write_text(json.dumps(asdict(written), indent=2) + "\n", encoding="utf-8")
        return written

    def __len__(self) -> int:
        return len(self._table[0])

    @property
    def energy_scale(self) -> str:
        """The scale of the energies, see `Potential.energy_scale`."""
        return self.manifest.energy_scale

    @property
    def elements_without_reference(self) -> list[str]:
        """Elements that the table contains only in compounds, in alphabetical order. Crystals that contain one of them
        have no energy above this hull."""
        elements = {symbol for system in self._lowest for symbol in system}
        return sorted(symbol for symbol in elements if (symbol,) not in self._lowest)

    def gap(self, composition: Composition | str) -> str | None:
        """Why the table lacks references for this composition, or None if it has them.

        The table must contain a crystal of each element, and a binary compound of each pair whose charges can balance
        (see `validity.neutral_binary`): without SrO, any compound of strontium and oxygen is below a hull of metal and
        gas.
        """
        return self._gap(tuple(symbol for symbol, _ in _key(_amounts(composition))))

    def uncharted_alloy(self, composition: Composition | str) -> bool:
        """Whether this is an alloy two of whose elements have no compound in the table. If the table has only the
        elements or few alloys, any attraction between metals looks stable."""
        elements = tuple(symbol for symbol, _ in _key(_amounts(composition)))
        pairs = itertools.combinations(elements, 2)
        return alloy(elements) and any(pair not in self._lowest for pair in pairs)

    def e_above_hull(self, composition: Composition | str, energy_per_atom: float) -> tuple[float, str | None]:
        """The energy of a crystal above the hull, negative below it.

        Args:
            composition: of the crystal.
            energy_per_atom: eV/atom, on the energy scale of the hull.

        Returns:
            eV/atom and None, or NaN and the reason. The reason begins with `SPARSE` or `HOLE` if the hull or the
            potential is not reliable here.
        """
        if not math.isfinite(energy_per_atom):
            return math.nan, "no energy"
        gap = self.gap(composition)
        if gap is not None:
            return math.nan, gap
        energy, failure = self._solved(_key(_amounts(composition)))
        above = energy_per_atom - energy
        if above < -HOLE_BELOW:
            return math.nan, f"{HOLE}: {-above:.2f} eV/atom below the hull"
        return above, failure

    def _find_gap(self, elements: tuple[str, ...]) -> str | None:
        for element in elements:
            if (element,) not in self._lowest:
                return f"{SPARSE}: no reference for {element}"
        for pair in itertools.combinations(elements, 2):
            if pair not in self._lowest and neutral_binary(*pair):
                return f"{SPARSE}: no {'-'.join(pair)} compound"
        return None

    def _solve(self, key: Key) -> tuple[float, str | None]:
        """Energy of the hull, eV/atom, at a composition all of whose elements have a reference."""
        shares, energies = self._system(tuple(symbol for symbol, _ in key))
        composition = np.array([share for _, share in key])
        # without integer variables milp runs the linear solver of HiGHS, with half the overhead of linprog
        found = milp(energies, constraints=LinearConstraint(shares, composition, composition))  # type: ignore[arg-type]
        return (float(found.fun), None) if found.status == 0 else (math.nan, f"no hull: {found.message}")

    def _entries_within(self, elements: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        """(K, n) atomic fractions and (n,) eV/atom of the n entries made of these K elements only."""
        columns, energies = [], []
        for system in self._systems_within(elements):
            rows = [elements.index(symbol) for symbol in system]
            block = np.zeros((len(elements), len(self._lowest[system])))
            block[rows] = np.array(list(self._lowest[system])).T
            columns.append(block)
            energies.extend(self._lowest[system].values())
        return np.concatenate(columns, 1), np.array(energies)

    def _systems_within(self, elements: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if 2 ** len(elements) > len(self._lowest):  # of twenty elements there are a million subsets
            yield from (system for system in self._lowest if set(elements).issuperset(system))
            return
        for size in range(1, len(elements) + 1):
            yield from (s for s in itertools.combinations(elements, size) if s in self._lowest)


def _csv(formulas: Sequence[str], energies: np.ndarray, ids: Sequence[str]) -> str:
    frame = pd.DataFrame(dict(zip(COLUMNS, (formulas, energies, ids), strict=True)))
    return frame.to_csv(index=False, lineterminator="\n")


def _amounts(composition: Composition | str) -> Mapping[str, float]:
    """Number of atoms by element symbol.

    Raises:
        ValueError: not a formula, or an empty one.
    """
    if isinstance(composition, str) and _PLAIN.fullmatch(composition):
        amounts: dict[str, float] = defaultdict(float)
        for symbol, number in _PART.findall(composition):  # 50 times as fast as pymatgen, which matters when loading
            amounts[symbol] += float(number or 1)
    else:
        amounts = {str(e): n for e, n in Composition(composition).element_composition.items()}
    amounts = {symbol: n for symbol, n in amounts.items() if n > 0}
    if not amounts:
        raise ValueError("empty")
    return amounts


def _key(amounts: Mapping[str, float]) -> Key:
    total = sum(amounts.values())
    return tuple((symbol, amounts[symbol] / total) for symbol in sorted(amounts))


def _formula(amounts: Mapping[str, float]) -> str:
    """A formula with elements in alphabetical order and no brackets; integers are divided by their common divisor."""
    numbers = amounts.values()
    divisor = math.gcd(*map(round, numbers)) if all(n == round(n) for n in numbers) else 1
    return "".join(f"{s}{n:.10g}" if (n := amounts[s] / divisor) != 1 else s for s in sorted(amounts))
