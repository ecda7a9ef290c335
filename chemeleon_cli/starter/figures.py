"""The quality of the starter models, as plain numbers: the metrics on their cards."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pymatgen.core import Structure

from chemeleon_cli.core.conditions.base import Request
from chemeleon_cli.core.data.dataset import Table
from chemeleon_cli.core.data.elements import composition_statistics, element_table
from chemeleon_cli.core.models.generator import Generator, Sampling, sample_many
from chemeleon_cli.core.models.layers import set_precision
from chemeleon_cli.core.models.predictor import Predictor, predict_table
from chemeleon_cli.core.scoring import metrics
from chemeleon_cli.core.scoring.candidates import Candidates
from chemeleon_cli.core.scoring.context import ScoringContext
from chemeleon_cli.core.scoring.matching import Reference
from chemeleon_cli.errors import UserError

WINDOW = (2.7, 3.3)
"""eV, the band gaps that `recipes/bandgap.yaml` steers towards."""
ASKED = (0.0, 1.5, 3.0, 5.0)
"""eV, the band gaps that a generator with this condition is asked for."""
GUIDANCE = 2.0
"""The scale of classifier-free guidance for these requests."""
REACH = 6.0
"""Å, the largest distance of a neighbour."""
SAME_ENERGY = 0.001
"""eV/atom, the difference below which polymorphs are not ranked."""


@dataclass(frozen=True)
class Distributions:
    """Distributions of properties of crystals, for a picture and for distances between two sets.

    Attributes:
        distance: distance in Å from each atom to its nearest neighbour.
        density: density in g/cm^3 of each crystal.
        elements: number of distinct elements in each crystal.
        shares: fraction of all atoms, by element.
    """

    distance: np.ndarray
    density: np.ndarray
    elements: np.ndarray
    shares: dict[str, float]

    @classmethod
    def of(cls, structures: Sequence[Structure]) -> Distributions:
        """The distributions of a set of valid crystals."""
        distance = np.concatenate([nearest(s) for s in structures] or [np.zeros(0)])
        atoms = Counter(site.specie.symbol for s in structures for site in s)  # type: ignore[union-attr]
        shares = {symbol: n / atoms.total() for symbol, n in atoms.items()}
        return cls(distance, metrics.densities(structures), metrics.element_counts(structures), shares)


def nearest(structure: Structure) -> np.ndarray:
    """Distance in Å from each atom to its nearest neighbour, including its own images; isolated atoms are left out."""
    centre, _, _, distance = structure.get_neighbor_list(REACH)
    found = np.full(len(structure), np.inf)
    np.minimum.at(found, centre, distance)
    return found[np.isfinite(found)]


def draw(model: Generator, count: int, seed: int, steps: int, request: Request | None = None) -> list[Structure | None]:
    """Generated crystals, all with the same request or none; None if the cell is not finite."""
    set_precision(model, "float32")
    generator = torch.Generator().manual_seed(seed)
    proposal = model.prior.propose(count, generator, request)
    sampling = Sampling("ddim", steps, eta=1.0, guidance=GUIDANCE if request else 1.0)
    drawn: list[Structure | None] = [None] * count
    for rows, crystals in sample_many(model, proposal.num_atoms, sampling, generator, 256, proposal.requests):
        real = crystals.lattice.isfinite().flatten(1).all(1)
        structures = crystals[real.nonzero().flatten()].to_structures()
        for row, structure in zip(rows[real].tolist(), structures, strict=True):
            drawn[row] = structure
    return drawn


def generation(
    structures: Sequence[Structure | None], train: Table, test: Table
) -> tuple[dict[str, float], Distributions, Distributions]:
    """Compare the crystals of a generator with its training set.

    Returns:
        The figures of `metrics.generation_report` with test for comparison; smact_valid_data, the share of train;
        emd_distance (Å) to test, and emd_distance_data of test to train; the distributions of what was generated,
        and of train.
    """
    known = train.structures()
    reference = Reference.of_tables({"train": train}, "starter")
    figures = metrics.generation_report(structures, reference, known, test.structures())
    figures["smact_valid_data"] = metrics.share(int(Candidates(known).smact_valid.sum()), len(known))
    possible = [form for form in Candidates(structures).canonical if form is not None]
    made, data, held_out = (Distributions.of(s) for s in (possible, known, test.structures()))
    figures["emd_distance"] = metrics.emd(made.distance, held_out.distance)
    figures["emd_distance_data"] = metrics.emd(held_out.distance, data.distance)
    return figures, made, data


def prediction(
    model: Predictor, targets: Mapping[str, Mapping[str, Any]], train: Table, test: Table
) -> dict[str, dict[str, float]]:
    """Errors on test, compared with baselines that know no more than the composition.

    Args:
        model: the predictor.
        targets: the targets of its recipe, with `window` and `zero_is`.
        train: the training set of the predictor and of the baselines.
        test: the test set.

    Returns:
        Of each target the figures of `metrics.regression_report`; those of scikit-learn's gradient-boosted trees on
        `elements.composition_statistics`, whose names end in `_boosted`; and of `polymorphs`.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    set_precision(model, "float32")
    guess = predict_table(model, test)
    inputs = composition_features(train), composition_features(test)
    found = {}
    for k, name in enumerate(model.targets):
        settings = targets[name]
        learned, truth = train.properties[name].numpy().astype(float), test.properties[name].numpy().astype(float)
        known = ~np.isnan(learned)
        trees = HistGradientBoostingRegressor(loss="absolute_error", random_state=0)
        boosted = trees.fit(inputs[0][known], learned[known]).predict(inputs[1])
        middle = float(np.mean(learned[known])), float(np.median(learned[known]))
        how = middle, settings.get("window"), settings.get("zero_is")
        values = guess[:, k].numpy().astype(float)
        theirs = _errors(truth, boosted, *how)
        beside = {
            f"{key}_boosted": theirs[key] for key in ("mae", "mae_nonzero", "precision", "recall") if key in theirs
        }
        found[name] = _errors(truth, values, *how) | beside | polymorphs(test.formulas, truth, values)
    return found


def _errors(truth: np.ndarray, guess: np.ndarray, middle: tuple[float, float], window: Any, zero_is: Any) -> dict:
    return metrics.regression_report(truth, guess, *middle, window=tuple(window) if window else None, zero_is=zero_is)


def composition_features(table: Table) -> np.ndarray:
    """(M, F) statistics of the elements of each crystal."""
    return composition_statistics(element_table(), table.crystals().numbers).numpy()


def polymorphs(formulas: Sequence[str], truth: np.ndarray, guess: np.ndarray) -> dict[str, float]:
    """How well polymorphs are ranked, that is pairs of crystals with one formula, which needs more than a composition.

    Args:
        formulas: the formulas of M crystals.
        truth: (M,) labels; pairs within SAME_ENERGY of each other are left out.
        guess: (M,) predictions.

    Returns:
        ranked, the share of pairs in the right order, and ranked_pairs, how many there are.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for i, formula in enumerate(formulas):
        if not np.isnan(truth[i]):
            rows[formula].append(i)
    pairs = [p for same in rows.values() for p in itertools.combinations(same, 2)]
    told = [(i, j) for i, j in pairs if abs(truth[i] - truth[j]) > SAME_ENERGY]
    right = sum((truth[i] - truth[j]) * (guess[i] - guess[j]) > 0 for i, j in told)
    return {"ranked": metrics.share(right, len(told)), "ranked_pairs": float(len(told))}


def gaps(structures: Sequence[Structure | None], predictors: Mapping[str, Predictor]) -> dict[str, np.ndarray]:
    """The band gaps (M,) in eV by each predictor, NaN for crystals that cannot exist.

    Raises:
        UserError: a predictor does not predict band gaps.
    """
    for name, predictor in predictors.items():
        if "band_gap" not in predictor.targets:
            raise UserError(f"the {name} predicts {', '.join(predictor.targets)}, not band_gap", "use another one")
    candidates = Candidates(structures, ScoringContext(predictors=dict(predictors)))
    return {name: candidates.predict(name)["band_gap"].numpy().astype(float) for name in predictors}


def in_window(values: np.ndarray) -> float:
    """Fraction of all crystals, including invalid ones, whose gap is in WINDOW."""
    return metrics.share(int(((values >= WINDOW[0]) & (values <= WINDOW[1])).sum()), len(values))


def asked(model: Generator, predictors: Mapping[str, Predictor], count: int, seed: int) -> dict[str, Any]:
    """Band gaps of the crystals of a generator that is asked for a band gap.

    Args:
        model: a generator with the condition `band_gap`.
        predictors: the predictors of the gap, by name.
        count: number of crystals for each gap of ASKED.
        seed: the seed of the sampling.

    Returns:
        By the gap that was asked for, as text: n, and gap_<name>, the mean in eV by each predictor.
    """
    found = {}
    for gap in ASKED:
        values = gaps(draw(model, count, seed, 50, {"band_gap": gap}), predictors)
        found[f"{gap:g}"] = {"n": count, **{f"gap_{name}": float(np.nanmean(v)) for name, v in values.items()}}
    return found


def steering(
    before: Sequence[Structure | None],
    after: Sequence[Structure | None],
    predictors: Mapping[str, Predictor],
    train: Table,
) -> dict[str, dict[str, float]]:
    """Compare a generator before and after it was steered towards a band gap of 3.0 eV.

    Args:
        before: crystals of the generator before steering.
        after: crystals of the steered generator.
        predictors: `predictor`, which was used in the reward, and `judge`.
        train: the training set, for novelty.

    Returns:
        For `before` and `after`: n and the shares of `metrics.generation_report`; for each predictor gap_<name>, the
        mean in eV, and window_<name>, the share in WINDOW.
    """
    reference = Reference.of_tables({"train": train}, "starter")
    found = {}
    for when, structures in (("before", before), ("after", after)):
        figures = metrics.generation_report(structures, reference, [])
        for name, values in gaps(structures, predictors).items():
            figures |= {f"gap_{name}": float(np.nanmean(values)), f"window_{name}": in_window(values)}
        found[when] = figures
    return found
