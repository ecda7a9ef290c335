"""Properties of the elements, and their statistics over a composition, as features of a model.

A few thousand labels are not enough to learn the periodic table. The statistics follow Ward et al. 2016, "A
general-purpose machine learning framework for predicting properties of inorganic materials" (npj Comput. Mater. 2,
16028).
"""

from __future__ import annotations

import math
import re
import warnings

import torch
from pymatgen.core import Element
from torch import Tensor

from chemeleon_cli.core.data.limits import MAX_Z

PROPERTIES = (
    "row",
    "group",
    "mendeleev_no",
    "X",
    "atomic_radius_calculated",
    "ionization_energy",
    "electron_affinity",
    "molar_volume",
    "melting_point",
    "valence_s",
    "valence_p",
    "valence_d",
    "valence_f",
)
STATISTICS = 4
"""Mean, mean absolute deviation, minimum and maximum."""


def element_table() -> Tensor:
    """(MAX_Z + 1, P) properties of the elements, standardised over them; row 0 and unknown values are zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of every value that it does not have
        rows = [[_number(Element.from_Z(z), name) for name in PROPERTIES] for z in range(1, MAX_Z + 1)]
    values = torch.tensor(rows, dtype=torch.float64)
    known = ~values.isnan()
    count = known.sum(0)
    mean = values.nan_to_num().sum(0) / count
    std = (((values - mean) ** 2).nan_to_num().sum(0) / count).sqrt()
    return torch.cat([torch.zeros(1, len(PROPERTIES)), ((values - mean) / std).nan_to_num().float()])


def composition_statistics(table: Tensor, numbers: Tensor) -> Tensor:
    """Statistics of the elements' properties over the atoms of each crystal.

    Args:
        table: (MAX_Z + 1, P).
        numbers: (B, N) atomic numbers, 0 at padding.

    Returns:
        (B, 4 P): mean, mean absolute deviation, minimum and maximum of each property.
    """
    mask = (numbers > 0).unsqueeze(-1)
    values = table[numbers]
    count = mask.sum(1)
    mean = (values * mask).sum(1) / count
    deviation = ((values - mean.unsqueeze(1)).abs() * mask).sum(1) / count
    low = values.masked_fill(~mask, torch.inf).amin(1)
    high = values.masked_fill(~mask, -torch.inf).amax(1)
    return torch.cat([mean, deviation, low, high], -1)


def _number(element: Element, name: str) -> float:
    if name.startswith("valence_"):
        shells = [s for s in str(element.electronic_structure).split(".") if not s.startswith("[")]
        found = [re.fullmatch(r"\d([spdf])(\d+)", shell) for shell in shells]
        return float(sum(int(m.group(2)) for m in found if m and m.group(1) == name[-1]))
    value = getattr(element, name)
    return math.nan if value is None else float(value)
