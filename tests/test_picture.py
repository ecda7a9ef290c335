"""The picture of a data set: drawn for real, and what is on it read back from the figure."""

from pathlib import Path
from typing import Any

import matplotlib.figure
import pytest
from matplotlib.figure import Figure

from chemeleon_cli.sources import picture

MANIFEST = {
    "name": "mine",
    "counts": {"accepted": 200},
    "elements": {"Na": 150, "Cl": 190, "La": 1, "U": 20},
    "sizes": {"2": 120, "8": 80},
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: Any, **kwargs: Any) -> None:
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return figures


def texts_of(axes: Any) -> dict[str, tuple[float, float]]:
    return {text.get_text(): text.get_position() for text in axes.texts}


def test_elements_stand_in_their_places_with_their_shares(drawn: list[Figure], tmp_path: Path) -> None:
    picture.draw(tmp_path / "x.png", MANIFEST, {})
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    table, sizes = drawn[0].axes[:2]
    places = {symbol: tuple(int(x) for x in place) for symbol, place in texts_of(table).items()}
    assert [places[s] for s in ("H", "He", "Na", "Cl", "Ti", "Hf")] == [
        (1, 1),
        (18, 1),
        (1, 3),
        (17, 3),
        (4, 4),
        (4, 6),
    ]
    assert places["La"][1] == 8 and places["U"][1] == 9
    assert len(table.patches) == 100
    shares = [text.get_text() for text in table.texts if "%" in text.get_text()]
    assert shares == ["75%", "95%", "0.5%", "10%"]
    fills = {text.get_text(): patch.get_facecolor() for text, patch in zip(symbols(table), table.patches, strict=True)}
    assert fills["Cl"] != fills["La"] != fills["Fe"] == fills["He"]
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in sizes.patches}
    assert heights == {2: 120, 8: 80}


def symbols(table: Any) -> list[Any]:
    return [text for text in table.texts if "%" not in text.get_text()]


def test_labels_are_counted_with_units_and_outliers_are_said(drawn: list[Figure], tmp_path: Path) -> None:
    values = {
        "band_gap": [0.01 * n for n in range(200)],
        "odd": [*(0.01 * n for n in range(198)), 1e6, None],
        "same": [3.0] * 200,
        "none": [None] * 200,
        "mostly_zero": [0.0] * 190 + [1.0 * n for n in range(10)],
    }
    picture.draw(tmp_path / "x.png", MANIFEST, values)
    axes = {a.get_xlabel(): a for a in drawn[0].axes}
    assert {"atoms in the cell", "band_gap (eV)", "odd", "same", "none", "mostly_zero"} <= set(axes)
    assert sum(bar.get_height() for bar in axes["band_gap (eV)"].patches) == 200
    assert axes["band_gap (eV)"].texts[0].get_text() == "mean 0.995"
    shown = sum(bar.get_height() for bar in axes["odd"].patches)
    note = axes["odd"].texts[0].get_text()
    assert f"{199 - shown:.0f} outside" in note and 1 <= 199 - shown <= 3
    assert sum(bar.get_height() for bar in axes["same"].patches) == 200
    assert not axes["none"].patches
    assert axes["mostly_zero"].get_yscale() == "log"
    assert axes["band_gap (eV)"].get_yscale() == "linear"


def test_names_are_no_formulas(drawn: list[Figure], tmp_path: Path) -> None:
    picture.draw(tmp_path / "x.png", {**MANIFEST, "name": "$a_$"}, {"$a_$": [1.0, 2.0]})
    assert {a.get_xlabel() for a in drawn[0].axes} >= {"$a_$"}


def test_more_labels_than_fit_are_said(drawn: list[Figure], tmp_path: Path) -> None:
    picture.draw(tmp_path / "x.png", MANIFEST, {f"l{n}": [1.0, 2.0] for n in range(20)})
    assert "11 of 20 labels shown" in drawn[0].get_suptitle()
    assert not any(a.get_xlabel() == "l11" for a in drawn[0].axes)
