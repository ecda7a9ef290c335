"""How good the models behind the labels are: against DFT labels of other crystals, and on well-known compounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pymatgen.core import Structure

from chemeleon_cli.core.data.cif import parse_cif
from chemeleon_cli.starter.build.formation import formation_energy

WINDOW = (2.7, 3.3)
"""eV: where the demo steers to."""
KNOWN = {
    "NaCl": (5.0, -2.13),
    "MgO": (4.5, -3.12),
    "ZnS": (2.0, -1.07),
    "SrTiO3": (1.8, -3.47),
    "CaF2": (7.2, -4.24),
}
"""PBE band gap in eV; enthalpy of formation at 298 K in eV/atom, from the CRC Handbook's values in kJ/mol."""


def compare(
    table: pd.DataFrame,
    references: dict[str, float],
    reference: pd.DataFrame,
    gaps: Callable[[Sequence[Structure]], np.ndarray],
    energy: Callable[[Structure], float],
) -> dict[str, Any]:
    """Errors of the labels' models.

    Args:
        table: the data set.
        references: eV/atom of its elements.
        reference: crystals (`cif`) with `band_gap` in eV and `formation_energy_per_atom` in eV/atom, each possibly
            missing.
        gaps: the band-gap teacher.
        energy: CHGNet's energy in eV/atom, at the reference's geometry.
    """
    gapped = reference[reference["band_gap"].notna()]
    predicted = gaps([parse_cif(text) for text in gapped["cif"]])
    formed = reference[reference["formation_energy_per_atom"].notna()]
    errors = []
    for text, label in zip(formed["cif"], formed["formation_energy_per_atom"], strict=True):
        structure = parse_cif(text)
        if {e.symbol for e in structure.composition.elements} <= references.keys():
            found = formation_energy(structure.composition, energy(structure), references)
            assert found is not None, "all elements are among the references"
            errors.append(found - float(label))
    return {
        "band_gap": gap_errors(predicted, np.asarray(gapped["band_gap"], float)),
        "formation_energy_per_atom": {
            "crystals": len(errors),
            "mae": round(float(np.abs(errors).mean()), 4) if errors else None,
            "median_error": round(float(np.median(errors)), 4) if errors else None,
        },
        "known": known(table),
    }


def gap_errors(predicted: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Mean absolute errors in eV beside those of always answering zero, and hits in the window.

    Args:
        predicted: (B,) eV.
        labels: (B,) eV.
    """
    error = np.abs(predicted - labels)
    open_gap = labels > 0
    said = (predicted >= WINDOW[0]) & (predicted <= WINDOW[1])
    right = said & (labels >= WINDOW[0]) & (labels <= WINDOW[1])
    return {
        "crystals": len(labels),
        "mae": round(float(error.mean()), 4),
        "mae_of_zero": round(float(labels.mean()), 4),
        "non_zero": int(open_gap.sum()),
        "mae_of_non_zero": round(float(error[open_gap].mean()), 4) if open_gap.any() else None,
        "mae_of_zero_on_non_zero": round(float(labels[open_gap].mean()), 4) if open_gap.any() else None,
        "metal_or_not_right": round(float(((predicted > 0) == open_gap).mean()), 4),
        "in_window_predicted": int(said.sum()),
        "in_window_right": int(right.sum()),
        "in_window_labelled": int(((labels >= WINDOW[0]) & (labels <= WINDOW[1])).sum()),
    }


def known(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """The set's lowest form of well-known compounds beside what is known of them."""
    found = {}
    for formula, (gap, formation) in KNOWN.items():
        rows = table[table["pretty_formula"] == formula]
        if not rows.empty:
            lowest = rows.iloc[int(np.argmin(rows["formation_energy_per_atom"]))]
            found[formula] = {
                "spacegroup": int(lowest["spacegroup.number"]),
                "band_gap": float(lowest["band_gap"]),
                "band_gap_pbe": gap,
                "formation_energy_per_atom": float(lowest["formation_energy_per_atom"]),
                "formation_enthalpy_measured": formation,
            }
    return found
