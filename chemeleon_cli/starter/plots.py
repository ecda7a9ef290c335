"""Pictures that compare generated crystals with the training set, and band gaps before and after steering."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chemeleon_cli.core.paths import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from chemeleon_cli.starter.figures import Distributions

BEFORE, AFTER, WANTED = "#8a8f98", "#3b6ea5", "#f3d9a4"


def draw_distributions(path: Path, made: Distributions, data: Distributions) -> None:
    """Nearest neighbours, densities, numbers of elements, and elements: generated and train, as PNG."""
    figure = _figure(11, 7)
    grid = figure.add_gridspec(2, 3, hspace=0.3, wspace=0.25, left=0.07, right=0.98, bottom=0.07, top=0.97)
    columns = (
        ("distance to the nearest neighbour, Å", made.distance, data.distance, np.linspace(0.5, 4.5, 60).tolist()),
        ("density, g/cm³", made.density, data.density, np.linspace(0, 20, 60).tolist()),
        ("distinct elements", made.elements, data.elements, np.arange(0.5, 7.5).tolist()),
    )
    for i, (title, generated, learned, bins) in enumerate(columns):
        axes = figure.add_subplot(grid[0, i])
        for values, colour, label in ((learned, BEFORE, "train"), (generated, AFTER, "generated")):
            axes.hist(values, bins, weights=_weights(values), histtype="step", color=colour, label=label, linewidth=1.6)
        axes.set_xlabel(title)
        axes.set_ylabel("share" if i == 0 else "")
    figure.axes[-1].legend(frameon=False, loc="upper right")
    axes = figure.add_subplot(grid[1, :])
    symbols = sorted(made.shares | data.shares, key=lambda s: -data.shares.get(s, 0.0))
    place = np.arange(len(symbols))
    for shift, shares, colour in ((-0.2, data.shares, BEFORE), (0.2, made.shares, AFTER)):
        axes.bar(place + shift, [shares.get(s, 0.0) for s in symbols], 0.4, color=colour)
    axes.set_xticks(place, symbols, fontsize=8)
    axes.set_ylabel("share of atoms")
    axes.margins(x=0.01)
    _write(figure, path)


def draw_gaps(path: Path, gaps: Mapping[str, tuple[np.ndarray, np.ndarray]], window: tuple[float, float]) -> None:
    """Histograms of band gaps before and after steering, with a panel for each predictor, as PNG.

    Args:
        path: the file to write.
        gaps: (before, after) in eV by the name of the panel; NaN for crystals that cannot exist.
        window: the requested range in eV.
    """
    figure = _figure(4.2 * len(gaps), 3.6)
    for i, (name, (before, after)) in enumerate(gaps.items()):
        axes = figure.add_subplot(1, len(gaps), i + 1)
        axes.axvspan(*window, color=WANTED, zorder=0)
        for values, colour, label in ((before, BEFORE, "before"), (after, AFTER, "after")):
            shown = np.clip(values[~np.isnan(values)], 0, 8)
            axes.hist(
                shown, np.linspace(0, 8, 41).tolist(), weights=_weights(shown), color=colour, alpha=0.65, label=label
            )
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("band gap, eV")
        axes.set_ylabel("share of crystals" if i == 0 else "")
    figure.axes[0].legend(frameon=False)
    figure.subplots_adjust(left=0.2 / len(gaps) + 0.01, right=0.98, bottom=0.17, top=0.9)
    _write(figure, path)


def _weights(values: np.ndarray) -> np.ndarray:
    return np.full(len(values), 1 / max(len(values), 1))


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def _write(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
