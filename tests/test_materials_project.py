"""The real client of the Materials Project against a server on this machine that answers its requests."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pymatgen.core import Lattice, Structure
from rich.console import Console

from chemeleon_cli.commands import fetch_data
from chemeleon_cli.errors import UserError
from chemeleon_cli.recipe.models import FetchData
from chemeleon_cli.sources import materials_project

KEY = "0123456789abcdef0123456789abcdef"


def material(n: int) -> dict[str, Any]:
    structure = Structure(Lattice.cubic(4 + 0.01 * n), ["Na", "Cl"] if n % 2 else ["K", "Br"], [[0, 0, 0], [0.5] * 3])
    return {
        "material_id": f"mp-{n}",
        "structure": structure.as_dict(),
        "band_gap": 0.1 * n,
        "energy_above_hull": None if n == 3 else 0.01 * n,
        "symmetry": {"number": 221},
        "deprecated": False,
        "nsites": 2,
    }


class Server(ThreadingHTTPServer):
    """Speaks the summary route; `faults` are used up one a request before anything is answered."""

    daemon_threads = True

    def __init__(self, count: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.materials = {f"mp-{n}": material(n) for n in range(1, count + 1)}
        self.faults: list[Callable[[Handler], None]] = []
        self.asked: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/heartbeat":
            return self.answer(
                200, {"status": "OK", "db_version": "2026.01", "version": "1.0.0", "access_controlled_batch_ids": []}
            )
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        self.server.asked.append(query)
        if self.server.faults:
            return self.server.faults.pop(0)(self)
        if self.headers["x-api-key"] != KEY:
            return self.answer(401, {"detail": "no such key"})
        if len(self.path) > 2000:  # the real server, too, refuses a thousand ids in one address
            return self.answer(414, {"detail": "status code 414"})
        found = list(self.server.materials.values())
        if "material_ids" in query:
            found = [self.server.materials[i] for i in query["material_ids"].split(",") if i in self.server.materials]
        if "band_gap_max" in query:
            found = [m for m in found if float(query["band_gap_min"]) <= m["band_gap"] <= float(query["band_gap_max"])]
        skip, limit = int(query.get("_skip", 0)), int(query.get("_limit", 1000))
        names = [name.split(".")[0] for name in query["_fields"].split(",")]
        page = [{k: m[k] for k in names} for m in found[skip : skip + limit]]
        self.answer(200, {"data": page, "meta": {"total_doc": len(found)}})

    def answer(self, status: int, content: Any, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def refuses(status: int) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(status, {"detail": f"told {status}"}, {"Retry-After": "0"})


def garbles(handler: Handler) -> None:
    body = b'{"data": [{"material_id": "mp-'
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def hangs_up(handler: Handler) -> None:
    handler.answer(200, {"data": []}, cut=5)
    handler.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Twelve materials; batches of five; no waiting."""
    served = Server(12)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    monkeypatch.setenv("MP_API_ENDPOINT", served.url)
    monkeypatch.setenv("MP_API_KEY", KEY)
    monkeypatch.setattr(materials_project, "PAUSES", (0.0,) * 5)
    monkeypatch.setattr(materials_project, "BATCH", 5)
    yield served
    served.shutdown()
    served.server_close()


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


def test_the_key_is_written_and_shown_nowhere(server: Server, tmp_path: Path) -> None:
    server.faults = [lambda handler: handler.answer(500, {"detail": f"bad {KEY}"})]
    _, shown = fetch(tmp_path)
    assert "bad (key)" in shown
    assert KEY not in shown
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    "faults",
    [[refuses(500)] * 3, [refuses(504)] * 2, [refuses(429)] * 6, [garbles] * 2, [hangs_up] * 2],
    ids=["500", "504", "429", "garbled", "cut"],
)
def test_passing_troubles_pass(server: Server, tmp_path: Path, faults: list[Callable[[Handler], None]]) -> None:
    server.faults = list(faults)
    folder, _ = fetch(tmp_path)
    assert manifest_of(folder)["counts"]["accepted"] == 12
    assert not server.faults


def test_a_server_that_stays_away_keeps_what_has_arrived(server: Server, tmp_path: Path) -> None:
    server.faults = [lambda h: answer_properly(h, server)] * 2 + [refuses(500)] * 100
    with pytest.raises(UserError, match="no answer in 6 attempts") as error:
        fetch(tmp_path)
    assert "go on" in error.value.hint
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
        ({"query": {"api_key": KEY}}, "known are"),
        ({"query": {"magnetic_ordering": "up"}}, "mend it"),
        ({"query": {"has_props": ["charm"]}}, "look at `query:`"),
        ({"query": {"band_gap": [1]}}, "look at `query:`"),
        ({"fields": {"band_gpa": "gap"}}, "did you mean 'band_gap'?"),
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
    with pytest.raises(UserError, match="no material of the Materials Project fits"):
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
