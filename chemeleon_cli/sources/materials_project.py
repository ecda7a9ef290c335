"""Crystals from the Materials Project through its own client, in steps that can be taken up again.

First the ids of all that fits the query, then documents in batches of 1,000, each kept on disk as it comes. A
download that was cut off goes on with the batch it was at. The key goes to the server and nowhere else.

For a convex hull, energies come too: of everything that is made of the elements of the crystals, not only of what
fits the query, as the hull is made by the phases that compete.
"""

from __future__ import annotations

import gzip
import inspect
import itertools
import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from chemeleon_cli.errors import UserError, did_you_mean
from chemeleon_cli.sources.files import write_lines
from chemeleon_cli.sources.records import Record

if TYPE_CHECKING:
    from mp_api.client.core.client import BaseRester
    from mp_api.client.routes.materials.summary import SummaryRester
    from mp_api.client.routes.materials.thermo import ThermoRester

Rester = TypeVar("Rester", bound="BaseRester")
Result = TypeVar("Result")

BATCH = 1_000
PAUSES = (1.0, 3.0, 10.0, 30.0, 60.0)
"""Seconds to wait before each new attempt; the client's own three quick attempts come before the first."""
TIMEOUT = 120
"""Seconds; a batch of structures is some 5 MB."""
KEY_HINT = "get a free key at https://next-gen.materialsproject.org/api; pass --api-key, or set MP_API_KEY"
ENERGIES = {
    "uncorrected": ("uncorrected_energy_per_atom", "PBE/MP-uncorrected"),
    "mp2020": ("energy_per_atom", "PBE/MP2020"),
}
"""Kind of energy: its field of a thermo document (GGA and GGA+U calculations), and the name of its scale."""
FEW = 8
"""Up to so many elements, their chemical systems (2^n - 1 of them) are asked for by name."""
CUTS = (None, -8.0, -7.0, -6.0, -5.0, -4.0, None)
"""eV/atom; for more elements, everything is asked for in parts between these energies: a page or some of 1,000."""
MOST = 5
"""Number of elements above which all compounds are few enough to be asked for together."""
_NOT_FILTERS = {"self", "num_chunks", "chunk_size", "all_fields", "fields", "kwargs", "_page", "_sort_fields"}


def fetch(
    query: Mapping[str, Any],
    fields: Mapping[str, str],
    folder: Path,
    api_key: str | None,
    say: Callable[[str], object],
) -> Iterator[Record]:
    """Every material that fits a query.

    Args:
        query: filters of the client's summary search by its names; pairs are ranges, both ends included.
        fields: field of a summary document (dots lead inward): name of the label.
        folder: where batches wait until the download is complete; of an earlier attempt at the same query, they
            are used.
        api_key: else MP_API_KEY, else PMG_MAPI_KEY of pymatgen's settings.
        say: takes lines of progress.

    Raises:
        UserError: no key or a refused one, an unknown filter or field, nothing found, or a server that stays away.
    """
    key = find_key(api_key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the client warns about its own deprecations
        rester = _summary(key, say)
        request = {"deprecated": False, **_filters(rester, query)}
        wanted = ["material_id", "structure", *_fields(rester, fields)]
        _same_or_fresh(folder, {"query": dict(query), "fields": wanted})
        ids = _kept(folder / "ids.json.gz", lambda: _ids(rester, request), key, say)
        if not ids:
            raise UserError("no material of the Materials Project fits this query", "widen the ranges under `query:`")
        for start in range(0, len(ids), BATCH):
            part = ids[start : start + BATCH]
            documents = _kept(
                folder / f"batch-{start // BATCH:05d}.json.gz",
                lambda part=part: _documents(rester, part, wanted),
                key,
                say,
            )
            say(f"{start + len(part):,} of {len(ids):,} materials")
            for name in part:
                yield _record(name, documents.get(name), fields)


def hull_entries(
    elements: Sequence[str], kind: str, folder: Path, api_key: str | None, say: Callable[[str], object]
) -> list[tuple[str, str, float]]:
    """(id, reduced formula, energy in eV/atom) of every material that is made of some of these elements, by id.

    Args:
        elements: symbols.
        kind: of energy, one of ENERGIES.
        folder: where batches wait until the download is complete.
        api_key: as for `fetch`.
        say: takes lines of progress.

    Raises:
        UserError: as of `fetch`, or there is no entry at all.
    """
    key = find_key(api_key)
    column = ENERGIES[kind][0]
    known: dict[str, tuple[str, str, float]] = {}
    parts = _parts(elements)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rester = _thermo(key, say)
        _same_or_fresh(folder, {"elements": sorted(elements)})
        for n, part in enumerate(parts):
            documents = _kept(folder / f"part-{n:05d}.json.gz", lambda part=part: _energies(rester, part), key, say)
            for document in documents:
                if document[column] is not None and set(document["chemsys"].split("-")) <= set(elements):
                    name = str(document["material_id"])
                    known[name] = (name, document["formula_pretty"], float(document[column]))
            say(f"{len(known):,} energies for the hull, part {n + 1} of {len(parts)}")
    if not known:
        raise UserError("the Materials Project sent no energies for these elements", "take `entries: null`")
    return [known[name] for name in sorted(known)]


def _parts(elements: Sequence[str]) -> list[dict[str, Any]]:
    """Searches that together find everything made of these elements (and more, where they are many)."""
    if len(elements) <= FEW:
        subsets = (s for n in range(len(elements)) for s in itertools.combinations(sorted(elements), n + 1))
        return [{"chemsys": ["-".join(subset) for subset in subsets]}]
    return [
        {"num_elements": (n, n if n < MOST else None), "total_energy": window}
        for n in range(1, MOST + 1)
        for window in itertools.pairwise(CUTS)
    ]


def _energies(rester: ThermoRester, part: Mapping[str, Any]) -> list[dict[str, Any]]:
    fields = ["material_id", "formula_pretty", "chemsys", *(field for field, _ in ENERGIES.values())]
    found = rester.search(**part, thermo_types=["GGA_GGA+U"], fields=fields, all_fields=False)
    return [{field: document[field] for field in fields} for document in found]  # type: ignore[index]


def find_key(api_key: str | None) -> str:
    """The key as given, of the environment, or of pymatgen's settings."""
    from pymatgen.core import SETTINGS

    key = api_key or os.environ.get("MP_API_KEY") or SETTINGS.get("PMG_MAPI_KEY")
    if not key:
        raise UserError("no key for the Materials Project", KEY_HINT)
    if len(key) != 32:
        raise UserError(f"the key for the Materials Project has {len(key)} characters; keys have 32", KEY_HINT)
    return str(key)


def _summary(key: str, say: Callable[[str], object]) -> SummaryRester:
    from mp_api.client.routes.materials.summary import SummaryRester

    return _client(SummaryRester, key, say)


def _thermo(key: str, say: Callable[[str], object]) -> ThermoRester:
    from mp_api.client.routes.materials.thermo import ThermoRester

    return _client(ThermoRester, key, say)


def _client(rester: type[Rester], key: str, say: Callable[[str], object]) -> Rester:
    endpoint = os.environ.get("MP_API_ENDPOINT") or None

    def connect() -> Rester:
        return rester(
            api_key=key, endpoint=endpoint, use_document_model=False, mute_progress_bars=True, timeout=TIMEOUT
        )

    return _patiently(connect, key, say, attempts=3)  # offline, nobody wants to wait


def _filters(rester: SummaryRester, query: Mapping[str, Any]) -> dict[str, Any]:
    """The query as the client takes it, every name checked."""
    known = sorted(set(inspect.signature(rester.search).parameters) - _NOT_FILTERS)
    for name in query:
        if name not in known:
            hint = did_you_mean(name, known, "") or f"known are {', '.join(known)}"
            raise UserError(f"query: the Materials Project has no filter '{name}'", hint)
    filters = {k: tuple(v) if _is_range(v) else v for k, v in query.items() if v is not None}
    if "magnetic_ordering" in filters:
        from pymatgen.analysis.magnetism import Ordering

        known = [ordering.value for ordering in Ordering]
        if filters["magnetic_ordering"] not in known:
            raise UserError(f"query: magnetic_ordering is one of {', '.join(known)}", "mend it in the recipe")
        filters["magnetic_ordering"] = Ordering(filters["magnetic_ordering"])
    return filters


def _is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float | None) for v in value)


def _fields(rester: SummaryRester, fields: Mapping[str, str]) -> list[str]:
    known = rester.available_fields
    for name in fields:
        if name.split(".")[0] not in known:
            hint = did_you_mean(name, known, "") or f"known are {', '.join(known)}"
            raise UserError(f"fields: a material has no field '{name}'", hint)
    if len(set(fields.values())) < len(fields):
        raise UserError("fields: two fields would be one label", "give each a name of its own")
    return list(fields)


def _same_or_fresh(folder: Path, request: dict[str, Any]) -> None:
    """Make the folder; batches of another request in it go."""
    text = json.dumps(request, sort_keys=True)
    kept = folder / "request.json"
    if kept.is_file() and kept.read_text(encoding="utf-8") == text:
        return
    for old in folder.glob("*.json*"):
        old.unlink()
    write_lines(kept, [text])


def _kept(path: Path, ask: Callable[[], Result], key: str, say: Callable[[str], object]) -> Result:
    """An answer, from disk if it is there; an empty one is not kept."""
    if path.is_file():
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return json.load(file)
    answer = _patiently(ask, key, say)
    if answer:
        write_lines(path, [json.dumps(answer)])
    return answer


def _ids(rester: SummaryRester, request: dict[str, Any]) -> list[str]:
    found = rester.search(**request, fields=["material_id"], all_fields=False)
    return sorted({str(document["material_id"]) for document in found})  # type: ignore[index]


def _documents(rester: SummaryRester, ids: list[str], fields: list[str]) -> dict[str, Any]:
    found = rester.search(material_ids=ids, deprecated=False, fields=fields, all_fields=False)
    return {str(document["material_id"]): document for document in found}  # type: ignore[index]


def _record(name: str, document: Mapping[str, Any] | None, fields: Mapping[str, str]) -> Record:
    if document is None:
        return Record(name, "broken", "found by the query, but the server did not send it", {})
    structure = {k: v for k, v in (document.get("structure") or {}).items() if k != "properties"}
    return Record(name, "structure", structure, {label: _inward(document, name) for name, label in fields.items()})


def _inward(document: Any, field: str) -> Any:
    for part in field.split("."):
        document = document.get(part) if isinstance(document, dict) else None
    return document


def _patiently(
    ask: Callable[[], Result], key: str, say: Callable[[str], object], attempts: int = len(PAUSES) + 1
) -> Result:
    """An answer, asking again after rate limits, server errors, time-outs and cut or garbled answers.

    Raises:
        UserError: the server refused, or none of the attempts got an answer.
    """
    from mp_api.client.core.exceptions import MPRestError
    from requests.exceptions import RequestException

    problem = ""
    for attempt in range(attempts):
        if attempt:
            pause = PAUSES[attempt - 1]
            say(f"Materials Project: {problem}; again in {pause:g} s")
            time.sleep(pause)
        try:
            return ask()
        except (json.JSONDecodeError, KeyError) as error:
            problem = f"a garbled answer ({error})"
        except (MPRestError, RequestException, ValueError, TypeError, IndexError) as error:
            problem = " ".join(str(error).replace(key, "(key)").split())[:300] or type(error).__name__
            status = re.search(r"status code (\d+)", problem)
            network = isinstance(error, RequestException) or isinstance(error.__context__, RequestException)
            _refuse(problem, int(status.group(1)) if status else None, network)
    raise UserError(
        f"Materials Project: no answer in {attempts} attempts: {problem}",
        "what has arrived is kept: run the same command later to go on",
    )


def _refuse(problem: str, status: int | None, network: bool) -> None:
    """Raise where asking again cannot help."""
    if status in (401, 403):
        raise UserError(f"the Materials Project refused the key (status {status})", KEY_HINT)
    if not network and (status is None or (status < 500 and status != 429)):
        raise UserError(f"the Materials Project refused the query: {problem}", "look at `query:` and `fields:`")
