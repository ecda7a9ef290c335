"""Writes data folders: train, val and test tables and a manifest, from crystals that are checked one by one.

    train.csv.gz val.csv.gz test.csv.gz   material_id, pretty_formula, labels, cif; an empty cell is a missing label
    rejected.csv                          id, reason and detail of every crystal that is not in a table
    manifest.json                         source, counts, statistics, hashes

Between the two passes (check; split and write), rows are kept in a file, so a long source needs little memory.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import random
import re
import shlex
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chemeleon_cli.core.paths import SPLITS, file_sha256
from chemeleon_cli.errors import UserError, did_you_mean
from chemeleon_cli.sources.examine import Examined, examine
from chemeleon_cli.sources.formats.csv import csv_lines
from chemeleon_cli.sources.parallel import ordered_map
from chemeleon_cli.sources.records import ID_COLUMNS, LARGEST, Record, is_row_count
from chemeleon_cli.sources.streams import write_lines

RESERVED = ("material_id", "pretty_formula", "cif")
TEXT = "text, such as "
"""The start of the reason why a column without any number cannot be a label."""
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_WITH_COMMA = re.compile(r"[-+]?\d+(,\d+)+(\.\d*)?([eE][-+]?\d+)?")
_WITH_UNIT = re.compile(rf"(?>{_NUMBER.pattern})\s*([^\d\s.,;:+_-][^;:]*)")
_PLAIN_YAML = re.compile(r"[^\W\d][\w .()/^*-]*")
"""Text that YAML reads as a string without quotes."""


@dataclass
class Words:
    """The cells of a column that are not numbers.

    Attributes:
        count: their number.
        first: the id of the first crystal with such a cell.
        example: the text of this cell.
    """

    count: int
    first: str
    example: str


@dataclass
class Gathered:
    """The results of the first pass; accepted and rejected crystals themselves are kept in files.

    Attributes:
        read: number of crystals in the source.
        rows: (id, reduced formula, size, split) of every accepted crystal.
        rejected: number of rejected crystals by code.
        first_rejected: `id: code: detail` of the first one.
        labels: the values of every column with numbers, one per accepted crystal, None for an empty cell.
        words: the cells that are not numbers, of every column that has some.
        elements: number of crystals that contain each element.
        renamed: number of ids that had to be made unique.
    """

    read: int = 0
    rows: list[tuple[str, str, int, str]] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    first_rejected: str = ""
    labels: dict[str, list[float | None]] = field(default_factory=dict)
    words: dict[str, Words] = field(default_factory=dict)
    elements: Counter[str] = field(default_factory=Counter)
    renamed: int = 0

    def has_number(self, column: str) -> bool:
        """Whether any crystal has a number in this column."""
        return any(value is not None for value in self.labels.get(column, ()))

    def not_numbers(self, column: str) -> str:
        """The first cell of a column that is not a number, how many there are, and a hint; "" if there is none."""
        words = self.words.get(column)
        if words is None:
            return ""
        rows = "row" if words.count == 1 else "rows"
        what = f"no number in {words.count:,} {rows}, the first {words.example!r} of {words.first}"
        return f"{what}; {hint}" if (hint := what_makes_numbers(column, words.example)) else what


class _Names:
    """The ids that are in use, and the crystals that have been read."""

    def __init__(self) -> None:
        self.crystals: set[bytes] = set()
        self.counts: dict[str, int] = {}

    def is_copy(self, crystal: Examined) -> bool:
        """Whether the same crystal with the same id was read before."""
        digest = hashlib.sha256(f"{crystal.id}\0{crystal.cif}".encode()).digest()[:16]
        known = digest in self.crystals
        self.crystals.add(digest)
        return known

    def unique(self, name: str) -> str:
        """The name, or `name-2` and so on if it is in use."""
        result = name
        while result in self.counts:  # the source may have a `name-2` of its own
            self.counts[name] += 1
            result = f"{name}-{self.counts[name]}"
        self.counts[result] = 1
        return result


def gather(
    items: Iterable[tuple[str, Record]], max_atoms: int | None, waiting: Path, rejected: Path
) -> Iterator[Gathered]:
    """Check every crystal. The CIFs of accepted crystals are written to one file, in order, the others to another.

    If two rows have the same id, the second is rejected if its crystal is the same, and otherwise renamed to `id-2`.

    Args:
        items: (split, record) of every crystal.
        max_atoms: largest number of atoms in the primitive cell.
        waiting: the file for accepted crystals, a JSON string per line.
        rejected: the table of the others.

    Yields:
        The same growing result after every crystal, for progress; the last is complete.
    """
    result, names = Gathered(), _Names()
    yield result
    with waiting.open("w", encoding="utf-8") as file, rejected.open("w", encoding="utf-8", newline="") as refused:
        table = csv.writer(refused, lineterminator="\n")
        table.writerow(["id", "reason", "detail"])
        for crystal in ordered_map(functools.partial(examine, max_atoms=max_atoms), items):
            result.read += 1
            reason = crystal.reason
            if reason is None and names.is_copy(crystal):
                reason = "duplicate: same id, same crystal"
            if reason is None:
                _take(crystal, result, names.unique(crystal.id))
                file.write(json.dumps(crystal.cif) + "\n")
            else:
                code, _, detail = reason.partition(": ")
                table.writerow([crystal.id, code, detail])
                result.rejected[code] += 1
                result.first_rejected = result.first_rejected or f"{crystal.id}: {reason}"
            yield result


def _take(crystal: Examined, result: Gathered, name: str) -> None:
    """Add an accepted crystal to the result."""
    result.renamed += name != crystal.id
    for column in crystal.labels:  # in the order of the source; that of a set would differ between processes
        result.labels.setdefault(column, [None] * len(result.rows))
    for column, values in result.labels.items():
        values.append(crystal.labels.get(column))
    for column, text in crystal.words.items():
        words = result.words.setdefault(column, Words(0, crystal.id, text))
        words.count += 1
    result.rows.append((name, crystal.formula, crystal.size, crystal.split))
    result.elements.update(crystal.elements)


def what_makes_numbers(column: str, text: str) -> str:
    """How to turn a text that looks like a number into a label; "" for other texts."""
    if _NUMBER.fullmatch(text):
        return f"numbers beyond {LARGEST:g} cannot be labels"
    if _WITH_COMMA.fullmatch(text):
        return "write numbers with a decimal point and without separators: 1.5, not 1,5; 1000, not 1,000"
    with_unit = _WITH_UNIT.fullmatch(text)
    if with_unit is None:
        return ""
    name, unit = (key if _PLAIN_YAML.fullmatch(key) else json.dumps(key) for key in (column, with_unit[1]))
    return f"if the unit is {with_unit[1]}: --set {shlex.quote(f'units={{{name}: {unit}}}')}"


def choose_labels(
    gathered: Gathered, wanted: Mapping[str, str], units: Iterable[str] = ()
) -> tuple[dict[str, list[float | None]], dict[str, str]]:
    """The labels by name, and for every other column the reason why it is not a label.

    Args:
        gathered: the complete results of the first pass.
        wanted: the name of the label of each column; empty: every column that contains only numbers.
        units: further columns that must exist.

    Raises:
        UserError: a named column does not exist or contains no number, or two labels would have the same name.
    """
    columns = sorted({*gathered.labels, *gathered.words})
    for setting, names in (("labels", wanted), ("units", units)):
        for column in names:
            if column not in columns:
                hint = did_you_mean(column, columns, "") or f"found {', '.join(columns[:12]) or 'none'}"
                raise UserError(f"{setting}: the source has no column '{column}'", hint)
    for column in wanted:
        if not gathered.has_number(column):
            hint = gathered.not_numbers(column) or "it is empty"
            raise UserError(f"labels: column '{column}' contains no number", hint)
    twice = [n for n, count in Counter(wanted.values()).items() if count > 1 or n in RESERVED or not n.strip()]
    if twice:
        raise UserError(f"labels: '{twice[0]}' is given twice or is a column of every table", "use another name")
    if wanted:
        return {name: gathered.labels[column] for column, name in wanted.items()}, {}
    labels, left_out = {}, {}
    for column in (*gathered.labels, *(column for column in gathered.words if column not in gathered.labels)):
        if column in RESERVED or column in ID_COLUMNS or is_row_count(column):
            if gathered.has_number(column):
                left_out[column] = "contains ids or row numbers"
        elif column in gathered.words:
            why, example = gathered.not_numbers(column), gathered.words[column].example
            is_text = not gathered.has_number(column) and not what_makes_numbers(column, example)
            left_out[column] = f"{TEXT}{example!r}" if is_text else why
        elif gathered.has_number(column):
            labels[column] = gathered.labels[column]
    return labels, left_out


def constant(known: Mapping[str, Any]) -> bool:
    """Whether a label, by its statistics, is the same number for all of several crystals."""
    return known["count"] > 1 and known["min"] == known["max"]


def assign(groups: Sequence[str], fractions: Sequence[float], seed: int) -> list[str]:
    """A split for every row; rows of the same group are in the same split.

    Groups are assigned at random to val and test until these are full; the rest is train. The result depends on the
    names of the groups and on the seed, not on the order of the rows.

    Args:
        groups: the group of each row (its reduced formula, or its own id).
        fractions: of train, val and test. A fraction above 0 gets at least one group if there are three groups.
        seed: the seed of the random order.
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
    for split in ("train", *room):  # with few groups, a split can be empty: it gets one from the largest other split
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
    """Write the tables next to rejected.csv; returns the rows and the sha256 of each file by its name."""
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
    files["rejected.csv"] = {"rows": gathered.rejected.total()}
    for name, entry in files.items():
        entry["sha256"] = file_sha256(folder / name)
    return files


def facts(
    gathered: Gathered,
    labels: Mapping[str, Sequence[float | None]],
    splits: Sequence[str],
) -> dict[str, Any]:
    """The counts, label statistics and histograms of the manifest."""
    sizes = Counter(row[2] for row in gathered.rows)
    homes: dict[str, set[str]] = {}
    for row, split in zip(gathered.rows, splits, strict=True):
        homes.setdefault(row[1], set()).add(split)
    return {
        "counts": {
            "read": gathered.read,
            "rejected": gathered.rejected.total(),
            "accepted": len(gathered.rows),
            **{s: splits.count(s) for s in SPLITS},
        },
        "rejected": dict(sorted(gathered.rejected.items())),
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
    """Statistics of a label over the crystals that have it; `std` is the population standard deviation."""
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
