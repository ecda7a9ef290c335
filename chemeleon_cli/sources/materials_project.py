"""Crystals from the Materials Project through its own client, in steps that can be resumed.

First the ids of all materials that match the query are downloaded, then documents in batches of 1,000, each of which
is saved at once. An interrupted download continues with the batch where it stopped.

For a convex hull, energies are downloaded too: of all materials made of the same elements, not only of those that match
the query, because the hull depends on all competing phases.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemeleon_cli.errors import UserError, did_you_mean
from chemeleon_cli.sources.materials_project_client import Incomplete, client, find_key, kept, same_or_fresh
from chemeleon_cli.sources.records import Record

if TYPE_CHECKING:
    from mp_api.client.routes.materials.summary import SummaryRester
    from mp_api.client.routes.materials.thermo import ThermoRester

BATCH = 1_000
ENERGIES = {
    "uncorrected": ("uncorrected_energy_per_atom", "PBE/MP-uncorrected"),
    "mp2020": ("energy_per_atom", "PBE/MP2020"),
}
"""For each kind of energy, its field of a thermo document (GGA and GGA+U calculations) and the name of its scale."""
FEW = 8
"""Up to this number of elements n, the 2^n - 1 chemical systems are requested by name."""
ADDRESS = 1_500
"""Largest number of characters of these names in one request; servers accept addresses of 2,000."""
CUTS = (None, -8.0, -7.0, -6.0, -5.0, -4.0, None)
"""eV/atom; for more elements, all materials are requested in ranges between these energies, a few pages each."""
MOST = 5
"""Materials with this number of elements or more are few enough to be requested together."""
_NOT_FILTERS = {"self", "num_chunks", "chunk_size", "all_fields", "fields", "kwargs", "_page", "_sort_fields"}


def fetch(
    query: Mapping[str, Any],
    fields: Mapping[str, str],
    folder: Path,
    api_key: str | None,
    report: Callable[[str], object],
) -> Iterator[Record]:
    """Every material that matches a query.

    Args:
        query: filters of the client's summary search by name; a pair is a range that includes both ends.
        fields: the name of the label for each field of a summary document; dots lead to nested fields.
        folder: where batches are kept until the download is complete; those of an earlier attempt are used.
        api_key: the key; None: MP_API_KEY, or PMG_MAPI_KEY of pymatgen's settings.
        report: prints a line of progress.

    Raises:
        UserError: the key is missing or refused, a filter or field is unknown, nothing matches, or the server does not
            answer.
    """
    key = find_key(api_key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the client warns about its own deprecations
        rester = _summary(key, report)
        request = {"deprecated": False, **_filters(rester, query)}
        wanted = ["material_id", "structure", *_fields(rester, fields)]
        same_or_fresh(folder, {"query": dict(query), "fields": wanted})
        ids = kept(folder / "ids.json.gz", lambda: _ids(rester, request), key, report)
        if not ids:
            raise UserError("no material in the Materials Project fits this query", "widen the ranges under `query:`")
        for start in range(0, len(ids), BATCH):
            part = ids[start : start + BATCH]
            digest = hashlib.sha256(",".join(part).encode()).hexdigest()[:16]  # the ids may have been requested again
            documents = kept(
                folder / f"batch-{digest}.json.gz",
                lambda part=part: _documents(rester, part, wanted, request["deprecated"]),
                key,
                report,
            )
            report(f"{start + len(part):,} of {len(ids):,} materials")
            for name in part:
                yield _record(name, documents.get(name), fields)


def hull_entries(
    elements: Sequence[str], kind: str, folder: Path, api_key: str | None, report: Callable[[str], object]
) -> list[tuple[str, str, float]]:
    """(id, reduced formula, energy in eV/atom) of every material that is made of some of these elements, by id.

    Args:
        elements: their symbols.
        kind: the kind of energy, one of ENERGIES.
        folder: where batches are kept until the download is complete.
        api_key: as for `fetch`.
        report: prints a line of progress.

    Raises:
        UserError: as `fetch`, or there are no energies.
    """
    key = find_key(api_key)
    column = ENERGIES[kind][0]
    known: dict[str, tuple[str, str, float]] = {}
    parts = _parts(elements)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rester = _thermo(key, report)
        same_or_fresh(folder, {"elements": sorted(elements)})
        for n, part in enumerate(parts):
            documents = kept(folder / f"part-{n:05d}.json.gz", lambda part=part: _energies(rester, part), key, report)
            for document in documents:
                if document[column] is not None and set(document["chemsys"].split("-")) <= set(elements):
                    name = str(document["material_id"])
                    known[name] = (name, document["formula_pretty"], float(document[column]))
            report(f"{len(known):,} energies for the hull, part {n + 1} of {len(parts)}")
    if not known:
        raise UserError("the Materials Project sent no energies for these elements", "use `entries: null`")
    return [known[name] for name in sorted(known)]


def _parts(elements: Sequence[str]) -> list[dict[str, Any]]:
    """Searches that together find all materials made of these elements (and others, if there are many elements)."""
    if len(elements) <= FEW:
        systems: list[list[str]] = [[]]
        for subset in (s for n in range(len(elements)) for s in itertools.combinations(sorted(elements), n + 1)):
            system = "-".join(subset)
            if sum(len(name) + 3 for name in (*systems[-1], system)) > ADDRESS:  # a comma is sent as %2C
                systems.append([])
            systems[-1].append(system)
        return [{"chemsys": names} for names in systems]
    return [
        {"num_elements": (n, n if n < MOST else None), "total_energy": window}
        for n in range(1, MOST + 1)
        for window in itertools.pairwise(CUTS)
    ]


def _energies(rester: ThermoRester, part: Mapping[str, Any]) -> list[dict[str, Any]]:
    fields = ["material_id", "formula_pretty", "chemsys", *(field for field, _ in ENERGIES.values())]
    found = rester.search(**part, thermo_types=["GGA_GGA+U"], fields=fields, all_fields=False)
    return [{field: document[field] for field in fields} for document in _by_id(found).values()]


def _summary(key: str, report: Callable[[str], object]) -> SummaryRester:
    from mp_api.client.routes.materials.summary import SummaryRester

    return client(SummaryRester, key, report)


def _thermo(key: str, report: Callable[[str], object]) -> ThermoRester:
    from mp_api.client.routes.materials.thermo import ThermoRester

    return client(ThermoRester, key, report)


def _filters(rester: SummaryRester, query: Mapping[str, Any]) -> dict[str, Any]:
    """The query in the form that the client expects, with all names and ranges checked."""
    parameters = inspect.signature(rester.search).parameters
    known = sorted(set(parameters) - _NOT_FILTERS)
    for name, value in query.items():
        if name not in known:
            hint = did_you_mean(name, known, "") or f"known are {', '.join(known)}"
            raise UserError(f"query: the Materials Project has no filter '{name}'", hint)
        ranged = "tuple" in str(parameters[name].annotation)
        if ranged and value is not None and not _is_number(value) and not _is_range(value):
            raise UserError(f"query: {name}: found {value!r}; expected a number or a pair", "write it as [1, 6]")
    filters = {k: tuple(v) if _is_range(v) else v for k, v in query.items() if v is not None}
    if "magnetic_ordering" in filters:
        from pymatgen.analysis.magnetism import Ordering

        known = [ordering.value for ordering in Ordering]
        if filters["magnetic_ordering"] not in known:
            raise UserError(f"query: magnetic_ordering is one of {', '.join(known)}", "correct it in the recipe")
        filters["magnetic_ordering"] = Ordering(filters["magnetic_ordering"])
    return filters


def _is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(v is None or _is_number(v) for v in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fields(rester: SummaryRester, fields: Mapping[str, str]) -> list[str]:
    known = rester.available_fields
    for name in fields:
        if name.split(".")[0] not in known:
            hint = did_you_mean(name, known, "") or f"known are {', '.join(known)}"
            raise UserError(f"fields: a material has no field '{name}'", hint)
    if len(set(fields.values())) < len(fields):
        raise UserError("fields: two fields have the same label", "give each its own name")
    return list(fields)


def _ids(rester: SummaryRester, request: dict[str, Any]) -> list[str]:
    order = "material_id"  # without one, pages may overlap and leave gaps
    return sorted(_by_id(rester.search(**request, fields=["material_id"], all_fields=False, _sort_fields=order)))


def _documents(rester: SummaryRester, ids: list[str], fields: list[str], deprecated: bool) -> dict[str, Any]:
    return _by_id(rester.search(material_ids=ids, deprecated=deprecated, fields=fields, all_fields=False))


def _by_id(found: Sequence[Any]) -> dict[str, Any]:
    """Documents by their id. If one came twice, another one is missing from its page."""
    documents = {str(document["material_id"]): document for document in found}
    if len(documents) < len(found):
        raise Incomplete(f"{len(found) - len(documents):,} documents came twice")
    return documents


def _record(name: str, document: Mapping[str, Any] | None, fields: Mapping[str, str]) -> Record:
    if document is None:
        return Record(name, "broken", "found by the query, but the server did not send it", {})
    structure = {k: v for k, v in (document.get("structure") or {}).items() if k != "properties"}
    return Record(name, "json", structure, {label: _inward(document, name) for name, label in fields.items()})


def _inward(document: Any, field: str) -> Any:
    for part in field.split("."):
        document = document.get(part) if isinstance(document, dict) else None
    return document
