"""Crystal structure prediction: is the known crystal of a composition among those generated for it?

Match rate and RMSE are those of Jiao et al. 2023, "Crystal Structure Prediction by Joint Equivariant Diffusion"
(DiffCSP): pymatgen's StructureMatcher with stol 0.5, ltol 0.3 and 10 degrees, looser than for novelty. A comparison
that runs out of time counts as no match, and the number of these is reported.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pymatgen.core import Structure

from chemeleon_cli.core.data.validity import problem
from chemeleon_cli.core.scoring.matching import rms_pairs
from chemeleon_cli.core.scoring.settings import Matching

MATCHING = Matching(ltol=0.3, stol=0.5, angle_tol=10.0)


@dataclass(frozen=True)
class Prediction:
    """How well R known crystals were predicted.

    Attributes:
        rms: of each known crystal, the smallest distance to a matching candidate: root mean square displacement of the
            atoms in units of the cube root of the volume per atom; None if no candidate matches.
        candidates: number of candidates of each known crystal.
        right: number of candidates with the formula of their known crystal.
        timed_out: number of candidates whose comparison ran out of time.
    """

    rms: list[float | None]
    candidates: list[int]
    right: int
    timed_out: int

    @property
    def match_rate(self) -> float:
        """Share of the known crystals with a match; one without candidates counts as not matched."""
        return sum(value is not None for value in self.rms) / len(self.rms)

    @property
    def rmse(self) -> float:
        """Mean of `rms` over the matched crystals; NaN if there are none."""
        found = [value for value in self.rms if value is not None]
        return sum(found) / len(found) if found else float("nan")

    @property
    def right_formulas(self) -> float:
        """Share of the candidates with the right formula; NaN if there are no candidates."""
        return self.right / sum(self.candidates) if sum(self.candidates) else float("nan")


def predict(
    candidates: Sequence[Sequence[Structure | None]],
    references: Sequence[Structure],
    settings: Matching = MATCHING,
) -> Prediction:
    """Compare each known crystal with its candidates.

    Args:
        candidates: of each reference; None and impossible crystals (see `validity.problem`) match nothing.
        references: R known crystals, at least one.
        settings: tolerances, and the time limit of one comparison.
    """
    pairs: list[tuple[Structure, Structure]] = []
    rows: list[int] = []  # index of the reference of each pair
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
    """Assign generated crystals to the known crystals that they are candidates for.

    Args:
        ids: names of the generated crystals.
        structures: the generated crystals; None if there is no structure.
        reference_ids: names of the known crystals.
        references: the known crystals.

    Returns:
        The candidates of each reference, and how they were assigned. "id": all generated crystals have the names of
        references, or all have such names followed by "-" and a number, as written by `sample` with `like`. "order":
        there is one generated crystal per reference, in the same order and of the same formula. "formula": otherwise;
        references of one formula then share their candidates.
    """
    place = {name: i for i, name in enumerate(reference_ids)}
    # one rule for all names: with references mp-1 and mp-1-2, the name mp-1-2 can be a candidate of either
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
