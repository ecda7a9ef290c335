"""Metrics of a set of generated crystals, a predictor or an autoencoder, as plain numbers.

Shares are between 0 and 1. NaN marks an undefined number, such as a share of an empty set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pymatgen.core import Structure
from scipy.stats import wasserstein_distance

from chemeleon_cli.core.data.batches import in_batches
from chemeleon_cli.core.scoring import matching
from chemeleon_cli.core.scoring.candidates import Candidates
from chemeleon_cli.core.scoring.context import ScoringContext
from chemeleon_cli.core.scoring.uniqueness import share

if TYPE_CHECKING:
    from chemeleon_cli.core.data.dataset import Table
    from chemeleon_cli.core.models.vae import VAE

METAL_BELOW = 0.1
"""eV. Band gaps below this count as metallic, both in labels and predictions."""


def generation_report(
    structures: Sequence[Structure | None],
    reference: matching.Reference,
    train: Sequence[Structure],
    comparison: Sequence[Structure] | None = None,
) -> dict[str, float]:
    """Metrics of generated crystals.

    Args:
        structures: generated crystals; None if decoding failed.
        reference: the whole training set; novelty is measured against it.
        train: a sample of the training set.
        comparison: crystals whose distributions the generated ones should reproduce, usually val.

    Returns:
        n; valid, the share of possible crystals; unique_of_valid and unique_of_all (see `Uniqueness`); novel_of_valid
        (see `Novelty`); smact_valid, a share of the valid crystals. With a comparison also the earth mover's distances
        emd_density (g/cm^3) and emd_elements (distinct elements per crystal) between the possible crystals and the
        comparison and, as a baseline, emd_density_val and emd_elements_val between the comparison and train.
    """
    candidates = Candidates(structures, ScoringContext(known={None: reference}))
    possible = [form for form in candidates.canonical if form is not None]
    report = {
        "n": float(len(structures)),
        "valid": share(int(candidates.valid.sum()), len(structures)),
        "unique_of_valid": candidates.uniqueness.unique_of_valid,
        "unique_of_all": candidates.uniqueness.unique_of_all,
        "novel_of_valid": candidates.novelty().novel_of_valid,
        "smact_valid": share(int(candidates.smact_valid.sum()), len(possible)),
    }
    if comparison is not None:
        report["emd_density"] = emd(densities(possible), densities(comparison))
        report["emd_elements"] = emd(element_counts(possible), element_counts(comparison))
        report["emd_density_val"] = emd(densities(comparison), densities(train))
        report["emd_elements_val"] = emd(element_counts(comparison), element_counts(train))
    return report


def densities(structures: Sequence[Structure]) -> np.ndarray:
    """(M,) densities, g/cm^3."""
    return np.array([float(s.density) for s in structures])


def element_counts(structures: Sequence[Structure]) -> np.ndarray:
    """(M,) number of distinct elements of each crystal."""
    return np.array([float(len(set(s.atomic_numbers))) for s in structures])


def emd(a: np.ndarray, b: np.ndarray) -> float:
    """Earth mover's distance between two samples, in their unit; NaN if one is empty."""
    return float(wasserstein_distance(a, b)) if len(a) and len(b) else math.nan


def regression_report(
    truth: Sequence[float] | np.ndarray,
    prediction: Sequence[float] | np.ndarray,
    train_mean: float,
    train_median: float,
    window: tuple[float, float] | None = None,
    zero_is: Literal["metal"] | None = None,
) -> dict[str, float]:
    """Metrics of a predicted property.

    Args:
        truth: (M,) labels; rows without a label are NaN and are left out.
        prediction: (M,) in the same unit.
        train_mean: mean of the labels of the train split, the constant prediction of least squared error.
        train_median: their median, the constant prediction of least absolute error.
        window: target range [low, high] of the property.
        zero_is: "metal" for band gaps in eV.

    Returns:
        n, mae, rmse, r2, mae_mean and mae_median (MAE of the two constant predictions); n_nonzero, mae_nonzero,
        rmse_nonzero, r2_nonzero over labels other than 0; with a window, the precision and recall of finding crystals
        in it and n_window (labels in it); with `zero_is`, balanced_accuracy of metal against non-metal.
    """
    truth, prediction = np.asarray(truth, float), np.asarray(prediction, float)
    known = ~np.isnan(truth)
    truth, prediction = truth[known], prediction[known]
    nonzero = truth != 0
    report = _errors(truth, prediction, "")
    report["mae_mean"] = _mean(np.abs(truth - train_mean))
    report["mae_median"] = _mean(np.abs(truth - train_median))
    report |= _errors(truth[nonzero], prediction[nonzero], "_nonzero")
    if window is not None:
        wanted = (truth >= window[0]) & (truth <= window[1])
        chosen = (prediction >= window[0]) & (prediction <= window[1])
        hits = int((wanted & chosen).sum())
        report |= {
            "precision": share(hits, int(chosen.sum())),
            "recall": share(hits, int(wanted.sum())),
            "n_window": float(wanted.sum()),
        }
    if zero_is == "metal":
        metal, called_metal = truth < METAL_BELOW, prediction < METAL_BELOW
        rates = share((metal & called_metal).sum(), metal.sum()), share((~metal & ~called_metal).sum(), (~metal).sum())
        report["balanced_accuracy"] = float(sum(rates) / 2)
    return report


def _errors(truth: np.ndarray, prediction: np.ndarray, suffix: str) -> dict[str, float]:
    error = prediction - truth
    variance = float(((truth - truth.mean()) ** 2).sum()) if len(truth) else 0.0
    return {
        f"n{suffix}": float(len(truth)),
        f"mae{suffix}": _mean(np.abs(error)),
        f"rmse{suffix}": math.sqrt(_mean(error**2)) if len(error) else math.nan,
        f"r2{suffix}": 1 - float((error**2).sum()) / variance if variance else math.nan,
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


@torch.no_grad()
def reconstruct(vae: VAE, table: Table, batch_size: int) -> dict[str, float]:
    """Encode and decode a table by posterior means.

    Returns:
        The figures of `reconstruction_report`.
    """
    originals, decoded = [], []
    device = next(vae.parameters()).device
    for _, crystals in in_batches(table, batch_size):
        posterior = vae.encoder(crystals.to(device))
        originals += crystals.to_structures()
        decoded += vae.decoder(posterior.mean, posterior.mask.sum(1)).to_crystals().to("cpu").to_structures()
    return reconstruction_report(originals, decoded)


def reconstruction_report(originals: Sequence[Structure], decoded: Sequence[Structure | None]) -> dict[str, float]:
    """Metrics of the crystals that an autoencoder reconstructs.

    Args:
        originals: its inputs.
        decoded: its outputs, with atoms in the same order.

    Returns:
        n; match_rate by StructureMatcher, which rescales volumes; rms, the mean over matches, in units of
        (volume per atom)^(1/3); volume_error, the mean |dV|/V over outputs of finite volume; elements, the share of
        atoms with the right element.
    """
    found = matching.rms_pairs(list(zip(originals, decoded, strict=True)))
    matched = [value for value in found if value is not None and not math.isnan(value)]
    right = total = 0
    volume_errors = []
    for a, b in zip(originals, decoded, strict=True):
        total += len(a)
        if b is not None:
            right += sum(x == y for x, y in zip(a.atomic_numbers, b.atomic_numbers, strict=True))
            volume_errors.append(abs(b.volume - a.volume) / a.volume)
    errors = np.array(volume_errors)
    return {
        "n": float(len(originals)),
        "match_rate": share(len(matched), len(originals)),
        "rms": _mean(np.array(matched)),
        "volume_error": _mean(errors[np.isfinite(errors)]),
        "elements": share(right, total),
    }
