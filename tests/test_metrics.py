import math

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from samples import body_centred

from chemeleon_cli.core.normalise import normalise
from chemeleon_cli.core.scoring import metrics
from chemeleon_cli.core.scoring.matching import Reference

SALT = Structure(Lattice.cubic(5.6), ["Na"] * 4 + ["Cl"] * 4, [
    [0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0],
    [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5], [0.5, 0.5, 0.5],
])  # fmt: skip
CESIUM = body_centred(3.5, "Na", "Cl")
IRON = body_centred(2.87, "Fe", "Fe")
ODD = body_centred(4.3, "Mg", "Cl")  # its charges do not balance


def test_generation_report() -> None:
    made = [SALT, SALT * (1, 1, 2), CESIUM, ODD, None]
    report = metrics.generation_report(made, Reference.from_structures([CESIUM, IRON]), [CESIUM, IRON], [SALT, SALT])
    assert report["n"] == 5
    assert report["valid"] == pytest.approx(4 / 5)
    assert report["unique_of_valid"] == pytest.approx(3 / 4)
    assert report["unique_of_all"] == pytest.approx(3 / 5)
    assert report["novel_of_valid"] == pytest.approx(3 / 4)
    assert report["smact_valid"] == pytest.approx(3 / 4)
    shifts = [abs(float(s.density) - float(SALT.density)) for s in (SALT, SALT, CESIUM, ODD)]
    assert report["emd_density"] == pytest.approx(np.mean(shifts))
    assert report["emd_elements"] == 0
    assert report["emd_elements_val"] == pytest.approx(0.5)


def test_nothing_generated_is_not_a_crash() -> None:
    report = metrics.generation_report([None, None], Reference.from_structures([SALT]), [SALT], [SALT])
    assert report["valid"] == 0
    assert math.isnan(report["unique_of_valid"])
    assert math.isnan(report["emd_density"])


def test_regression_report_leaves_missing_labels_out() -> None:
    truth = [0.0, 0.0, 2.0, 3.0, 4.0, math.nan]
    prediction = [0.05, 0.5, 2.5, 3.0, 3.1, 99.0]
    report = metrics.regression_report(truth, prediction, 1.8, 2.0, window=(2.7, 3.3), zero_is="metal")
    error = np.array([0.05, 0.5, 0.5, 0.0, 0.9])
    assert report["n"] == 5
    assert report["mae"] == pytest.approx(error.mean())
    assert report["rmse"] == pytest.approx(math.sqrt((error**2).mean()))
    values = np.array(truth[:5])
    assert report["r2"] == pytest.approx(1 - (error**2).sum() / ((values - values.mean()) ** 2).sum())
    assert report["mae_mean"] == pytest.approx(np.abs(values - 1.8).mean())
    assert report["mae_median"] == pytest.approx(np.abs(values - 2.0).mean())
    assert report["n_nonzero"] == 3
    assert report["mae_nonzero"] == pytest.approx(error[2:].mean())
    assert report["precision"] == pytest.approx(1 / 2)  # 3.0 and 3.1 are called; only the first is there
    assert report["recall"] == 1
    assert report["n_window"] == 1
    assert report["balanced_accuracy"] == pytest.approx((1 / 2 + 3 / 3) / 2)


def test_regression_without_labels_or_hits_is_nan() -> None:
    report = metrics.regression_report([math.nan], [1.0], 0, 0, window=(2, 3), zero_is="metal")
    assert report["n"] == 0
    assert all(math.isnan(report[key]) for key in ("mae", "rmse", "r2", "precision", "recall", "balanced_accuracy"))


def test_reconstruction_report() -> None:
    swollen = Structure(Lattice.cubic(3.5 * 1.1 ** (1 / 3)), ["Na", "Cl"], CESIUM.frac_coords)
    wrong = Structure(Lattice.cubic(2.87), ["Fe", "Co"], IRON.frac_coords)
    flat = Structure(Lattice([[math.nan] * 3] * 3), ["Mg", "Cl"], ODD.frac_coords)
    report = metrics.reconstruction_report([CESIUM, IRON, ODD, SALT], [swollen, wrong, flat, None])
    assert report["n"] == 4
    assert report["match_rate"] == pytest.approx(1 / 4)
    assert report["rms"] == pytest.approx(0, abs=1e-6)
    assert report["volume_error"] == pytest.approx((0.1 + 0) / 2)
    assert report["elements"] == pytest.approx((2 + 1 + 2 + 0) / (2 + 2 + 2 + 8))


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        ("norm", [0, 1 / 2.1, 2 / 2.1]),
        ("std", [-1 / (math.sqrt(2 / 3) + 0.1), 0, 1 / (math.sqrt(2 / 3) + 0.1)]),
        ("subtract_mean", [-1, 0, 1]),
        ("clip", [-1, 0, 1]),
        ("none", [-1, 0, 1]),
        (None, [-1, 0, 1]),
    ],
)
def test_normalise(fn: str | None, expected: list[float]) -> None:
    import torch

    x = torch.tensor([-1.0, math.nan, 0.0, 1.0])
    found = normalise(x, fn, eps=0.1)  # type: ignore[arg-type]
    assert found.isnan().tolist() == [False, True, False, False]
    assert found[~found.isnan()].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("fn", ["norm", "std"])
def test_noise_below_eps_is_no_preference(fn: str) -> None:
    import torch

    x = torch.tensor([5.0, 5.00001, math.nan])
    found = normalise(x, fn)  # type: ignore[arg-type]
    assert found[:2].tolist() == [0, 0]
    assert normalise(torch.tensor([3.0]), fn).tolist() == [0]  # type: ignore[arg-type]
    assert normalise(torch.full((2,), math.nan), fn).isnan().all()  # type: ignore[arg-type]


def test_clip_limits() -> None:
    import torch

    assert normalise(torch.tensor([-3.0, 0.5, 7.0]), "clip").tolist() == [-1, 0.5, 1]
