"""The real client of the Materials Project against a server on this machine that answers its requests."""

import csv
import gzip
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from materials_project_server import ENERGIES, KEY, STRANGERS, Handler, Server, material, serving
from rich.console import Console

from chemeleon_cli.commands import fetch_data
from chemeleon_cli.errors import UserError
from chemeleon_cli.recipe.models import FetchData
from chemeleon_cli.sources import materials_project, materials_project_client, picture

SILENCE = 1.0
"""Seconds in which an answer has to come, where a test waits for one that does not."""


def refuses(status: int) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(status, {"detail": f"told {status}"}, {"Retry-After": "0"})


def garbles(handler: Handler) -> None:
    body = b'{"data": [{"material_id": "mp-'
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def keeps_silent(handler: Handler) -> None:
    time.sleep(3 * SILENCE)
    hangs_up(handler)


def sends_a_part(handler: Handler) -> None:
    """A first page that lacks some of what it counts, and no more pages."""
    handler.answer(200, {"data": [{"material_id": "mp-1"}], "meta": {"total_doc": 12}})


def sends_twice(handler: Handler) -> None:
    handler.answer(200, {"data": [{"material_id": "mp-1"}] * 2, "meta": {"total_doc": 2}})


def ends_early(handler: Handler) -> None:
    handler.answer(200, {"data": [], "meta": {"total_doc": 12}})


def hangs_up(handler: Handler) -> None:
    handler.answer(200, {"data": []}, cut=5)
    handler.close_connection = True


@pytest.fixture(autouse=True)
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all the rest; test_picture.py does it."""
    monkeypatch.setattr(picture, "draw", lambda path, manifest, labels: path.write_bytes(b""))


@pytest.fixture(autouse=True, scope="module")
def _one_schema() -> Iterator[None]:
    """The client derives the names of all fields anew for every field of every request, half of the time here."""
    from mp_api.client.core.client import BaseRester

    names: dict[Any, list[str]] = {}
    own = BaseRester.available_fields.fget
    assert own is not None

    def known(self: BaseRester) -> list[str]:
        if self.document_model not in names:
            names[self.document_model] = own(self)
        return names[self.document_model]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseRester, "available_fields", property(known))
        yield


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MP_API_KEY", KEY)
    with serving(monkeypatch) as served:
        yield served


def fetch(tmp_path: Path, api_key: str | None = None, **changes: Any) -> tuple[Path, str]:
    recipe = FetchData.model_validate(
        {
            "source": "materials-project",
            "name": "mp",
            "out": str(tmp_path),
            "query": {"num_sites": [1, 20], "energy_above_hull": [0.0, 0.1]},
            "fields": {"band_gap": "gap", "energy_above_hull": "e_above_hull", "symmetry.number": "group"},
            **changes,
        }
    )
    console = Console(record=True, quiet=False, width=300, file=(tmp_path / "out.txt").open("w"))
    folder = fetch_data.run(recipe, console, api_key)
    return folder, console.export_text()


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def test_materials_arrive_with_renamed_labels(server: Server, tmp_path: Path) -> None:
    folder, shown = fetch(tmp_path)
    manifest = manifest_of(folder)
    assert manifest["counts"]["accepted"] == 12
    assert manifest["licence"] == "CC BY 4.0"
    assert manifest["query"] == {"num_sites": [1, 20], "energy_above_hull": [0.0, 0.1]}
    assert manifest["labels"]["gap"]["mean"] == pytest.approx(0.65)
    assert manifest["labels"]["e_above_hull"]["count"] == 11
    assert manifest["labels"]["group"]["min"] == 221
    assert "12 of 12 materials" in shown
    first = server.asked[0]
    assert (first["nsites_min"], first["nsites_max"], first["energy_above_hull_max"]) == ("1", "20", "0.1")
    assert (first["_fields"], first["deprecated"]) == ("material_id", "False")
    assert [len(q["material_ids"].split(",")) for q in server.asked[1:]] == [5, 5, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mp", "out.txt"]


def test_labels_of_ones_own_join_those_of_the_project(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("material_id,measured,note\nmp-1,0.5,x\nmp-2,0.7,y\nmp-99,1,z\n")
    manifest = manifest_of(fetch(tmp_path, labels_file=str(tmp_path / "mine.csv"))[0])
    assert list(manifest["labels"]) == ["gap", "e_above_hull", "group", "measured"]
    assert manifest["labels"]["measured"]["count"] == 2
    assert manifest["labels_file"]["crystals_without_row"] == 10


def test_the_key_is_written_and_shown_nowhere(server: Server, tmp_path: Path) -> None:
    server.faults = [lambda handler: handler.answer(500, {"detail": f"bad {KEY}"})]
    _, shown = fetch(tmp_path)
    assert "bad (key)" in shown
    assert KEY not in shown
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    "faults",
    [
        *([refuses(500)] * 3, [refuses(504)] * 2, [refuses(429)] * 6, [garbles] * 2, [hangs_up] * 2),
        *([keeps_silent] * 5, [sends_a_part, ends_early], [sends_twice]),
    ],
    ids=["500", "504", "429", "garbled", "cut", "silent", "in part", "twice"],
)
def test_passing_troubles_pass(
    server: Server, tmp_path: Path, faults: list[Callable[[Handler], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(materials_project_client, "TIMEOUT", SILENCE)
    server.faults = list(faults)
    folder, _ = fetch(tmp_path)
    assert manifest_of(folder)["counts"]["accepted"] == 12
    assert not server.faults


def test_an_answer_that_stays_incomplete_is_an_error(server: Server, tmp_path: Path) -> None:
    server.faults = [sends_a_part, ends_early] * 6
    with pytest.raises(UserError, match=r"6 attempts: invalid answer \(1 of 12 documents came\)"):
        fetch(tmp_path)
    assert not (tmp_path / "mp").exists()


def test_a_server_that_never_greets_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(materials_project_client, "GREETING_TIMEOUT", 0.1)
    server.silence = 0.5
    with pytest.raises(UserError, match="no answer in 3 attempts: .*timed out"):
        fetch(tmp_path)
    assert "connecting to the Materials Project" in (tmp_path / "out.txt").read_text()


@pytest.mark.parametrize(
    "damage",
    [b"", b"no gzip", "half", gzip.compress(b'{"mp-1": ', mtime=0)],
    ids=["empty", "other", "half", "cut"],  # of fixed names, as every test process has to find the same tests
)
def test_what_was_kept_and_is_damaged_is_asked_for_again(server: Server, tmp_path: Path, damage: bytes | str) -> None:
    server.faults = [lambda h: answer_properly(h, server)] * 2 + [refuses(500)] * 100
    with pytest.raises(UserError):
        fetch(tmp_path)
    server.faults = []
    for kept in (tmp_path / ".mp.download").glob("*.json.gz"):
        kept.write_bytes(kept.read_bytes()[:-30] if isinstance(damage, str) else damage)
    folder, shown = fetch(tmp_path)
    assert manifest_of(folder)["counts"]["accepted"] == 12
    assert shown.count("is damaged: downloading it again") == 2


def test_deprecated_materials_come_where_they_are_asked_for(server: Server, tmp_path: Path) -> None:
    for name in ("mp-1", "mp-2", "mp-3"):
        server.materials[name]["deprecated"] = True
    assert manifest_of(fetch(tmp_path)[0])["counts"]["accepted"] == 9
    folder, _ = fetch(tmp_path, name="old", query={"deprecated": True})
    assert manifest_of(folder)["counts"]["accepted"] == 3


def test_a_field_without_a_number_is_said_and_costs_nothing(server: Server, tmp_path: Path) -> None:
    folder, shown = fetch(tmp_path, fields={"band_gap": "gap", "formula_pretty": "formula"})
    assert list(manifest_of(folder)["labels"]) == ["gap"]
    assert "column 'formula' is not a label: contains no number" in shown
    assert manifest_of(folder)["columns"] == {"band_gap": "gap", "formula_pretty": "formula"}


def test_a_server_that_stays_away_keeps_what_has_arrived(server: Server, tmp_path: Path) -> None:
    server.faults = [lambda h: answer_properly(h, server)] * 2 + [refuses(500)] * 100
    with pytest.raises(UserError, match="no answer in 6 attempts") as error:
        fetch(tmp_path)
    assert "continue" in error.value.hint
    assert sorted(p.name for p in tmp_path.iterdir()) == [".mp.download", "out.txt"]
    server.faults, before = [], len(server.asked)
    folder, _ = fetch(tmp_path)
    assert manifest_of(folder)["counts"]["accepted"] == 12
    assert [len(q["material_ids"].split(",")) for q in server.asked[before:]] == [5, 2]
    assert not (tmp_path / ".mp.download").exists()


def answer_properly(handler: Handler, server: Server) -> None:
    kept, server.faults = server.faults, []
    server.asked.pop()
    handler.do_GET()
    server.faults = kept


def test_another_query_does_not_go_on_with_the_old_one(server: Server, tmp_path: Path) -> None:
    server.faults = [lambda h: answer_properly(h, server)] * 2 + [refuses(500)] * 100
    with pytest.raises(UserError):
        fetch(tmp_path)
    server.faults = []
    folder, _ = fetch(tmp_path, query={"band_gap": [0.0, 0.45]})
    assert manifest_of(folder)["counts"]["accepted"] == 4


def hull_of(folder: Path) -> tuple[dict[str, tuple[str, float]], dict[str, Any]]:
    """Formula and energy by id, and what is said of them."""
    with gzip.open(folder / "hull.csv.gz", "rt", newline="") as file:
        rows = [(r["id"], r["composition"], float(r["energy_per_atom"])) for r in csv.DictReader(file)]
    return {name: (formula, energy) for name, formula, energy in rows}, json.loads((folder / "hull.json").read_text())


@pytest.mark.parametrize(
    ("kind", "scale", "field"),
    [
        ("uncorrected", "PBE/MP-uncorrected", "uncorrected_energy_per_atom"),
        ("mp2020", "PBE/MP2020", "energy_per_atom"),
    ],
)
def test_energies_of_all_that_competes_come_too(
    server: Server, tmp_path: Path, kind: str, scale: str, field: str
) -> None:
    folder, _ = fetch(tmp_path, entries=kind)
    found, about = hull_of(folder)
    assert {name: pytest.approx(e) for name, (_, e) in found.items()} == {e["material_id"]: e[field] for e in ENERGIES}
    assert (about["source"], about["energy_scale"], about["count"]) == ("materials-project", scale, 8)
    assert about["sha256"] == hashlib.sha256((folder / "hull.csv.gz").read_bytes()).hexdigest()
    files = manifest_of(folder)["files"]
    assert manifest_of(folder)["energy_scale"] == scale
    assert files["hull.csv.gz"] == {"rows": 8, "sha256": about["sha256"]}
    assert files["hull.json"]["sha256"] == hashlib.sha256((folder / "hull.json").read_bytes()).hexdigest()
    asked = [q["chemsys"].split(",") for q in server.asked if "chemsys" in q]
    assert len(asked) == 1
    assert len(set(asked[0])) == 2**4 - 1
    assert KEY not in (folder / "hull.json").read_text()


def test_the_hull_that_rewards_read_is_that_of_pymatgen(server: Server, tmp_path: Path) -> None:
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition

    from chemeleon_cli.core.scoring.hull import Hull

    hull = Hull.load(fetch(tmp_path, entries="uncorrected")[0] / "hull.csv.gz")
    assert hull.energy_scale == "PBE/MP-uncorrected"
    made = {
        e["formula_pretty"]: e["uncorrected_energy_per_atom"]
        for e in ENERGIES
        if set(e["chemsys"].split("-")) <= {"Na", "Cl"}
    }
    diagram = PhaseDiagram([PDEntry(Composition(f), e * Composition(f).num_atoms) for f, e in made.items()])
    for formula in ("NaCl3", "NaCl2", "Na3Cl"):
        expected = diagram.get_hull_energy_per_atom(Composition(formula))
        above, reason = hull.e_above_hull(formula, -2.0)
        assert reason is None
        assert above == pytest.approx(-2.0 - expected, abs=1e-6)


def test_many_elements_are_asked_for_in_parts(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(materials_project, "FEW", 3)
    monkeypatch.setattr(materials_project, "CUTS", (None, -3.0, None))
    folder, _ = fetch(tmp_path, entries="mp2020")
    found, _ = hull_of(folder)
    assert set(found) == {e["material_id"] for e in ENERGIES}
    asked = [q for q in server.asked if "nelements_min" in q]
    assert len(asked) == 5 * 2
    assert {(q["nelements_min"], q.get("nelements_max")) for q in asked} == {
        ("1", "1"), ("2", "2"), ("3", "3"), ("4", "4"), ("5", None)
    }  # fmt: skip


def test_the_systems_of_eight_elements_go_in_addresses_that_the_server_takes(server: Server, tmp_path: Path) -> None:
    elements = ("Br", "Cl", "F", "Fe", "K", "Li", "Mg", "Na")
    found = materials_project.hull_entries(elements, "mp2020", tmp_path / "hull", KEY, print)
    assert len(found) == 11
    asked = [q["chemsys"].split(",") for q in server.asked]
    assert len(asked) > 1
    assert sorted(len(set(system.split("-"))) for part in asked for system in part).count(4) == 70
    assert sum(map(len, asked)) == 255


def test_a_download_of_energies_goes_on(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(materials_project, "FEW", 3)
    monkeypatch.setattr(materials_project, "CUTS", (None, -3.0, None))
    server.faults = [lambda h: answer_properly(h, server)] * 8 + [refuses(500)] * 100
    with pytest.raises(UserError, match="no answer in 6 attempts"):
        fetch(tmp_path, entries="mp2020")
    assert not (tmp_path / "mp").exists()
    server.faults, before = [], len(server.asked)
    folder, _ = fetch(tmp_path, entries="mp2020")
    assert len(hull_of(folder)[0]) == 8
    again = server.asked[before:]
    assert not [q for q in again if "material_ids" in q]  # the structures were there
    assert 0 < len(again) < 10
    assert not (tmp_path / ".mp.download").exists()


def test_no_energies_is_an_error_and_leaves_no_folder(server: Server, tmp_path: Path) -> None:
    server.energies = STRANGERS
    with pytest.raises(UserError, match="no energies"):
        fetch(tmp_path, entries="mp2020")
    assert not (tmp_path / "mp").exists()


def test_many_ids_go_in_addresses_that_the_server_takes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.materials = {f"mp-{n}": material(n) for n in range(1, 1301)}
    monkeypatch.setattr(materials_project, "BATCH", 1000)
    folder, _ = fetch(tmp_path)
    assert manifest_of(folder)["counts"]["accepted"] == 1300


def test_a_material_that_does_not_come_is_listed(server: Server, tmp_path: Path) -> None:
    gone = server.materials.pop("mp-7")
    server.materials["mp-7b"] = gone
    folder, _ = fetch(tmp_path)
    assert "mp-7," in (folder / "rejected.csv").read_text()
    assert manifest_of(folder)["counts"] | {"train": 0, "val": 0, "test": 0} == {
        "read": 12, "rejected": 1, "accepted": 11, "train": 0, "val": 0, "test": 0
    }  # fmt: skip


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_said_at_once(server: Server, tmp_path: Path, status: int) -> None:
    server.faults = [refuses(status)]
    with pytest.raises(UserError, match="refused the key") as error:
        fetch(tmp_path)
    assert len(server.asked) == 1
    assert "--api-key" in error.value.hint


def test_a_wrong_key_given_as_an_argument_goes_before_the_environment(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="refused the key"):
        fetch(tmp_path, api_key="f" * 32)


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_refused_query_is_said_at_once(server: Server, tmp_path: Path, status: int) -> None:
    server.faults = [refuses(status)]
    with pytest.raises(UserError, match="refused the query"):
        fetch(tmp_path)
    assert len(server.asked) == 1


def test_mistakes_in_the_recipe_are_found_before_a_query(server: Server, tmp_path: Path) -> None:
    for changes, hint in (
        ({"query": {"num_site": [1, 20]}}, "did you mean 'num_sites'?"),
        ({"query": {"magnetic_ordering": "up"}}, "correct it"),
        ({"query": {"has_props": ["charm"]}}, "check `query:`"),
        ({"query": {"band_gap": [1]}}, "write it as [1, 6]"),
        ({"query": {"band_gap": {"min": 1, "max": 6}}}, "write it as [1, 6]"),
        ({"query": {"band_gap": "1-2"}}, "write it as [1, 6]"),
        ({"query": {"num_sites": True}}, "write it as [1, 6]"),
        ({"fields": {"band_gpa": "gap"}}, "did you mean 'band_gap'?"),
        ({"fields": {"band_gap": "x", "energy_above_hull": "x"}}, "give each its own name"),
    ):
        with pytest.raises(UserError) as error:
            fetch(tmp_path, **changes)
        assert error.value.hint.startswith(hint)
        assert KEY not in error.value.message
    assert not server.asked


def test_without_a_network_the_error_comes_soon(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MP_API_ENDPOINT", "http://127.0.0.1:9/")
    with pytest.raises(UserError, match="no answer in 3 attempts"):
        fetch(tmp_path)


def test_nothing_found_is_an_error(server: Server, tmp_path: Path) -> None:
    server.materials = {}
    with pytest.raises(UserError, match="no material in the Materials Project fits"):
        fetch(tmp_path)


def test_no_key_and_half_a_key_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pymatgen.core import SETTINGS

    monkeypatch.delenv("MP_API_KEY", raising=False)
    monkeypatch.setitem(SETTINGS, "PMG_MAPI_KEY", None)
    with pytest.raises(UserError, match="no key"):
        fetch(tmp_path)
    monkeypatch.setitem(SETTINGS, "PMG_MAPI_KEY", "short")
    with pytest.raises(UserError, match="has 5 characters"):
        fetch(tmp_path)
    monkeypatch.setitem(SETTINGS, "PMG_MAPI_KEY", KEY)
    assert materials_project.find_key(None) == KEY


def test_a_key_in_the_query_is_refused_with_the_reason(tmp_path: Path) -> None:
    from chemeleon_cli.recipe.load import load

    (tmp_path / "mine.yaml").write_text(f"source: materials-project\nquery:\n  api_key: {KEY}\n")
    with pytest.raises(UserError, match=r"mine\.yaml:2: query: found a key for an API; .*kept and shared") as error:
        load(tmp_path / "mine.yaml", FetchData)
    assert KEY not in error.value.message


def test_the_key_of_pymatgens_settings_is_taken(tmp_path: Path) -> None:
    (tmp_path / ".pmgrc.yaml").write_text(f"PMG_MAPI_KEY: {KEY}\n")
    code = "from chemeleon_cli.sources.materials_project import find_key; print(find_key(None))"
    hidden = ("MP_API_KEY", "PMG_MAPI_KEY", "PMG_CONFIG_FILE")
    environment = {k: v for k, v in os.environ.items() if k not in hidden} | {"HOME": str(tmp_path)}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == KEY


@pytest.mark.parametrize("setting", ["query={num_sites: [1, 2]}", "fields={band_gap: gap}", "entries=mp2020"])
def test_settings_for_the_materials_project_go_with_no_other_source(setting: str) -> None:
    from chemeleon_cli.recipe.load import load

    with pytest.raises(UserError, match="is for materials-project only; found 'mine.csv' as `source`"):
        load(None, FetchData, settings=["source=mine.csv", setting])
    with pytest.raises(UserError, match="labels of materials-project are chosen with `fields`"):
        load(None, FetchData, settings=["source=materials-project", "labels={band_gap: gap}"])
