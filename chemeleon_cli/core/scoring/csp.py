"""Crystal structure prediction: is the known crystal of a composition among those that were generated for it?

Match rate and RMSE as Jiao et al. 2023, "Crystal Structure Prediction by Joint Equivariant Diffusion" (DiffCSP):
pymatgen's StructureMatcher with stol 0.5, ltol 0.3 and 10 degrees, looser than for novelty. A comparison that runs
out of time finds nothing, and is counted.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pymatgen.core import Structure

from chemeleon_cli.core.data.validity import problem
from chemeleon_cli.core.scoring.comparison import MatchSettings
from chemeleon_cli.core.scoring.matching import rms_pairs

MATCHING = MatchSettings(ltol=0.3, stol=0.5, angle_tol=10.0)


@dataclass(frozen=True)
class Prediction:
    """How well R known crystals were found.

    Attributes:
        rms: of each, the least distance of its matching candidates: root mean square displacement of the atoms per
            cube root of the volume per atom, no unit; None where no candidate matches.
        candidates: how many each had.
        right: of all candidates, how many have the formula of their crystal.
        timed_out: how many candidates match nothing because the comparison ran out of time.
    """

    rms: list[float | None]
    candidates: list[int]
    right: int
    timed_out: int

    @property
    def match_rate(self) -> float:
        """Share of the known crystals with a match; one without candidates has none."""
        return sum(value is not None for value in self.rms) / len(self.rms)

    @property
    def rmse(self) -> float:
        """Mean of `rms` over the matched; NaN without any."""
        found = [value for value in self.rms if value is not None]
        return sum(found) / len(found) if found else float("nan")

    @property
    def right_formulas(self) -> float:
        """Share of the candidates with the right formula; NaN without any."""
        return self.right / sum(self.candidates) if sum(self.candidates) else float("nan")


def predict(
    candidates: Sequence[Sequence[Structure | None]],
    references: Sequence[Structure],
    settings: MatchSettings = MATCHING,
) -> Prediction:
    """Look for each known crystal among its candidates.

    Args:
        candidates: of each reference; None and what cannot be a crystal (see `validity.problem`) match nothing.
        references: R known crystals, at least one.
        settings: tolerances, and the time limit of one comparison.
    """
    pairs: list[tuple[Structure, Structure]] = []
    rows: list[int] = []  # of each pair's reference
    right = 0
    for row, (found, reference) in enumerate(zip(candidates, references, strict=True)):
        formula = reference.composition.reduced_formula
        alike = [s for s in found if s is not None and s.composition.reduced_formula == formula]
        right += len(alike)
        possible = [(s, reference) for s in alike if problem(s) is None]
        pairs += possible
        rows += [row] * len(possible)
    distances: list[list[float]] = [[] for _ in references]
    timed_out = 0
    for row, distance in zip(rows, rms_pairs(pairs, settings), strict=True):
        if distance is not None and math.isnan(distance):
            timed_out += 1
        elif distance is not None:
            distances[row].append(distance)
    best = [min(found, default=None) for found in distances]
    return Prediction(best, [len(found) for found in candidates], right, timed_out)


def pair(
    ids: Sequence[str],
    structures: Sequence[Structure | None],
    reference_ids: Sequence[str],
    references: Sequence[Structure],
) -> tuple[list[list[Structure | None]], str]:
    """Which generated crystals are candidates for which known ones.

    Args:
        ids: of the generated crystals.
        structures: likewise, None where there is none.
        reference_ids: of the known crystals.
        references: likewise.

    Returns:
        The candidates of each reference, and how they were told: "id" where every generated crystal is named as a
        reference, or every one so with "-" and a number after it, as `sample` with `like` does; "order" where there is
        one for each with its formula; else "formula", where crystals of one formula share their candidates.
    """
    place = {name: i for i, name in enumerate(reference_ids)}
    # one reading for all, as with references mp-1 and mp-1-2, mp-1-2 can be a candidate of either
    for names in (ids, [re.sub(r"-\d+$", "", name) for name in ids]):
        if len(place) == len(reference_ids) and all(name in place for name in names):
            out: list[list[Structure | None]] = [[] for _ in references]
            for structure, name in zip(structures, names, strict=True):
                out[place[name]].append(structure)
            return out, "id"
    wanted = [reference.composition.reduced_formula for reference in references]
    formulas = [None if s is None else s.composition.reduced_formula for s in structures]
    if len(formulas) == len(wanted) and all(a in (None, b) for a, b in zip(formulas, wanted, strict=True)):
        return [[structure] for structure in structures], "order"
    of_formula: dict[str | None, list[Structure | None]] = defaultdict(list)
    for structure, formula in zip(structures, formulas, strict=True):
        of_formula[formula].append(structure)
    return [list(of_formula[formula]) for formula in wanted], "formula"
