"""Data folders: crystals from any source, checked one by one, to train, val and test tables and a manifest.

    train.csv.gz val.csv.gz test.csv.gz   material_id, pretty_formula, labels, cif; an empty cell is no label
    rejected.csv                          id, reason, detail of every crystal that is not in a table
    manifest.json                         where it is from, counts, statistics, hashes

Rows wait in a file between the two passes (examine; split and write), so a long source needs little memory.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
import statistics
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chemeleon_cli.core.cif import cif_text
from chemeleon_cli.core.limits import MAX_ANGLE, MIN_ANGLE, MIN_DISTANCE, MIN_VOLUME
from chemeleon_cli.core.paths import SPLITS
from chemeleon_cli.errors import UserError, did_you_mean
from chemeleon_cli.sources.files import csv_lines, structure_of, write_lines
from chemeleon_cli.sources.parallel import ordered_map
from chemeleon_cli.sources.records import ID_COLUMNS, Record, is_empty, number

if TYPE_CHECKING:
    from pymatgen.core import Structure

RESERVED = ("material_id", "pretty_formula", "cif")
REASONS = {
    "duplicate": "its id and its crystal were there before",
    "too_many_atoms": "its primitive cell has more than max_atoms atoms",
    "cell": f"an angle outside {MIN_ANGLE:g} to {MAX_ANGLE:g} degrees",
    "volume": f"less than {MIN_VOLUME:g} Å^3 per atom",
    "distance": f"two atoms closer than {MIN_DISTANCE:g} Å",
}
"""Reasons to reject a crystal that was read, besides those of `files.REASONS`."""


@dataclass(frozen=True)
class Examined:
    """One crystal of the source after its checks.

    Attributes:
        id: its name in the source.
        split: the source's own split, or "".
        reason: `code: detail` of a rejected one.
        formula: reduced.
        elements: symbols in it.
        size: atoms in its cell.
        cif: its text, without an id; "" of a rejected one.
        labels: the row's numbers by column, None where the cell is empty.
        words: columns in which the row has something else than a number.
    """

    id: str
    split: str
    reason: str | None
    formula: str = ""
    elements: tuple[str, ...] = ()
    size: int = 0
    cif: str = ""
    labels: dict[str, float | None] = field(default_factory=dict)
    words: tuple[str, ...] = ()


def examine(item: tuple[str, Record], max_atoms: int | None) -> Examined:
    """Parse and check one (split, record); whatever is wrong becomes its reason."""
    split, record = item
    structure, reason = structure_of(record)
    if structure is not None:
        structure, reason = _checked(structure, max_atoms)
    if structure is None:
        return Examined(record.id, split, reason)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # formulas of noble gases: pymatgen knows no electronegativity to sort by
        formula, cif = structure.composition.reduced_formula, cif_text(structure, "")
    cells = {k.strip(): v for k, v in record.fields.items()}
    numbers = {k: number(v) for k, v in cells.items()}
    labels = {k: v for k, v in numbers.items() if v is not None or is_empty(cells[k])}
    return Examined(
        record.id,
        split,
        None,
        formula,
        tuple(sorted({site.specie.symbol for site in structure})),
        len(structure),
        cif,
        labels,
        tuple(k for k in cells if k not in labels),
    )


def _checked(structure: Structure, max_atoms: int | None) -> tuple[Structure | None, str | None]:
    """The structure, as a primitive cell where it is larger than `max_atoms`, or the reason to reject it."""
    angles = structure.lattice.angles
    if not (min(angles) >= MIN_ANGLE and max(angles) <= MAX_ANGLE):
        return None, f"cell: angles {', '.join(f'{a:.1f}' for a in angles)}"
    volume = abs(structure.volume) / len(structure)
    if not volume >= MIN_VOLUME:
        return None, f"volume: {volume:.2f} Å^3 per atom"
    if max_atoms is not None and len(structure) > max_atoms:
        primitive = _primitive(structure)
        if primitive is None or len(primitive) > max_atoms:
            return None, f"too_many_atoms: {len(primitive or structure)}"
        structure = primitive
    distances = structure.get_neighbor_list(MIN_DISTANCE, exclude_self=True)[3]
    if len(distances):
        return None, f"distance: {min(distances):.3f} Å"
    return structure, None


def _primitive(structure: Structure) -> Structure | None:
    import spglib
    from pymatgen.core import Lattice, Structure

    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    found = spglib.standardize_cell(cell, to_primitive=True, no_idealize=True, symprec=0.01)  # type: ignore[arg-type]
    return None if found is None else Structure(Lattice(found[0]), found[2], found[1])  # type: ignore[arg-type]


@dataclass
class Gathered:
    """What the first pass learns; the crystals themselves wait in a file.

    Attributes:
        read: crystals in the source.
        rows: (id, reduced formula, size, split) of every accepted crystal.
        rejected: (id, code, detail).
        labels: every column with numbers: one per accepted crystal, None where empty.
        words: (count, first id) of columns with something else than numbers.
        elements: crystals that hold each element.
        renamed: ids that had to be made unique.
    """

    read: int = 0
    rows: list[tuple[str, str, int, str]] = field(default_factory=list)
    rejected: list[tuple[str, str, str]] = field(default_factory=list)
    labels: dict[str, list[float | None]] = field(default_factory=dict)
    words: dict[str, tuple[int, str]] = field(default_factory=dict)
    elements: Counter[str] = field(default_factory=Counter)
    renamed: int = 0


def gather(items: Iterable[tuple[str, Record]], max_atoms: int | None, waiting: Path) -> Iterator[Gathered]:
    """Examine everything and put the CIFs of accepted crystals into a file, in order.

    Two rows with one id are one crystal if their crystals are the same (the second is rejected), else
    the second becomes `id-2`.

    Yields:
        The same growing result after every crystal, for progress; the last is complete.
    """
    result = Gathered()
    seen: dict[str, str] = {}
    yield result
    with waiting.open("w", encoding="utf-8") as file:
        for crystal in ordered_map(functools.partial(examine, max_atoms=max_atoms), items):
            result.read += 1
            _take(crystal, result, seen, file.write)
            yield result


def _take(crystal: Examined, result: Gathered, seen: dict[str, str], write: Any) -> None:
    if crystal.reason is not None:
        code, _, detail = crystal.reason.partition(": ")
        result.rejected.append((crystal.id, code, detail))
        return
    digest = hashlib.sha256(crystal.cif.encode()).hexdigest()[:24]
    name = crystal.id
    if seen.get(name) == digest:
        result.rejected.append((name, "duplicate", "same id, same crystal"))
        return
    n = 2
    while name in seen:
        name, n = f"{crystal.id}-{n}", n + 1
    result.renamed += name != crystal.id
    seen[name] = digest
    for column in crystal.labels:  # in the order of the source; a set would have another in every process
        result.labels.setdefault(column, [None] * len(result.rows))
    for column, values in result.labels.items():
        values.append(crystal.labels.get(column))
    for column in crystal.words:
        count, first = result.words.get(column, (0, crystal.id))
        result.words[column] = (count + 1, first)
    result.rows.append((name, crystal.formula, crystal.size, crystal.split))
    result.elements.update(crystal.elements)
    write(json.dumps(crystal.cif) + "\n")


def choose_labels(
    gathered: Gathered, wanted: Mapping[str, str]
) -> tuple[dict[str, list[float | None]], dict[str, str]]:
    """The labels by name, and why every other column with numbers is none.

    Args:
        gathered: complete.
        wanted: column: name; empty takes every column that holds numbers and nothing else.

    Raises:
        UserError: a wanted column is not there, or two would have one name.
    """
    columns = sorted({*gathered.labels, *gathered.words})
    for column in wanted:
        if column not in columns:
            hint = did_you_mean(column, columns, "") or f"found {', '.join(columns[:12]) or 'none'}"
            raise UserError(f"labels: the source has no column '{column}'", hint)
    twice = [n for n, count in Counter(wanted.values()).items() if count > 1 or n in RESERVED or not n.strip()]
    if twice:
        raise UserError(f"labels: '{twice[0]}' is given twice or is a column of every table", "take another name")
    empty: list[float | None] = [None] * len(gathered.rows)
    if wanted:
        return {name: gathered.labels.get(column, empty) for column, name in wanted.items()}, {}
    labels, left_out = {}, {}
    for column, values in gathered.labels.items():
        if column in RESERVED or column in ID_COLUMNS or not column or column.startswith("Unnamed"):
            left_out[column] = "names or counts rows"
        elif column in gathered.words:
            count, first = gathered.words[column]
            left_out[column] = f"not a number in {count} rows, the first {first}"
        elif all(v is None for v in values):
            left_out[column] = "empty"
        else:
            labels[column] = values
    return labels, {k: v for k, v in left_out.items() if any(x is not None for x in gathered.labels[k])}


def assign(groups: Sequence[str], fractions: Sequence[float], seed: int) -> list[str]:
    """A split for every row such that rows of one group stay together.

    Groups are drawn at random for val and test until these have their share, the rest is train. Depends on
    the names of the groups and the seed, not on the order of rows.

    Args:
        groups: the group of each row (its reduced formula, or its own id).
        fractions: of train, val and test. One above 0 gets at least one group where there are three.
        seed: of the draw.
    """
    counts = Counter(groups)
    order = sorted(counts)
    random.Random(seed).shuffle(order)
    room = {s: round(f * len(groups)) for s, f in zip(SPLITS[1:], fractions[1:], strict=True)}
    room = {s: max(n, 1) for (s, n), f in zip(room.items(), fractions[1:], strict=True) if f > 0}
    chosen: dict[str, str] = {}
    for group in order:
        split = next((s for s in room if counts[group] <= room[s]), "train")
        if split != "train":
            room[split] -= counts[group]
        chosen[group] = split
    for split in ("train", *room):  # with few groups one may have got none: the others give, the largest first
        have = Counter(chosen.values())
        if not have[split] and (giver := max(SPLITS[::-1], key=lambda s: have[s])) and have[giver] > (split != "train"):
            chosen[min((g for g in order if chosen[g] == giver), key=lambda g: counts[g])] = split
    return [chosen[group] for group in groups]


def write_tables(
    folder: Path,
    gathered: Gathered,
    labels: Mapping[str, Sequence[float | None]],
    splits: Sequence[str],
    waiting: Path,
) -> dict[str, dict[str, Any]]:
    """The tables and rejected.csv; returns rows and sha256 by file name."""
    files: dict[str, dict[str, Any]] = {}

    def rows(split: str) -> Iterator[list[Any]]:
        with waiting.open(encoding="utf-8") as cifs:
            for i, (line, row) in enumerate(zip(cifs, gathered.rows, strict=True)):
                if splits[i] == split:
                    yield [row[0], row[1], *(values[i] for values in labels.values()), json.loads(line)]

    for split in SPLITS:
        if split in splits:
            path = folder / f"{split}.csv.gz"
            write_lines(path, csv_lines([*RESERVED[:2], *labels, RESERVED[2]], rows(split)))
            files[path.name] = {"rows": splits.count(split)}
    write_lines(folder / "rejected.csv", csv_lines(["id", "reason", "detail"], gathered.rejected))
    files["rejected.csv"] = {"rows": len(gathered.rejected)}
    for name, entry in files.items():
        with (folder / name).open("rb") as file:
            entry["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return files


def facts(
    gathered: Gathered,
    labels: Mapping[str, Sequence[float | None]],
    splits: Sequence[str],
) -> dict[str, Any]:
    """Counts, label statistics and histograms, as the manifest has them."""
    sizes = Counter(row[2] for row in gathered.rows)
    homes: dict[str, set[str]] = {}
    for row, split in zip(gathered.rows, splits, strict=True):
        homes.setdefault(row[1], set()).add(split)
    return {
        "counts": {
            "read": gathered.read,
            "rejected": len(gathered.rejected),
            "accepted": len(gathered.rows),
            **{s: splits.count(s) for s in SPLITS},
        },
        "rejected": dict(sorted(Counter(code for _, code, _ in gathered.rejected).items())),
        "renamed_ids": gathered.renamed,
        "labels": {
            name: {
                **describe(values),
                "splits": {
                    s: describe([v for v, t in zip(values, splits, strict=True) if t == s])
                    for s in SPLITS
                    if s in splits
                },
            }
            for name, values in labels.items()
        },
        "sizes": {str(n): sizes[n] for n in sorted(sizes)},
        "elements": dict(sorted(gathered.elements.items())),
        "formulas": len(homes),
        "formulas_in_several_splits": sum(len(found) > 1 for found in homes.values()),
    }


def describe(values: Sequence[float | None]) -> dict[str, float | int | None]:
    """Statistics of a label over crystals, those without it left out; `std` is of the population."""
    known = [v for v in values if v is not None]
    mean = statistics.fmean(known) if known else None
    return {
        "count": len(known),
        "share_present": len(known) / len(values) if values else 0.0,
        "mean": mean,
        "std": statistics.pstdev(known, mean) if known else None,
        "min": min(known, default=None),
        "max": max(known, default=None),
    }
