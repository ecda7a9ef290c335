"""A server on this machine that answers what the client of the Materials Project asks."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pymatgen.core import Lattice, Structure

from chemeleon_cli.sources import materials_project, materials_project_client

KEY = "0123456789abcdef0123456789abcdef"


def material(n: int) -> dict[str, Any]:
    structure = Structure(Lattice.cubic(4 + 0.004 * n), ["Na", "Cl"] if n % 2 else ["K", "Br"], [[0, 0, 0], [0.5] * 3])
    return {
        "material_id": f"mp-{n}",
        "structure": structure.as_dict(),
        "band_gap": 0.1 * n,
        "energy_above_hull": None if n == 3 else 0.01 * n,
        "symmetry": {"number": 221},
        "deprecated": False,
        "nsites": 2,
    }


def energy(n: int, formula: str, chemsys: str, uncorrected: float, correction: float = 0.0) -> dict[str, Any]:
    return {
        "material_id": f"mp-{n}",
        "formula_pretty": formula,
        "chemsys": chemsys,
        "nelements": len(chemsys.split("-")),
        "uncorrected_energy_per_atom": uncorrected,
        "energy_per_atom": uncorrected + correction,
    }


ENERGIES = [
    energy(101, "Na", "Na", -1.3),
    energy(102, "Cl2", "Cl", -1.8),
    energy(103, "K", "K", -1.1),
    energy(104, "Br2", "Br", -1.6),
    energy(105, "NaCl", "Cl-Na", -3.4, -0.3),
    energy(106, "KBr", "Br-K", -3.0, -0.2),
    energy(107, "NaCl3", "Cl-Na", -2.4, -0.2),
    energy(108, "KNaCl2", "Cl-K-Na", -3.2, -0.25),
]
"""What is made of the elements of the materials; 107 and 108 would fit no query for these."""
STRANGERS = [energy(201, "Fe", "Fe", -8.5), energy(202, "FeCl2", "Cl-Fe", -5.0), energy(203, "LiF", "F-Li", -4.0)]


class Server(ThreadingHTTPServer):
    """Speaks two routes; `faults` are used up one a request before anything is answered."""

    daemon_threads = True

    def __init__(self, count: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.materials = {f"mp-{n}": material(n) for n in range(1, count + 1)}
        self.energies = ENERGIES + STRANGERS
        self.faults: list[Callable[[Handler], None]] = []
        self.asked: list[dict[str, str]] = []
        self.silence = 0.0
        """Seconds before the heartbeat."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/heartbeat":
            time.sleep(self.server.silence)
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
        if "/thermo" in url.path:
            return self.page(self.energies_for(query), query)
        found = list(self.server.materials.values())
        if "material_ids" in query:
            found = [self.server.materials[i] for i in query["material_ids"].split(",") if i in self.server.materials]
        found = [m for m in found if str(m["deprecated"]) == query["deprecated"]]
        if "band_gap_max" in query:
            found = [m for m in found if float(query["band_gap_min"]) <= m["band_gap"] <= float(query["band_gap_max"])]
        self.page(found, query)

    def energies_for(self, query: dict[str, str]) -> list[dict[str, Any]]:
        assert query["thermo_types"] == "GGA_GGA+U"
        found = self.server.energies
        if "chemsys" in query:
            found = [e for e in found if e["chemsys"] in query["chemsys"].split(",")]
        for name in ("nelements", "energy_per_atom"):
            low, high = float(query.get(f"{name}_min", "-inf")), float(query.get(f"{name}_max", "inf"))
            found = [e for e in found if low <= e[name] <= high]
        return found

    def page(self, found: list[dict[str, Any]], query: dict[str, str]) -> None:
        skip, limit = int(query.get("_skip", 0)), int(query.get("_limit", 1000))
        names = [name.split(".")[0] for name in query["_fields"].split(",")]
        page = [{k: m.get(k) for k in names} for m in found[skip : skip + limit]]
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


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Twelve materials in batches of five, asked for without waiting, while the block runs."""
    served = Server(12)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    monkeypatch.setenv("MP_API_ENDPOINT", served.url)
    monkeypatch.setattr(materials_project_client, "PAUSES", (0.0,) * 5)
    monkeypatch.setattr(materials_project, "BATCH", 5)
    yield served
    served.shutdown()
    served.server_close()
