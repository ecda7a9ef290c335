"""A picture of a data set: its elements, sizes and labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemeleon_cli.core.data.limits import MAX_Z
from chemeleon_cli.core.paths import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNITS = {
    "band_gap": "eV",
    "dir_gap": "eV",
    "ind_gap": "eV",
    "formation_energy_per_atom": "eV/atom",
    "e_above_hull": "eV/atom",
    "energy_above_hull": "eV/atom",
    "energy_per_atom": "eV/atom",
    "uncorrected_energy_per_atom": "eV/atom",
    "bulk_modulus": "GPa",
    "shear_modulus": "GPa",
    "density": "g/cm³",
    "volume": "Å³",
}
"""Units of labels, by the names that they have in data folders."""
MOST_LABELS = 11
"""Largest number of labels in the picture; with the sizes, they fill four rows of three panels."""
TAIL = 0.005
"""Fraction of values at either end of a label that can be left out of its histogram because of outliers."""
COLOUR, MEAN = "#3b6ea5", "#c0392b"


def draw(path: Path, manifest: Mapping[str, Any], labels: Mapping[str, Sequence[float | None]]) -> None:
    """Write the picture of a data set as PNG.

    Args:
        path: the file to write.
        manifest: contains name, counts, elements and sizes.
        labels: values by name, None for crystals without the label.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = list(labels)[:MOST_LABELS]
    rows = math.ceil((1 + len(shown)) / 3)
    height = 6.6 + 3.1 * rows
    figure = Figure(figsize=(12, height))
    FigureCanvasAgg(figure)
    margins = {"left": 0.07, "right": 0.93, "top": 1 - 0.75 / height, "bottom": 0.6 / height}
    grid = figure.add_gridspec(rows + 1, 3, height_ratios=[6, *[2.2] * rows], hspace=0.34, wspace=0.28, **margins)
    more = f"; {len(shown)} of {len(labels)} labels shown" if len(labels) > len(shown) else ""
    title = f"{manifest['name']}: {manifest['counts']['accepted']:,} crystals{more}"
    figure.suptitle(title, fontsize=15, y=1 - 0.2 / height, parse_math=False)  # a $ in a name does not start a formula
    _table(figure.add_subplot(grid[0, :]), manifest["elements"], manifest["counts"]["accepted"])
    _sizes(figure.add_subplot(grid[1, 0]), {int(n): count for n, count in manifest["sizes"].items()})
    for k, name in enumerate(shown, 1):
        _label(figure.add_subplot(grid[1 + k // 3, k % 3]), name, labels[name])
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png", metadata={"Software": None})


def _table(axes: Axes, counts: Mapping[str, int], crystals: int) -> None:
    """The periodic table, coloured by the number of crystals that contain each element."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle
    from pymatgen.core import Element

    most = max(10, *counts.values())
    least = max(1, most / 100)
    norm, colours = LogNorm(least, most, clip=True), colormaps["YlGnBu"]
    for z in range(1, MAX_Z + 1):
        element = Element.from_Z(z)
        column, row = _place(z, element)
        count = counts.get(element.symbol, 0)
        fill = colours(norm(count)) if count else "#f2f2f2"
        dark = count and norm(count) > 0.55
        axes.add_patch(Rectangle((column, row), 0.94, 0.94, facecolor=fill, edgecolor="none"))
        ink = "white" if dark else "black" if count else "#aaaaaa"
        axes.text(column + 0.47, row + 0.38, element.symbol, ha="center", va="center", fontsize=11, color=ink)
        if count:
            text = f"{count / crystals:.0%}" if count >= 0.095 * crystals else f"{100 * count / crystals:.1g}%"
            axes.text(column + 0.47, row + 0.75, text, ha="center", va="center", fontsize=7, color=ink)
    axes.set(xlim=(1, 19), ylim=(10.2, 1), aspect="equal")
    axes.axis("off")
    axes.set_title("elements: share of crystals that contain them", fontsize=11)
    scale = ScalarMappable(norm, colours)
    ends = "min" if min(counts.values(), default=most) < least else "neither"
    axes.figure.colorbar(scale, cax=axes.inset_axes((1.005, 0.25, 0.012, 0.5)), label="crystals", extend=ends)


def _place(z: int, element: Any) -> tuple[float, float]:
    """Column and row in the table; lanthanides and actinides are below."""
    for first, row in ((57, 8.2), (89, 9.2)):
        if first <= z < first + 15:
            return z - first + 3.5, row
    return element.group, element.row


def _sizes(axes: Axes, sizes: Mapping[int, int]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.bar(list(sizes), list(sizes.values()), width=0.9, color=COLOUR)
    axes.set(xlim=(0, max(sizes, default=0) + 1), xlabel="atoms in the cell", ylabel="crystals")
    axes.set_title("size", fontsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _plain(axes)


def _label(axes: Axes, name: str, values: Sequence[float | None]) -> None:
    """A histogram; a few outliers are only counted in a note, because all other values would be one bar."""
    known = sorted(v for v in values if v is not None)
    unit = UNITS.get(name)
    axes.set_xlabel(f"{name} ({unit})" if unit else name, parse_math=False)
    axes.set_ylabel("crystals")
    axes.set_title(f"{name}: {len(known):,} values", fontsize=11, parse_math=False)
    _plain(axes)
    if not known:
        return
    cut = max(1, int(TAIL * len(known))) if len(known) > 20 else 0
    low, high = known[cut], known[-1 - cut]
    if known[-1] - known[0] <= 3 * (high - low) or high <= low:
        low, high = known[0], known[-1]
    bins = min(50, max(8, math.isqrt(len(known))))
    counts, _, _ = axes.hist([v for v in known if low <= v <= high], bins=bins, range=(low, high), color=COLOUR)
    if max(counts) > 0.5 * sum(counts) and len(known) > 50:  # for example metals among band gaps
        axes.set(yscale="log", ylabel="crystals (logarithmic)")
    mean = math.fsum(known) / len(known)
    if low <= mean <= high:
        axes.axvline(mean, color=MEAN, linewidth=1.2)
    notes = [f"mean {mean:.3g}"]
    if outside := sum(not low <= v <= high for v in known):
        notes.append(f"{outside:,} outside")
    axes.text(0.98, 0.95, "\n".join(notes), transform=axes.transAxes, ha="right", va="top", fontsize=8, color=MEAN)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
